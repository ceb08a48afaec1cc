//! Numbers and bars for tables.

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

/// A buffer for the text of [`Bytes`].
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

/// A bar of `width` characters for the range 0 to `scale`: `#` up to `inner`, then `-` up to
/// `outer`.
pub(crate) struct Bar {
    /// The value at the end of the part with `#`.
    pub inner: usize,
    /// The value at the end of the part with `-`.
    pub outer: usize,
    /// The value at the end of the bar.
    pub scale: usize,
    /// The number of characters.
    pub width: usize,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = |value: usize| {
            (value * self.width)
                .div_ceil(self.scale.max(1))
                .min(self.width)
        };
        let (inner, outer) = (position(self.inner), position(self.outer));
        for index in 0..self.width {
            f.write_str(match index {
                _ if index < inner => "#",
                _ if index < outer => "-",
                _ => " ",
            })?;
        }
        Ok(())
    }
}
