//! The user's terminal: what is shown there, and what is typed.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    sync::mpsc::{self, Receiver},
    thread,
};

use kernel_protocol::record::END_OF_INPUT;

/// Writes to the terminal at once, line end or not.
pub fn show(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Nobody reads any more: the machine still runs to its end, and its exit status counts.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Writes `line` to the terminal, and ends it.
pub fn show_line(line: &str) {
    show(format!("{line}\n").as_bytes());
}

/// The user's terminal.
pub struct Console {
    /// What was typed, a line at a time; [`END_OF_INPUT`] at its end.
    lines: Receiver<Vec<u8>>,
}

impl Console {
    /// The terminal, if both its directions are one.
    pub fn open() -> Option<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return None;
        }
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = Vec::new();
                // An unreadable terminal is at its end too.
                let is_end = !matches!(input.read_until(b'\n', &mut line), Ok(1..));
                let said = if is_end { vec![END_OF_INPUT] } else { line };
                if sender.send(said).is_err() || is_end {
                    return;
                }
            }
        });
        Some(Self { lines })
    }

    /// The lines that were typed since the last call; [`END_OF_INPUT`] stands for the end.
    pub fn lines(&self) -> impl Iterator<Item = Vec<u8>> {
        self.lines.try_iter()
    }
}
