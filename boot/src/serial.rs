//! Splits the bytes from the serial port into text and records.

use kernel_protocol::record::Record;

use crate::{failure::Failure, symbols::Symbols};

/// What the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Text: a line or a part of one.
    Text(&'a [u8]),
    /// A line that is a record.
    Record(Record<'a>),
}

/// Splits a stream of bytes into [pieces](Piece).
///
/// Before the record `@ready` the text is the firmware's. It is held for [`Splitter::before_ready`]
/// and not passed on. After that, text is passed on as it comes, so that a prompt without a line
/// break is shown. Only a line that may be a record is held until it ends. The record of a frame
/// becomes text that people can read.
#[derive(Default)]
pub(crate) struct Splitter {
    symbols: Symbols,
    /// The number of frames of the backtrace so far.
    frames: usize,
    is_ready: bool,
    is_mid_line: bool,
    /// Bytes that are held: the firmware's text, or the beginning of a record.
    held: Vec<u8>,
}

impl Splitter {
    /// Returns a splitter that looks the addresses of frames up in `symbols`.
    pub(crate) fn new(symbols: Symbols) -> Self {
        Self {
            symbols,
            ..Self::default()
        }
    }

    /// Takes the next `bytes`, and calls `take` with each piece that they complete. Stops at the
    /// first error of `take` and returns it.
    ///
    /// # Errors
    /// An error of `take`, or the panic of the bootloader, once all of its message has come. The
    /// bootloader then halts for ever.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Piece<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        bytes
            .split_inclusive(|&byte| byte == b'\n')
            .try_for_each(|part| self.push_part(part, &mut take))?;
        self.bootloader_panic().map_or(Ok(()), Err)
    }

    /// Takes a line or a part of one.
    fn push_part(
        &mut self,
        part: &[u8],
        take: &mut impl FnMut(Piece<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let ends_line = part.ends_with(b"\n");
        if !self.is_ready {
            self.held.extend(part);
            // The firmware may leave escape sequences, or half a line, before the record.
            self.is_ready = ends_line && self.held.trim_ascii_end().ends_with(b"@ready");
            if !self.is_ready {
                return Ok(());
            }
            self.held.clear();
            return take(Piece::Record(Record::Ready));
        }
        let is_record = !self.held.is_empty() || (!self.is_mid_line && part.starts_with(b"@"));
        self.is_mid_line = !ends_line;
        if !is_record {
            self.frames = 0;
            return take(Piece::Text(part));
        }
        self.held.extend(part);
        if !ends_line {
            return Ok(());
        }
        let line = std::mem::take(&mut self.held);
        let record = str::from_utf8(line.trim_ascii_end())
            .ok()
            .and_then(Record::parse);
        if let Some(Record::Frame { address, times }) = record {
            let mut text = self.symbols.frame(self.frames, address);
            if times > 1 {
                text += &format!("      and {} times more\n", times - 1);
            }
            self.frames += times;
            return take(Piece::Text(text.as_bytes()));
        }
        self.frames = 0;
        take(record.map_or(Piece::Text(&line), Piece::Record))
    }

    /// Returns whether the kernel has sent `@ready`.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns the text of the firmware and the bootloader. It is empty once the kernel is ready.
    pub(crate) fn before_ready(&self) -> String {
        if self.is_ready {
            String::new()
        } else {
            String::from_utf8_lossy(&self.held).into_owned()
        }
    }

    /// Returns the panic of the bootloader, once all of its message has come.
    fn bootloader_panic(&self) -> Option<Failure> {
        let text = self.before_ready();
        // `panicked at FILE:LINE:COLUMN:`, and the message on the next line.
        let (_, panic) = text.split_once("panicked at ")?;
        let (location, rest) = panic.split_once('\n')?;
        let (message, _) = rest.split_once('\n')?;
        let location = location.trim().trim_end_matches(':');
        let file = location.rsplit('/').next().unwrap_or(location);
        Some(Failure::BootloaderPanicked {
            reason: format!("{}, at {file}", message.trim()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that own their text, with adjacent text joined.
    #[derive(Debug, PartialEq, Eq)]
    enum Owned {
        Text(String),
        Record(String),
    }

    fn text(text: &str) -> Owned {
        Owned::Text(text.into())
    }

    fn record(line: &str) -> Owned {
        Owned::Record(line.into())
    }

    /// Returns the pieces of `parts`, pushed one after the other.
    fn split(splitter: &mut Splitter, parts: &[&[u8]]) -> Vec<Owned> {
        let mut bytes = Vec::new();
        let mut pieces: Vec<Owned> = Vec::new();
        let end_text = |bytes: &mut Vec<u8>, pieces: &mut Vec<Owned>| {
            if !bytes.is_empty() {
                let text = String::from_utf8(std::mem::take(bytes)).unwrap();
                pieces.push(Owned::Text(text));
            }
        };
        for part in parts {
            let result = splitter.push(part, |piece| {
                match piece {
                    Piece::Text(part) => bytes.extend(part),
                    Piece::Record(record) => {
                        end_text(&mut bytes, &mut pieces);
                        pieces.push(Owned::Record(record.to_string()));
                    }
                }
                Ok(())
            });
            result.unwrap();
        }
        end_text(&mut bytes, &mut pieces);
        pieces
    }

    #[test]
    fn text_before_ready_is_the_firmwares() {
        let mut splitter = Splitter::default();
        let firmware = b"\x1b[2JBdsDxe: loading\r\n@tests 4\n";
        assert_eq!(split(&mut splitter, &[firmware]), []);
        assert_eq!(splitter.before_ready().as_bytes(), firmware);
        assert_eq!(
            split(&mut splitter, &[b"\x1b[2J@ready\r\nhello\n"]),
            [record("@ready"), text("hello\n")]
        );
        assert_eq!((splitter.is_ready(), &*splitter.before_ready()), (true, ""));
    }

    #[test]
    fn a_panic_of_the_bootloader_is_found_once_it_is_complete() {
        let panic = "\x1b[2JERROR: panicked at /src/bootloader/load_kernel.rs:285:63:\r\n\
                     called `Option::unwrap()` on a `None` value\r\n";
        let mut splitter = Splitter::default();
        let (last, first) = panic.as_bytes().split_last().unwrap();
        for (index, &byte) in first.iter().enumerate() {
            let found = splitter.push(&[byte], |_| Ok(()));
            assert!(found.is_ok(), "{found:?} after {index} bytes");
        }
        let found = splitter.push(&[*last], |_| Ok(()));
        let line = found.unwrap_err().to_string();
        assert_eq!(
            line,
            "the bootloader panicked: called `Option::unwrap()` on a `None` value, at \
             load_kernel.rs:285:63; it may lack memory: try a larger --memory"
        );
        // After the record `@ready`, a panic is the kernel's.
        let mut ready = Splitter::default();
        split(&mut ready, &[b"@ready\n", panic.as_bytes()]);
        assert!(ready.push(b"\n", |_| Ok(())).is_ok());
    }

    #[test]
    fn a_prompt_is_passed_on_without_its_line_break() {
        let mut splitter = Splitter::default();
        split(&mut splitter, &[b"@ready\n"]);
        assert_eq!(split(&mut splitter, &[b"heap> "]), [text("heap> ")]);
        // A record starts a line; after a prompt the same bytes are text.
        assert_eq!(
            split(&mut splitter, &[b"@tests 3\nheap> "]),
            [text("@tests 3\nheap> ")]
        );
        assert_eq!(
            split(&mut splitter, &[b"\n@tests 3\n"]),
            [text("\n"), record("@tests 3")]
        );
    }

    #[test]
    fn the_cuts_of_the_stream_do_not_change_the_pieces() {
        let stream = b"firmware@ready\nh\xc3\xa4llo\n@tests 3\r\n@what\n\nlast";
        let whole = [
            record("@ready"),
            text("hällo\n"),
            record("@tests 3"),
            text("@what\n\nlast"),
        ];
        assert_eq!(split(&mut Splitter::default(), &[stream]), whole);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let parts = [&stream[..first], &stream[first..second], &stream[second..]];
                let pieces = split(&mut Splitter::default(), &parts);
                assert_eq!(pieces, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn frames_become_text_and_are_counted_until_other_text() {
        let mut splitter = Splitter::default();
        let stream = b"@ready
panic\n@frame 0x12 times=3
@frame 0x34 times=1
again
@frame 0x56 times=1
";
        let expected = "panic\n   0: 0x12
      and 2 times more
   3: 0x34
again
   0: 0x56
";
        let pieces = split(&mut splitter, &[stream]);
        assert_eq!(pieces, [record("@ready"), text(expected)]);
    }

    #[test]
    fn an_error_of_the_receiver_stops_the_stream() {
        let mut seen = 0;
        let result = Splitter::default().push(b"@ready\none\ntwo\n", |piece| {
            seen += 1;
            match piece {
                Piece::Record(_) => Ok(()),
                Piece::Text(_) => Err(Failure::Interrupted),
            }
        });
        assert!(matches!(result, Err(Failure::Interrupted)));
        assert_eq!(seen, 2);
    }
}
