//! The user's terminal.

use std::{
    cell::RefCell,
    collections::VecDeque,
    env,
    io::{self, IsTerminal, Read, Write},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
};

use kernel_protocol::record::END_OF_INPUT;
use rustix::termios::{self, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

/// Writes `bytes` to the terminal and flushes them, with or without a line break at the end.
pub(crate) fn show(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // On an error the terminal is closed. The machine still runs to its end, for its exit status.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Writes `line` and a line break to the terminal.
pub(crate) fn show_line(line: &str) {
    show(format!("{line}\n").as_bytes());
}

/// Returns whether the user wants colours: standard output is a terminal, and the variable
/// `NO_COLOR` is not set (<https://no-color.org>).
pub(crate) fn has_color() -> bool {
    let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_refused
}

/// A colour of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    /// For failures.
    Red = 31,
    /// For successes.
    Green = 32,
}

/// Returns `word` in a colour, if the user [wants colours](has_color).
pub(crate) fn paint(word: &str, color: Color) -> String {
    if has_color() {
        format!("\x1b[{}m{word}\x1b[0m", color as u8)
    } else {
        word.to_owned()
    }
}

/// The user's terminal.
pub(crate) struct Console {
    /// What the user typed, in parts. At the end of input comes [`END_OF_INPUT`].
    typed: Receiver<Vec<u8>>,
    /// What was received, and not taken yet.
    waiting: RefCell<VecDeque<u8>>,
    /// How the terminal was before it was to [show no keys](Console::read_keys).
    before: RefCell<Option<Termios>>,
}

impl Console {
    /// Returns whether there is a terminal: standard input and standard output are one.
    pub(crate) fn exists() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Begins to read what the user types, or what standard input has instead. Other programs in
    /// the same terminal, such as `sudo`, must have read what they ask for.
    pub(crate) fn open() -> Self {
        let (sender, typed) = mpsc::channel();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            let mut buffer = [0; 1024];
            let mut last = b'\n';
            loop {
                // An error ends the input too.
                let length = input.read(&mut buffer).unwrap_or(0);
                let part = match length {
                    // Ctrl-D may end a line that goes on. A terminal that was closed is none any
                    // more.
                    0 if io::stdin().is_terminal() => &[END_OF_INPUT],
                    // The last line of a file may lack its end.
                    0 if last != b'\n' => b"\n",
                    0 => return,
                    _ => &buffer[..length],
                };
                last = part[part.len() - 1];
                if sender.send(part.to_vec()).is_err() {
                    return;
                }
            }
        });
        Self::new(typed)
    }

    /// Returns a terminal on which a user has typed `text`.
    pub(crate) fn with_text(text: &str) -> Self {
        let (sender, typed) = mpsc::channel();
        // The receiver exists, so sending succeeds.
        let _ = sender.send(text.into());
        Self::new(typed)
    }

    fn new(typed: Receiver<Vec<u8>>) -> Self {
        Self {
            typed,
            waiting: RefCell::default(),
            before: RefCell::default(),
        }
    }

    /// Takes what the user typed, but no more than to the end of a line. It is empty if the user
    /// typed nothing. After the end of the input it is [`END_OF_INPUT`] each time.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            match self.typed.try_recv() {
                Ok(part) => waiting.extend(part),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if waiting.is_empty() => {
                    return vec![END_OF_INPUT];
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        let line = waiting.iter().position(|&byte| byte == b'\n');
        let length = line.map_or(waiting.len(), |end| end + 1);
        waiting.drain(..length).collect()
    }

    /// From now on, keys come as they are typed, and the terminal does not show them. Ctrl-C and
    /// Ctrl-Z work as before. (After Ctrl-Z the shell changes the terminal, so that this function
    /// must be called again.)
    pub(crate) fn read_keys(&self) {
        // What is no terminal, as in tests, stays as it is.
        let Ok(modes) = termios::tcgetattr(io::stdin()) else {
            return;
        };
        let mut keys = modes.clone();
        keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        // Lines end with `\n`.
        keys.input_modes |= InputModes::ICRNL;
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        if termios::tcsetattr(io::stdin(), OptionalActions::Now, &keys).is_ok() {
            self.before.borrow_mut().get_or_insert(modes);
        }
    }

    /// Undoes [`read_keys`](Self::read_keys).
    pub(crate) fn read_lines(&self) {
        if let Some(modes) = self.before.take() {
            // If it fails, the terminal is gone.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.read_lines();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_text_is_taken_line_by_line() {
        let (sender, typed) = mpsc::channel();
        let console = Console::new(typed);
        for part in ["one\ntw", "o\n", "three"] {
            sender.send(part.into()).unwrap();
        }
        let taken = [(); 4].map(|()| String::from_utf8(console.take()).unwrap());
        assert_eq!(taken, ["one\n", "two\n", "three", ""]);
        // The thread that reads the input has ended.
        sender.send(b"four".into()).unwrap();
        drop(sender);
        let taken = [(); 3].map(|()| console.take());
        assert_eq!(taken, [&b"four"[..], &[END_OF_INPUT], &[END_OF_INPUT]]);
    }
}
