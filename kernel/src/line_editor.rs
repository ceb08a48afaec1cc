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

mod history;
mod keys;

use core::fmt::{self, Write};

use kernel_protocol::record::Record;

use crate::{print, serial};
use history::{History, Line, MAX_LENGTH};
use keys::{Key, KeyReader};

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
pub enum Outcome {
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

    /// Prints `prompt`, and reads a line from the serial port. Returns `None` at the end of the
    /// input.
    ///
    /// Waits for the user in a loop, with interrupts as they are. `prompt` does not begin with `@`,
    /// which would begin a [record](kernel_protocol::record) for the host.
    pub fn read_line(&mut self, prompt: &str, complete: &Complete<'_>) -> Option<&str> {
        self.start();
        serial::print_record(Record::Input);
        print!("{prompt}");
        loop {
            match self.push(serial::read_byte(), prompt, complete, &mut Printer) {
                Outcome::Reading => {}
                Outcome::Line => return Some(self.line()),
                Outcome::EndOfInput => return None,
            }
        }
    }

    /// Begins an empty line, below those of the history.
    pub fn start(&mut self) {
        self.line = Line::EMPTY;
        self.cursor = 0;
        self.history.selected = 0;
    }

    /// Returns the line so far.
    pub fn line(&self) -> &str {
        self.line.as_str()
    }

    /// Takes a byte of input, and writes to `out` what changes on the terminal.
    ///
    /// For kernels that do something else while they wait, or that read a keyboard. Keys without a
    /// character are the sequences that a terminal sends: `b"\x1b[A"` for ↑, for instance. After a
    /// line, [`start`](Self::start) begins the next.
    ///
    /// ```
    /// use kernel::line_editor::{LineEditor, Outcome};
    ///
    /// let (mut editor, mut shown) = (LineEditor::new(), String::new());
    /// let mut outcome = Outcome::Reading;
    /// for byte in *b"ct\x1b[Da\n" {
    ///     outcome = editor.push(byte, "> ", &|_, _| {}, &mut shown);
    /// }
    /// assert_eq!((outcome, editor.line()), (Outcome::Line, "cat"));
    /// ```
    pub fn push(
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

#[cfg(test)]
mod tests;
