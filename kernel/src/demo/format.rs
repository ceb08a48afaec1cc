//! Numbers as people read them.

use core::fmt;

/// A count with a comma between thousands.
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::default();
        let digits = self.0.checked_ilog10().unwrap_or(0);
        for digit in (0..=digits).rev() {
            text.push(b'0' + (self.0 / 10_u64.pow(digit) % 10) as u8);
            if digit > 0 && digit % 3 == 0 {
                text.push(b',');
            }
        }
        f.pad(text.as_str())
    }
}

/// A number of bytes in the unit that suits it.
pub struct Bytes(pub usize);

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

/// Room for the longest of the texts above.
#[derive(Default)]
struct Text {
    bytes: [u8; 32],
    len: usize,
}

impl Text {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

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

/// A bar of `width` places for the range 0 to `scale`: `#` up to `inner`, `-` from there to `outer`.
pub struct Bar {
    /// What the first part stands for.
    pub inner: usize,
    /// What both parts stand for.
    pub outer: usize,
    /// What the whole width stands for.
    pub scale: usize,
    /// How many places it has.
    pub width: usize,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = |value: usize| {
            (value * self.width)
                .div_ceil(self.scale.max(1))
                .min(self.width)
        };
        let (inner, outer) = (places(self.inner), places(self.outer));
        for place in 0..self.width {
            f.write_str(match place {
                _ if place < inner => "#",
                _ if place < outer => "-",
                _ => " ",
            })?;
        }
        Ok(())
    }
}
