//! Lines, and those before the present one.

/// The largest number of characters in a line.
pub(super) const MAX_LENGTH: usize = 72;
/// The number of lines in the history.
pub(super) const HISTORY: usize = 16;

/// Printable characters of ASCII.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) bytes: [u8; MAX_LENGTH],
    pub(super) length: usize,
}

impl Line {
    pub(super) const EMPTY: Self = Self {
        bytes: [0; MAX_LENGTH],
        length: 0,
    };

    /// Returns the first characters of `text` that are printable ASCII, as many as fit.
    pub(super) fn of(text: &str) -> Self {
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

    pub(super) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

pub(super) fn is_printable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

/// The last lines.
pub(super) struct History {
    /// The last line is the first, and the number of lines is `length`.
    lines: [Line; HISTORY],
    length: usize,
    /// The line that is shown: 0 for a new one, 1 for the last one.
    pub(super) selected: usize,
    /// The new line, while another one is shown.
    pub(super) new: Line,
}

impl History {
    pub(super) const fn new() -> Self {
        Self {
            lines: [Line::EMPTY; HISTORY],
            length: 0,
            selected: 0,
            new: Line::EMPTY,
        }
    }

    /// Adds a line, unless it is blank or was the last one too.
    pub(super) fn add(&mut self, line: &Line) {
        let text = line.as_str();
        let is_last = self.length > 0 && self.lines[0].as_str() == text;
        if !is_last && !text.trim().is_empty() {
            self.lines.copy_within(..HISTORY - 1, 1);
            self.lines[0] = *line;
            self.length = (self.length + 1).min(HISTORY);
        }
    }

    /// Returns a line: 1 is the last one, and 0 the new one.
    pub(super) fn get(&self, index: usize) -> Option<Line> {
        match index.checked_sub(1) {
            None => Some(self.new),
            Some(index) => self.lines[..self.length].get(index).copied(),
        }
    }
}
