//! The stream of bytes on the serial line, taken apart into text and records.

use crate::record::Record;

/// What came over the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text of the kernel: a line or a part of one.
    Text(Vec<u8>),
    /// A line that is a record.
    Record(Record),
}

/// Takes the stream apart.
///
/// Until the kernel says `@ready`, what comes is the firmware's: it is kept for
/// [`Splitter::before_ready`] and not passed on. After that, text is passed on as it comes, so that
/// a prompt without a line end is seen; only a line that may become a record is held until it ends.
#[derive(Debug, Default)]
pub struct Splitter {
    is_ready: bool,
    is_mid_line: bool,
    /// What has come and was not passed on: the firmware's text, or the beginning of a record.
    held: Vec<u8>,
}

impl Splitter {
    /// Takes the next `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        bytes
            .split_inclusive(|&byte| byte == b'\n')
            .filter_map(|part| self.push_part(part))
            .collect()
    }

    /// Takes a line or a part of one.
    fn push_part(&mut self, part: &[u8]) -> Option<Piece> {
        let ends_line = part.ends_with(b"\n");
        if !self.is_ready {
            self.held.extend(part);
            // The firmware may leave escape sequences, or half a line, before it.
            self.is_ready = ends_line && self.held.trim_ascii_end().ends_with(b"@ready");
            if self.is_ready {
                self.held.clear();
            }
            return self.is_ready.then_some(Piece::Record(Record::Ready));
        }
        let is_record = !self.held.is_empty() || (!self.is_mid_line && part.starts_with(b"@"));
        self.is_mid_line = !ends_line;
        if !is_record {
            return Some(Piece::Text(part.to_vec()));
        }
        self.held.extend(part);
        if !ends_line {
            return None;
        }
        let line = std::mem::take(&mut self.held);
        let record = str::from_utf8(line.trim_ascii_end())
            .ok()
            .and_then(Record::parse);
        Some(record.map_or(Piece::Text(line), Piece::Record))
    }

    /// Notes that a line was sent the other way. The kernel does not echo it, but it ends the line
    /// of the prompt on the terminal, so that what comes next is at the start of one.
    pub fn answered(&mut self) {
        self.is_mid_line = false;
    }

    /// Whether the kernel has said anything yet.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What the firmware and the boot stages said, for as long as the kernel has said nothing.
    pub fn before_ready(&self) -> String {
        if self.is_ready {
            String::new()
        } else {
            String::from_utf8_lossy(&self.held).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &str) -> Piece {
        Piece::Text(bytes.into())
    }

    #[test]
    fn what_the_firmware_says_is_not_the_kernels() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(b"\x1b[2JBdsDxe: loading\r\n@tests 4\n"), []);
        assert_eq!(
            splitter.before_ready(),
            "\x1b[2JBdsDxe: loading\r\n@tests 4\n"
        );
        assert_eq!(
            splitter.push(b"\x1b[2J@ready\r\nhello\n"),
            [Piece::Record(Record::Ready), text("hello\n")]
        );
        assert_eq!((splitter.is_ready(), &*splitter.before_ready()), (true, ""));
    }

    #[test]
    fn a_prompt_is_passed_on_without_its_line_end() {
        let mut splitter = Splitter::default();
        splitter.push(b"@ready\n");
        assert_eq!(splitter.push(b"heap> "), [text("heap> ")]);
        // Not at the start of a line, so no record.
        assert_eq!(
            splitter.push(b"@tests 3\nheap> "),
            [text("@tests 3\n"), text("heap> ")]
        );
        splitter.answered();
        assert_eq!(
            splitter.push(b"@tests 3\n"),
            [Piece::Record(Record::Tests(3))]
        );
    }

    #[test]
    fn every_way_to_cut_the_stream_gives_the_same_pieces() {
        let stream = b"firmware@ready\nh\xc3\xa4llo\n@tests 3\r\n@what\n\nlast";
        let joined = |pieces: Vec<Piece>| {
            // Text may come in more pieces than lines.
            pieces.into_iter().fold(Vec::new(), |mut all, piece| {
                match (all.last_mut(), piece) {
                    (Some(Piece::Text(before)), Piece::Text(after)) => before.extend(after),
                    (_, piece) => all.push(piece),
                }
                all
            })
        };
        let whole = joined(Splitter::default().push(stream));
        assert_eq!(
            whole,
            [
                Piece::Record(Record::Ready),
                text("hällo\n"),
                Piece::Record(Record::Tests(3)),
                text("@what\n\nlast"),
            ]
        );
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut splitter = Splitter::default();
                let mut pieces = splitter.push(&stream[..first]);
                pieces.extend(splitter.push(&stream[first..second]));
                pieces.extend(splitter.push(&stream[second..]));
                assert_eq!(joined(pieces), whole, "cut at {first} and {second}");
            }
        }
    }
}
