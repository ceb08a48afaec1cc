//! Keys, and the bytes that a terminal sends for them.

use kernel_protocol::record::END_OF_INPUT;

use super::history::is_printable;

/// A key, or a combination of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Character(u8),
    Enter,
    Tab,
    EndOfInput,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    Backspace,
    Delete,
    DeleteWord,
    DeleteToStart,
    DeleteToEnd,
}

/// How much of a key's bytes has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyReader {
    Start,
    /// After a carriage return, which a line feed may follow.
    CarriageReturn,
    /// After `ESC`.
    Escape,
    /// After `ESC [` or `ESC O`, with the first number so far.
    Sequence(u8),
    /// After the first number: others tell of modifiers.
    Modifiers(u8),
    /// Before a last byte without meaning.
    Ignored,
}

impl KeyReader {
    /// Takes a byte. Returns the key that it completes.
    pub(super) fn push(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::replace(self, Self::Start);
        match (state, byte) {
            (Self::CarriageReturn, b'\n') => return None,
            // A control character begins anew: the end of a line is one in any case.
            (Self::Start | Self::CarriageReturn, _) | (_, ..b' ' | 0x7f) => {
                return self.start(byte);
            }
            (Self::Escape, b'[' | b'O') => *self = Self::Sequence(0),
            // `ESC [ [ A` is a function key of Linux.
            (Self::Sequence(0), b'[') => *self = Self::Ignored,
            (Self::Sequence(number), b'0'..=b'9') => {
                let number = number.saturating_mul(10).saturating_add(byte - b'0');
                *self = Self::Sequence(number);
            }
            (Self::Sequence(number) | Self::Modifiers(number), b' '..=b'?') => {
                *self = Self::Modifiers(number);
            }
            (Self::Sequence(number) | Self::Modifiers(number), _) => {
                return match (byte, number) {
                    (b'A', _) => Some(Key::Up),
                    (b'B', _) => Some(Key::Down),
                    (b'C', _) => Some(Key::Right),
                    (b'D', _) => Some(Key::Left),
                    (b'H', _) | (b'~', 1 | 7) => Some(Key::Home),
                    (b'F', _) | (b'~', 4 | 8) => Some(Key::End),
                    (b'~', 3) => Some(Key::Delete),
                    _ => None,
                };
            }
            (Self::Escape | Self::Ignored, _) => {}
        }
        None
    }

    /// Takes the first byte of a key.
    fn start(&mut self, byte: u8) -> Option<Key> {
        Some(match byte {
            b'\r' => {
                *self = Self::CarriageReturn;
                Key::Enter
            }
            0x1b => {
                *self = Self::Escape;
                return None;
            }
            b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            END_OF_INPUT => Key::EndOfInput,
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            0x0b => Key::DeleteToEnd,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::DeleteToStart,
            0x17 => Key::DeleteWord,
            _ if is_printable(byte) => Key::Character(byte),
            _ => return None,
        })
    }
}
