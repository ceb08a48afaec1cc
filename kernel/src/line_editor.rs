//! Lines that a user types: editing, history and completion.
//!
//! | keys | effect |
//! |---|---|
//! | ←, →, Home, End; Ctrl-B, -F, -A, -E | move the cursor |
//! | Backspace, Delete | delete the character before or at the cursor |
//! | Ctrl-W, Ctrl-U, Ctrl-K | delete the word before, all before, all from the cursor |
//! | ↑, ↓; Ctrl-P, Ctrl-N | the lines before this one |
//! | Tab | completes a word, or lists how it can go on |
//! | Ctrl-D | ends the input, if the line is empty |
//!
//! A line has at most 72 characters of ASCII, so that it stays on one line of a terminal with a
//! short prompt. Other characters are ignored. The sequences sent are those of a VT100.
//!
//! ```no_run
//! use kernel::line_editor::LineEditor;
//! use kernel::println;
//!
//! let mut editor = LineEditor::new();
//! while let Some(line) = editor.read_line("> ", &|_, visit| visit("hello")) {
//!     println!("{line}");
//! }
//! ```

use core::fmt::{self, Write};

use kernel_protocol::record::{END_OF_INPUT, Record};

use crate::{print, serial};

/// The largest number of characters in a line.
const MAX_LENGTH: usize = 72;
/// The number of lines in the history.
const HISTORY: usize = 16;

/// Reads lines from the serial port, with the keys in the [documentation of the
/// module](self#lines-that-a-user-types-editing-history-and-completion).
///
/// Allocates no memory. Has a size of about 1.3 KiB.
pub struct LineEditor {
    line: Line,
    /// The number of characters before the cursor.
    cursor: usize,
    history: History,
    keys: KeyReader,
}

/// Calls its second argument with each word that can follow the text in the first.
///
/// The text is that before the word at the cursor: `""` for the first word of a line, and `"load "`
/// if the user has typed `load ke`. The editor takes those words that begin as the typed one.
pub type Complete<'a> = dyn Fn(&str, &mut dyn FnMut(&str)) + 'a;

/// What a byte of input led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The line has not ended.
    Reading,
    /// The line has ended.
    Line,
    /// The input has ended.
    EndOfInput,
}

impl Default for LineEditor {
    fn default() -> Self {
        Self::new()
    }
}

impl LineEditor {
    /// Returns an editor with an empty history.
    pub const fn new() -> Self {
        Self {
            line: Line::EMPTY,
            cursor: 0,
            history: History::new(),
            keys: KeyReader::Start,
        }
    }

    /// Prints `prompt`, and reads a line. Returns `None` at the end of the input.
    ///
    /// Waits for the user in a loop, with interrupts as they are. `prompt` does not begin with `@`,
    /// which would begin a [record](kernel_protocol::record) for the host.
    pub fn read_line(&mut self, prompt: &str, complete: &Complete<'_>) -> Option<&str> {
        self.start();
        serial::print_record(Record::Input);
        print!("{prompt}");
        loop {
            let byte = serial::read_byte();
            match self.push(byte, prompt, complete, &mut Printer) {
                Outcome::Reading => {}
                Outcome::Line => return Some(self.line.as_str()),
                Outcome::EndOfInput => return None,
            }
        }
    }

    /// Begins an empty line, below those of the history.
    fn start(&mut self) {
        self.line = Line::EMPTY;
        self.cursor = 0;
        self.history.selected = 0;
    }

    /// Takes a byte of input, and writes to `out` what changes on the terminal.
    fn push(
        &mut self,
        byte: u8,
        prompt: &str,
        complete: &Complete<'_>,
        out: &mut dyn Write,
    ) -> Outcome {
        let Some(key) = self.keys.push(byte) else {
            return Outcome::Reading;
        };
        let end = self.line.length;
        // An error cannot come from the terminal.
        let _ = match key {
            Key::Enter => {
                self.history.add(&self.line);
                let _ = out.write_str("\n");
                return Outcome::Line;
            }
            Key::EndOfInput if end == 0 => {
                let _ = out.write_str("\n");
                return Outcome::EndOfInput;
            }
            Key::Character(character) if self.cursor == end && end < MAX_LENGTH => {
                self.insert(character);
                out.write_char(character.into())
            }
            Key::Tab => self.complete(prompt, complete, out),
            _ => {
                self.edit(key);
                self.redraw(prompt, out)
            }
        };
        Outcome::Reading
    }

    /// Changes the line, or moves the cursor.
    fn edit(&mut self, key: Key) {
        let end = self.line.length;
        match key {
            Key::Character(character) => self.insert(character),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(end),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = end,
            Key::Backspace => self.delete(self.cursor.saturating_sub(1), self.cursor),
            Key::Delete => self.delete(self.cursor, (self.cursor + 1).min(end)),
            Key::DeleteToStart => self.delete(0, self.cursor),
            Key::DeleteToEnd => self.delete(self.cursor, end),
            Key::DeleteWord => {
                let before = self.line.as_str()[..self.cursor].trim_end();
                self.delete(before.rfind(' ').map_or(0, |space| space + 1), self.cursor);
            }
            Key::Up => self.select(self.history.selected + 1),
            Key::Down => self.select(self.history.selected.saturating_sub(1)),
            Key::Enter | Key::Tab | Key::EndOfInput => {}
        }
    }

    /// Inserts a character at the cursor. A full line stays as it is.
    fn insert(&mut self, character: u8) {
        let Line { bytes, length } = &mut self.line;
        if *length < MAX_LENGTH {
            bytes.copy_within(self.cursor..*length, self.cursor + 1);
            bytes[self.cursor] = character;
            *length += 1;
            self.cursor += 1;
        }
    }

    /// Deletes the characters from `from` to before `to`, and moves the cursor there.
    fn delete(&mut self, from: usize, to: usize) {
        let Line { bytes, length } = &mut self.line;
        bytes.copy_within(to..*length, from);
        *length -= to - from;
        self.cursor = from;
    }

    /// Shows a line of the history: 1 is the last one, and 0 the new one.
    fn select(&mut self, index: usize) {
        if self.history.selected == 0 {
            self.history.new = self.line;
        }
        if let Some(line) = self.history.get(index) {
            self.line = line;
            self.cursor = line.length;
            self.history.selected = index;
        }
    }

    /// Completes the word before the cursor as far as it is certain. If it is not, lists all words.
    fn complete(
        &mut self,
        prompt: &str,
        complete: &Complete<'_>,
        out: &mut dyn Write,
    ) -> fmt::Result {
        let line = self.line;
        let typed = &line.as_str()[..self.cursor];
        let (before, prefix) = typed.split_at(typed.rfind(' ').map_or(0, |space| space + 1));
        let mut count = 0;
        // What all words have in common after the typed part.
        let mut common = Line::EMPTY;
        complete(before, &mut |word| {
            let Some(rest) = word.strip_prefix(prefix) else {
                return;
            };
            if count == 0 {
                common = Line::of(rest);
            }
            let equal = rest.bytes().zip(common.as_str().bytes());
            common.length = equal.take_while(|(left, right)| left == right).count();
            count += 1;
        });
        if count > 1 && common.length == 0 {
            out.write_str("\n")?;
            complete(before, &mut |word| {
                if word.starts_with(prefix) {
                    let _ = write!(out, "  {word}");
                }
            });
            out.write_str("\n")?;
        }
        for character in common.as_str().bytes() {
            self.insert(character);
        }
        if count == 1 && self.cursor == self.line.length {
            self.insert(b' ');
        }
        self.redraw(prompt, out)
    }

    /// Writes the prompt and the line over what the terminal shows of them.
    fn redraw(&self, prompt: &str, out: &mut dyn Write) -> fmt::Result {
        write!(out, "\r{prompt}{}\x1b[K", self.line.as_str())?;
        (self.cursor..self.line.length).try_for_each(|_| out.write_char('\x08'))
    }
}

/// Writes to the serial port and the screen.
struct Printer;

impl Write for Printer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print!("{text}");
        Ok(())
    }
}

/// Printable characters of ASCII.
#[derive(Clone, Copy)]
struct Line {
    bytes: [u8; MAX_LENGTH],
    length: usize,
}

impl Line {
    const EMPTY: Self = Self {
        bytes: [0; MAX_LENGTH],
        length: 0,
    };

    /// Returns the first characters of `text` that are printable ASCII, as many as fit.
    fn of(text: &str) -> Self {
        let mut line = Self::EMPTY;
        for (slot, byte) in line.bytes.iter_mut().zip(text.bytes()) {
            if !is_printable(byte) {
                break;
            }
            *slot = byte;
            line.length += 1;
        }
        line
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

fn is_printable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

/// The last lines.
struct History {
    /// The last line is the first, and the number of lines is `length`.
    lines: [Line; HISTORY],
    length: usize,
    /// The line that is shown: 0 for a new one, 1 for the last one.
    selected: usize,
    /// The new line, while another one is shown.
    new: Line,
}

impl History {
    const fn new() -> Self {
        Self {
            lines: [Line::EMPTY; HISTORY],
            length: 0,
            selected: 0,
            new: Line::EMPTY,
        }
    }

    /// Adds a line, unless it is blank or was the last one too.
    fn add(&mut self, line: &Line) {
        let text = line.as_str();
        let is_last = self.length > 0 && self.lines[0].as_str() == text;
        if !is_last && !text.trim().is_empty() {
            self.lines.copy_within(..HISTORY - 1, 1);
            self.lines[0] = *line;
            self.length = (self.length + 1).min(HISTORY);
        }
    }

    /// Returns a line: 1 is the last one, and 0 the new one.
    fn get(&self, index: usize) -> Option<Line> {
        match index.checked_sub(1) {
            None => Some(self.new),
            Some(index) => self.lines[..self.length].get(index).copied(),
        }
    }
}

/// A key, or a combination of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Character(u8),
    Enter,
    Tab,
    EndOfInput,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    Backspace,
    Delete,
    DeleteWord,
    DeleteToStart,
    DeleteToEnd,
}

/// How much of a key's bytes has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyReader {
    Start,
    /// After a carriage return, which a line feed may follow.
    CarriageReturn,
    /// After `ESC`.
    Escape,
    /// After `ESC [` or `ESC O`, with the first number so far.
    Sequence(u8),
    /// After the first number: others tell of modifiers.
    Modifiers(u8),
    /// Before a last byte without meaning.
    Ignored,
}

impl KeyReader {
    /// Takes a byte. Returns the key that it completes.
    fn push(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::replace(self, Self::Start);
        match (state, byte) {
            (Self::CarriageReturn, b'\n') => return None,
            // A control character begins anew: the end of a line is one in any case.
            (Self::Start | Self::CarriageReturn, _) | (_, ..b' ' | 0x7f) => {
                return self.start(byte);
            }
            (Self::Escape, b'[' | b'O') => *self = Self::Sequence(0),
            // `ESC [ [ A` is a function key of Linux.
            (Self::Sequence(0), b'[') => *self = Self::Ignored,
            (Self::Sequence(number), b'0'..=b'9') => {
                let number = number.saturating_mul(10).saturating_add(byte - b'0');
                *self = Self::Sequence(number);
            }
            (Self::Sequence(number) | Self::Modifiers(number), b' '..=b'?') => {
                *self = Self::Modifiers(number);
            }
            (Self::Sequence(number) | Self::Modifiers(number), _) => {
                return match (byte, number) {
                    (b'A', _) => Some(Key::Up),
                    (b'B', _) => Some(Key::Down),
                    (b'C', _) => Some(Key::Right),
                    (b'D', _) => Some(Key::Left),
                    (b'H', _) | (b'~', 1 | 7) => Some(Key::Home),
                    (b'F', _) | (b'~', 4 | 8) => Some(Key::End),
                    (b'~', 3) => Some(Key::Delete),
                    _ => None,
                };
            }
            (Self::Escape | Self::Ignored, _) => {}
        }
        None
    }

    /// Takes the first byte of a key.
    fn start(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'\r' => {
                *self = Self::CarriageReturn;
                Key::Enter
            }
            0x1b => {
                *self = Self::Escape;
                return None;
            }
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            END_OF_INPUT => Key::EndOfInput,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            0x0b => Key::DeleteToEnd,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::DeleteToStart,
            0x17 => Key::DeleteWord,
            _ if is_printable(byte) => Key::Character(byte),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

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
}
