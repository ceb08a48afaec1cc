//! Numbers, quotients and bars for tables.

use core::fmt;

pub(crate) use kernel_protocol::number::Thousands as Count;

/// A number of bytes, displayed in the most readable unit.
pub(crate) struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut text = Text::default();
        const UNITS: [(usize, &str); 2] = [(1 << 30, "GiB"), (1 << 20, "MiB")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => {
                let hundredths = self.0 % unit * 100 / unit;
                write!(text, "{}.{hundredths:02} {name}", self.0 / unit)?;
            }
            None if self.0 < 1 << 10 => write!(text, "{} B", self.0)?,
            None => write!(text, "{} KiB", self.0.div_ceil(1 << 10))?,
        }
        f.pad(text.as_str())
    }
}

/// A buffer for the text of a number.
#[derive(Default)]
struct Text {
    bytes: [u8; 32],
    len: usize,
}

impl Text {
    /// Returns the text.
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// A quotient, displayed with two decimals, from 1,000 on with none. A quotient by zero is less
/// than all others, and displayed as `-`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ratio {
    hundredths: Option<usize>,
}

impl Ratio {
    /// Returns `dividend` divided by `divisor`, rounded to the nearest hundredth.
    pub(crate) fn of(dividend: usize, divisor: usize) -> Self {
        Ratio {
            hundredths: (dividend * 100 + divisor / 2).checked_div(divisor),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut text = Text::default();
        match self.hundredths {
            Some(value) if value >= 100_000 => write!(text, "{}", Count((value / 100) as u64))?,
            Some(value) => write!(text, "{}.{:02}", value / 100, value % 100)?,
            None => text.write_str("-")?,
        }
        f.pad(text.as_str())
    }
}

/// Whether a promise was kept, displayed as `ok` or `FAILED`, in colour if the terminal has it.
pub(crate) struct Kept {
    pub kept: bool,
    pub color: bool,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, code) = if self.kept {
            ("ok", 32)
        } else {
            ("FAILED", 31)
        };
        if self.color {
            write!(f, "\x1b[1;{code}m{word:<6}\x1b[0m")
        } else {
            write!(f, "{word:<6}")
        }
    }
}

/// A bar of `width` characters for the range 0 to `scale`. Each symbol fills the bar from the value
/// before to its own.
pub(crate) struct Bar {
    /// The symbols and their values, in ascending order of the values.
    pub parts: [(char, usize); 3],
    /// The value at the end of the bar.
    pub scale: usize,
    /// The number of characters.
    pub width: usize,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let position = |value: usize| (value * self.width).div_ceil(self.scale.max(1));
        for index in 0..self.width {
            let part = self.parts.iter().find(|part| index < position(part.1));
            f.write_char(part.map_or(' ', |part| part.0))?;
        }
        Ok(())
    }
}
