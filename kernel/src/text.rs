//! Text of bounded length, written without allocating.

use core::fmt;

/// One line of text of at most `N` bytes. Line breaks become spaces. Text that does not fit is
/// dropped, at the boundary of a character.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    /// The first `length` bytes are valid UTF-8.
    length: usize,
}

impl<const N: usize> Line<N> {
    /// Formats `value`.
    pub fn of(value: &dyn fmt::Display) -> Self {
        let mut line = Self {
            bytes: [0; N],
            length: 0,
        };
        // An error means that the line is full: the rest is dropped.
        let _ = fmt::write(&mut line, format_args!("{value}"));
        line
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // `write_str` adds whole characters only, so that the bytes are valid.
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = if character == '\n' { ' ' } else { character };
            let Some(slot) = self.bytes[self.length..].get_mut(..character.len_utf8()) else {
                return Err(fmt::Error);
            };
            self.length += character.encode_utf8(slot).len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn line_breaks_become_spaces() {
        assert_eq!(Line::<16>::of(&"left\nright").as_str(), "left right");
    }

    #[test]
    fn text_that_does_not_fit_is_dropped_at_a_character() {
        assert_eq!(Line::<4>::of(&"abcé").as_str(), "abc");
    }
}
