//! Text of bounded length, written without allocating.

use core::fmt;

/// One line of text, of at most `N` bytes: line breaks become spaces, and what does not fit is left
/// out.
pub struct Line<const N: usize> {
    bytes: [u8; N],
    /// Up to here `bytes` is valid UTF-8.
    length: usize,
}

impl<const N: usize> Line<N> {
    /// What `value` displays.
    pub fn of(value: &dyn fmt::Display) -> Self {
        let mut line = Self {
            bytes: [0; N],
            length: 0,
        };
        // An error says that there was no more room, which is fine.
        let _ = fmt::write(&mut line, format_args!("{value}"));
        line
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // It is valid: only whole characters are put in.
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = if character == '\n' { ' ' } else { character };
            let Some(place) = self.bytes[self.length..].get_mut(..character.len_utf8()) else {
                return Err(fmt::Error);
            };
            self.length += character.encode_utf8(place).len();
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
    fn what_does_not_fit_is_left_out_at_a_character() {
        assert_eq!(Line::<4>::of(&"abcé").as_str(), "abc");
    }
}
