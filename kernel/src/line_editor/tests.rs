//! What a terminal shows after each key, and the lines that are read.

use std::string::String;
use std::vec::Vec;

use super::history::HISTORY;
use super::*;

const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";
const RIGHT: &str = "\x1bOC";
const LEFT: &str = "\x1b[D";

fn words(before: &str, visit: &mut dyn FnMut(&str)) {
    let words: &[&str] = match before {
        "" => &["stats", "slabs", "trace", "trim"],
        "trace " => &["cc", "git"],
        _ => &[],
    };
    words.iter().for_each(|word| visit(word));
}

/// A terminal of one line for each line feed.
#[derive(Default)]
struct Terminal {
    lines: Vec<Vec<u8>>,
    column: usize,
    sequence: String,
}

impl Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.lines.is_empty() {
            self.lines.push(Vec::new());
        }
        for character in text.chars() {
            let line = self.lines.last_mut().unwrap();
            match character {
                _ if !self.sequence.is_empty() || character == '\x1b' => {
                    self.sequence.push(character);
                    if self.sequence.ends_with('K') {
                        line.truncate(self.column);
                        self.sequence.clear();
                    }
                }
                '\n' => {
                    self.lines.push(Vec::new());
                    self.column = 0;
                }
                '\r' => self.column = 0,
                '\x08' => self.column -= 1,
                _ => {
                    line.resize(line.len().max(self.column + 1), b' ');
                    line[self.column] = character as u8;
                    self.column += 1;
                }
            }
        }
        Ok(())
    }
}

impl Terminal {
    /// Returns the last line, with `|` at the cursor.
    fn shown(&self) -> String {
        let mut line = self.lines.last().unwrap().clone();
        line.resize(line.len().max(self.column), b' ');
        line.insert(self.column, b'|');
        String::from_utf8(line).unwrap()
    }
}

/// Types `keys`. Returns the terminal and the last outcome.
fn type_into(editor: &mut LineEditor, keys: &str) -> (Terminal, Outcome) {
    let mut terminal = Terminal::default();
    terminal.write_str("> ").unwrap();
    let mut outcome = Outcome::Reading;
    for &byte in keys.as_bytes() {
        if outcome != Outcome::Reading {
            editor.start();
        }
        outcome = editor.push(byte, "> ", &words, &mut terminal);
    }
    (terminal, outcome)
}

/// Returns the line, with `|` at the cursor, after `keys`. The terminal must show the same.
#[track_caller]
fn edited(keys: &str) -> String {
    let mut editor = LineEditor::new();
    let (terminal, _) = type_into(&mut editor, keys);
    let mut line = String::from(editor.line.as_str());
    line.insert(editor.cursor, '|');
    let shown = terminal.shown();
    assert_eq!(
        shown.trim_start_matches('>').trim_start(),
        line.trim_start()
    );
    line
}

#[test]
fn characters_are_inserted_at_the_cursor() {
    assert_eq!(edited("stats"), "stats|");
    assert_eq!(edited(&["sats", LEFT, LEFT, LEFT, "t"].concat()), "st|ats");
    assert_eq!(
        edited(&["a", RIGHT, LEFT, LEFT, "b", RIGHT, RIGHT, "c"].concat()),
        "bac|"
    );
    assert_eq!(edited("y\x01x\x05z\x02\x02\x06w"), "xyw|z");
    assert_eq!(edited("b\x1b[Ha\x1b[Fc\x1b[1~0\x1b[4~d"), "0abcd|");
    // Keys that mean nothing, keys with modifiers, and other characters.
    assert_eq!(edited("a\x1b[5~\x1b[1;5Db\x1bx\u{e9}\x07"), "b|a");
    // Function keys of Linux, and two Escapes.
    assert_eq!(edited("ab\x1b[[A\x1b\x1b[D"), "a|b");
}

#[test]
fn characters_are_deleted() {
    assert_eq!(edited("ab\x7f\x08\x08c"), "c|");
    assert_eq!(edited("abc\x02\x7f"), "a|c");
    assert_eq!(edited("abc\x01\x1b[3~"), "|bc");
    assert_eq!(edited("abc\x1b[3~"), "abc|");
    assert_eq!(edited("abc\x01\x1b[3;5~"), "|bc");
    assert_eq!(edited("trace  git  \x17"), "trace  |");
    assert_eq!(edited("git\x17\x17"), "|");
    assert_eq!(edited("abcd\x02\x02\x15"), "|cd");
    assert_eq!(edited("abcd\x02\x02\x0b"), "ab|");
}

#[test]
fn a_full_line_takes_no_more() {
    let full = "x".repeat(MAX_LENGTH);
    assert_eq!(edited(&[&full, "y"].concat()), [&full, "|"].concat());
    assert_eq!(edited(&[&full, "\x01y"].concat()), ["|", &full].concat());
}

#[test]
fn each_kind_of_line_end_ends_one_line() {
    for end in ["\n", "\r", "\r\n"] {
        let mut editor = LineEditor::new();
        let (terminal, _) = type_into(&mut editor, &["a", end, end, "b"].concat());
        let lines: Vec<_> = terminal
            .lines
            .iter()
            .map(|line| str::from_utf8(line))
            .collect();
        assert_eq!(lines, [Ok("> a"), Ok(""), Ok("b")], "{end:?}");
        assert_eq!(editor.line.as_str(), "b");
    }
}

#[test]
fn a_line_ends_within_a_sequence_too() {
    for begun in ["\x1b", "\x1b[", "\x1b[3", "\x1b[[", "\x1b[1;"] {
        let mut editor = LineEditor::new();
        let (terminal, _) = type_into(&mut editor, &["a", begun, "\nb"].concat());
        assert_eq!(
            (terminal.lines.len(), editor.line.as_str()),
            (2, "b"),
            "{begun:?}"
        );
    }
}

#[test]
fn the_input_ends_at_an_empty_line_only() {
    let mut editor = LineEditor::new();
    assert_eq!(type_into(&mut editor, "a\x04").1, Outcome::Reading);
    assert_eq!(editor.line.as_str(), "a");
    assert_eq!(
        type_into(&mut LineEditor::new(), "\x04").1,
        Outcome::EndOfInput
    );
}

#[test]
fn lines_come_back_from_the_history() {
    let typed = "one\n\n  \ntwo\ntwo\n";
    let after = |keys: &[&str]| edited(&[&[typed], keys].concat().concat());
    assert_eq!(after(&[UP]), "two|");
    assert_eq!(after(&[UP, "\x10"]), "one|");
    assert_eq!(after(&[UP, UP, UP, "s"]), "ones|");
    assert_eq!(after(&[UP, UP, DOWN]), "two|");
    assert_eq!(after(&[UP, "\x0e", DOWN]), "|");
    assert_eq!(after(&["new", UP, UP, DOWN, DOWN]), "new|");
    assert_eq!(after(&["new", DOWN]), "new|");
    // The line that was changed is a new one.
    assert_eq!(after(&[UP, "!\n", UP, UP]), "two|");
    let many: String = (0..HISTORY + 3)
        .map(|line| std::format!("{line}\n"))
        .collect();
    assert_eq!(edited(&(many + &UP.repeat(100))), "3|");
}

#[test]
fn words_are_completed() {
    assert_eq!(edited("sl\t"), "slabs |");
    assert_eq!(edited("s\t"), "s|");
    assert_eq!(edited("t\t"), "tr|");
    assert_eq!(edited("tra\tg\t"), "trace git |");
    assert_eq!(edited("trace \t"), "trace |");
    assert_eq!(edited("x\t"), "x|");
    assert_eq!(edited("test \t"), "test |");
    // Within a line.
    assert_eq!(edited("sl x\x02\x02\t"), "slabs| x");
    let full = ["x ".repeat(MAX_LENGTH / 2 - 1), "sl".into()].concat();
    assert_eq!(edited(&[&full, "\t"].concat()), [&full, "|"].concat());
}

#[test]
fn words_are_listed_if_nothing_is_certain() {
    let (terminal, _) = type_into(&mut LineEditor::new(), "s\t");
    let line = |index: usize| str::from_utf8(&terminal.lines[index]).unwrap();
    assert_eq!([line(0), line(1)], ["> s", "  stats  slabs"]);
    assert_eq!(terminal.shown(), "> s|");
}

#[test]
fn no_list_is_shown_for_one_word_or_none() {
    for (keys, shown) in [("x\t", "> x|"), ("stats\t", "> stats |")] {
        let (terminal, _) = type_into(&mut LineEditor::new(), keys);
        assert_eq!((terminal.lines.len(), terminal.shown()), (1, shown.into()));
    }
}

#[test]
fn sequences_of_other_keys_leave_nothing_behind() {
    assert_eq!(edited("b\x1b[7~a\x1b[8~c"), "abc|");
    assert_eq!(edited("a\x1b[?25hb"), "ab|");
    // None of these numbers is 3, that of Delete, although some of their last eight bits are.
    for number in ["259", "771", "1283"] {
        let keys = ["a", LEFT, "\x1b[", number, "~"].concat();
        assert_eq!(edited(&keys), "|a", "{number}");
    }
}

#[test]
fn a_line_ends_before_what_cannot_be_printed() {
    assert_eq!(Line::of("a\tb").as_str(), "a");
    assert_eq!(Line::of("a b~\u{e9}").as_str(), "a b~");
}
