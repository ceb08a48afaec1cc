//! The user's terminal.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    sync::mpsc::{self, Receiver},
    thread,
};

use kernel_protocol::record::END_OF_INPUT;

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

/// The user's terminal.
pub(crate) struct Console {
    /// The lines that the user typed. At the end of input comes [`END_OF_INPUT`].
    lines: Receiver<Vec<u8>>,
}

impl Console {
    /// Returns the terminal. `None` if standard input or standard output is no terminal.
    pub(crate) fn open() -> Option<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return None;
        }
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut line = Vec::new();
                // An error ends the input too.
                let is_end = !matches!(input.read_until(b'\n', &mut line), Ok(1..));
                let typed = if is_end { vec![END_OF_INPUT] } else { line };
                if sender.send(typed).is_err() || is_end {
                    return;
                }
            }
        });
        Some(Self { lines })
    }

    /// Returns a terminal on which a user has typed `lines`.
    pub(crate) fn with_lines<const N: usize>(lines: [&str; N]) -> Self {
        let (sender, receiver) = mpsc::channel();
        for line in lines {
            // The receiver exists, so sending succeeds.
            let _ = sender.send(line.into());
        }
        Self { lines: receiver }
    }

    /// Returns the next line that the user typed. `None` if there is none yet.
    pub(crate) fn line(&self) -> Option<Vec<u8>> {
        self.lines.try_recv().ok()
    }
}
