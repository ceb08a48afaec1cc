//! Numbers as people read them.

use core::fmt;

/// A number that is displayed with a comma between thousands: `1,234,567`. Width and alignment of
/// the format apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thousands(pub u64);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest number has 20 digits and 6 commas.
        let mut text = [0; 26];
        let mut start = text.len();
        let mut rest = self.0;
        for digit in 0.. {
            if digit > 0 && digit % 3 == 0 {
                start -= 1;
                text[start] = b',';
            }
            start -= 1;
            text[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        f.pad(core::str::from_utf8(&text[start..]).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::{format, string::ToString};

    use super::*;

    #[test]
    fn digits_are_in_groups_of_three() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ];
        for (number, text) in cases {
            assert_eq!(Thousands(number).to_string(), text);
        }
    }

    #[test]
    fn the_width_of_the_format_applies() {
        assert_eq!(format!("[{:>7}]", Thousands(1234)), "[  1,234]");
    }
}
