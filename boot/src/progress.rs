//! Shows how far a long build is.
//!
//! The boot stages of the bootloader are compiled by a build script, whose output cargo hides. With
//! `-vv` cargo passes it on, so that the crates can be counted.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, IsTerminal, PipeReader},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{failure::Failure, process};

/// After a failure, this many lines of cargo's output are shown.
const TAIL: usize = 40;

/// Without a terminal, a line is shown for each time that this many crates are compiled.
const LINE_EACH: u64 = 20;

/// What is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Build {
    /// The thing, for messages.
    pub what: &'static str,
    /// How long the first build takes.
    pub expected: &'static str,
    /// How many crates the first build compiles, roughly.
    pub crates: u64,
}

/// A `cargo build` that runs.
pub(crate) struct Running {
    child: Child,
    /// The thread that reads the output. See [`watch`].
    reader: JoinHandle<(Option<ProgressBar>, VecDeque<String>)>,
    what: &'static str,
}

impl Running {
    /// Starts `cargo`, a `cargo build`. Its progress is shown if it compiles something: a bar on a
    /// terminal, and elsewhere a line now and then.
    pub(crate) fn start(mut cargo: Command, build: Build) -> Result<Self, Failure> {
        let piped = |error| Failure::because("cannot make a pipe")(error);
        let (output, input) = io::pipe().map_err(piped)?;
        cargo
            .arg("-vv")
            .env("CARGO_TERM_COLOR", "never")
            .stdin(Stdio::null())
            .stdout(input.try_clone().map_err(piped)?)
            .stderr(input);
        let child = process::spawn(&mut cargo).map_err(Failure::start(cargo.get_program()))?;
        // The command keeps the ends of the pipe that are written to. Reading ends when they are
        // closed.
        drop(cargo);
        Ok(Self {
            child,
            reader: thread::spawn(move || watch(output, build)),
            what: build.what,
        })
    }

    /// Waits for the end. Shows the end of cargo's output if it fails.
    pub(crate) fn finish(mut self) -> Result<ExitStatus, Failure> {
        let status = process::wait(&mut self.child)?;
        let (bar, tail) = self.reader.join().expect("reading lines does not panic");
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        if !status.success() {
            tail.iter().for_each(|line| eprintln!("{line}"));
        } else if let Some(bar) = bar {
            let (what, seconds) = (self.what, bar.elapsed().as_secs());
            eprintln!("run-qemu.sh: {what}: built in {seconds} s");
        }
        Ok(status)
    }
}

/// Counts the crates in the output of cargo. Returns the bar, if a crate was compiled, and the last
/// lines that are worth reading.
fn watch(output: PipeReader, build: Build) -> (Option<ProgressBar>, VecDeque<String>) {
    let mut bar: Option<ProgressBar> = None;
    let mut tail = VecDeque::new();
    let mut waited = false;
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        match Line::of(&line) {
            Line::Compiling(name) => {
                let bar = bar.get_or_insert_with(|| begin(build));
                bar.inc(1);
                bar.set_length(build.crates.max(bar.position()));
                bar.set_message(name.to_owned());
                if bar.position().is_multiple_of(LINE_EACH) && !io::stderr().is_terminal() {
                    let (done, all) = (bar.position(), build.crates);
                    eprintln!("run-qemu.sh: {done} of about {all} crates");
                }
            }
            Line::Blocked if waited => {}
            Line::Blocked => {
                waited = true;
                eprintln!("run-qemu.sh: waiting for another build in the same target folder");
            }
            Line::Other => {
                tail.push_back(line);
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
            Line::Noise => {}
        }
    }
    (bar, tail)
}

/// Says what is built, and returns the bar for it.
fn begin(build: Build) -> ProgressBar {
    eprintln!("run-qemu.sh: building {} ({})", build.what, build.expected);
    let bar = ProgressBar::new(build.crates);
    let template = "  {bar:30} {pos} of about {len} crates, {elapsed_precise}  {msg}";
    // The template is valid, and a bar of the default style is no failure.
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// A line of `cargo build -vv`.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// A crate with this name is compiled: by this cargo, or by one that a build script runs.
    Compiling(&'a str),
    /// Another cargo uses the target folder.
    Blocked,
    /// A line that says nothing to people.
    Noise,
    /// Another line: it may be a warning or an error.
    Other,
}

/// How the line of a cargo begins that waits for another.
const BLOCKED: &str = "Blocking waiting for file lock";

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        // Cargo puts `[NAME VERSION] ` before the output of a build script.
        let (nested, text) = match line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
        {
            Some((_, rest)) => (true, rest.trim_start()),
            None => (false, line.trim_start()),
        };
        let noise = [
            "Running `",
            "Fresh ",
            "Dirty ",
            "cargo:",
            "Finished ",
            "Locking ",
            // The cargos that a build script runs wait for each other, for moments.
            BLOCKED,
        ];
        match text.strip_prefix("Compiling ") {
            Some(rest) => Self::Compiling(rest.split(' ').next().unwrap_or_default()),
            None if text.starts_with(BLOCKED) && !nested => Self::Blocked,
            None if noise.iter().any(|begin| text.starts_with(begin)) => Self::Noise,
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_cargo_and_of_build_scripts_are_counted() {
        assert_eq!(Line::of("   Compiling syn v3.0.9"), Line::Compiling("syn"));
        let nested = "[bootloader 0.11.15]    Compiling core v0.0.0 (/lib/core)";
        assert_eq!(Line::of(nested), Line::Compiling("core"));
        assert_eq!(
            Line::of("     Running `rustc --crate-name syn`"),
            Line::Noise
        );
        assert_eq!(
            Line::of("[bootloader 0.11.15] cargo:rustc-env=A=B"),
            Line::Noise
        );
        let blocked = "    Blocking waiting for file lock on build directory";
        assert_eq!(Line::of(blocked), Line::Blocked);
        let nested = "[bootloader 0.11.15]     Blocking waiting for file lock on package cache";
        assert_eq!(Line::of(nested), Line::Noise);
        assert_eq!(Line::of("error[E0277]: no"), Line::Other);
    }

    #[test]
    fn a_build_that_compiles_nothing_shows_no_bar() {
        let build = Build {
            what: "it",
            expected: "once",
            crates: 2,
        };
        let watched = |text: &str| {
            let (output, mut input) = io::pipe().unwrap();
            io::Write::write_all(&mut input, text.as_bytes()).unwrap();
            drop(input);
            watch(output, build)
        };
        let (bar, tail) = watched("       Fresh syn v3.0.9\n    Finished\nerror: no\n");
        assert!(bar.is_none() && tail.contains(&"error: no".to_owned()));
        let (bar, _) = watched("   Compiling a v1\n   Compiling b v1\n   Compiling c v1\n");
        let bar = bar.unwrap();
        assert_eq!((bar.position(), bar.length()), (3, Some(3)));
    }
}
