//! `./run-qemu.sh test --soak MINUTES`: runs random programs in the kernel, each with the next
//! seed, for a time.

use std::{
    env,
    time::{Duration, Instant, SystemTime},
};

use kernel_protocol::{
    config::{Config, Mode},
    number::Thousands,
    record::{END_OF_INPUT, Record},
};

use crate::{
    cli::SoakOptions,
    failure::Failure,
    machine::{BOOT_LIMIT, SerialEvent},
    process, ramdisk,
    serial::Piece,
    session::Session,
    terminal,
};

/// The time limit of one program, on the machine's clock.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// The time between two lines of progress.
const SHOW_EACH: Duration = Duration::from_secs(15);

/// After a failure, this many lines of the kernel's output are shown.
const TAIL: usize = 40;

/// Runs programs until the time is over, or a program fails.
pub(crate) fn run(session: &Session, options: &SoakOptions) -> Result<(), Failure> {
    // Milliseconds since 1970 differ in each run.
    let seed = options.seed.unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    });
    terminal::show_line(&format!("soak: the first seed is {seed}"));
    let mut soak = Soak::default();
    let ending = watch(session, options.length(), seed, &mut soak);
    if let Err(Failure::Interrupted) = ending {
        return ending;
    }
    if let Err(failure) = &ending {
        let text = String::from_utf8_lossy(&soak.text);
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            terminal::show_line(&format!("    | {line}"));
        }
        terminal::show_line(&soak.complaint(failure, &again(env::args().skip(1))));
    }
    let failed = usize::from(ending.is_err());
    terminal::show_line(&format!("{} passed, {failed} failed", soak.programs));
    ending.map_err(|failure| Failure::AlreadyReported(failure.status()))
}

/// Boots the kernel, reads its records, and stops it when the time is over.
fn watch(session: &Session, length: Duration, seed: u64, soak: &mut Soak) -> Result<(), Failure> {
    let (mut machine, _image) = session.start(&Config {
        mode: Mode::Soak,
        seed,
        ..ramdisk::test_config()
    })?;
    let mut splitter = machine.splitter();
    let began = Instant::now();
    let mut shown = began;
    let mut is_stopped = false;
    loop {
        if process::interrupted() {
            return Err(Failure::Interrupted);
        }
        if !is_stopped && began.elapsed() >= length && splitter.is_ready() {
            machine.send(&[END_OF_INPUT]);
            is_stopped = true;
        }
        if shown.elapsed() >= SHOW_EACH {
            terminal::show_line(&soak.progress());
            shown = Instant::now();
        }
        let now = machine.clock();
        let (what, limit) = match splitter.is_ready() {
            false => ("sign of life from the kernel", BOOT_LIMIT),
            true => ("end of a program", PROGRAM_LIMIT),
        };
        if session
            .deadline(limit)
            .is_some_and(|limit| now > soak.program_began + limit)
        {
            machine.kill();
            return Err(session.explain(Failure::timed_out(what, limit)));
        }
        match machine.listen(process::POLL) {
            SerialEvent::Nothing => {}
            SerialEvent::Bytes(bytes) => {
                splitter.push(&bytes, |piece| soak.take(piece, now))?;
            }
            SerialEvent::End => {
                let exit = machine.end().map_err(|failure| session.explain(failure))?;
                return match exit.failure() {
                    None => soak.end(),
                    Some(failure) => Err(failure),
                };
            }
        }
    }
}

/// The state of a soak test, from the records of the kernel.
#[derive(Debug, Default)]
struct Soak {
    /// The seed of the program that runs.
    seed: Option<u64>,
    /// The number of programs that have ended.
    programs: usize,
    /// The number of operations in those programs.
    operations: u64,
    /// When the last program began, on the machine's clock.
    program_began: Duration,
    /// The kernel's count of passed and failed programs at the end.
    done: Option<(usize, usize)>,
    /// The output of the running program.
    text: Vec<u8>,
}

impl Soak {
    fn take(&mut self, piece: Piece<'_>, now: Duration) -> Result<(), Failure> {
        match piece {
            Piece::Text(text) => self.text.extend(text),
            Piece::Record(Record::Ready) => self.program_began = now,
            Piece::Record(Record::Soak {
                seed,
                programs,
                operations,
            }) => {
                self.program_began = now;
                self.seed = Some(seed);
                (self.programs, self.operations) = (programs, operations);
                self.text.clear();
            }
            Piece::Record(Record::Done { passed, failed }) => {
                self.programs = passed;
                self.done = Some((passed, failed));
            }
            Piece::Record(record) => {
                return Err(Failure::Protocol(format!("{record:?} while soaking")));
            }
        }
        Ok(())
    }

    /// Checks the count of a kernel that ended with success.
    fn end(&self) -> Result<(), Failure> {
        match self.done {
            Some((1.., 0)) => Ok(()),
            done => Err(Failure::Protocol(format!(
                "success, and {done:?} programs passed and failed"
            ))),
        }
    }

    fn progress(&self) -> String {
        format!(
            "soak: {} programs of {} operations have passed{}",
            Thousands(self.programs as u64),
            Thousands(self.operations),
            match self.seed {
                Some(seed) => format!("; the last seed was {seed}"),
                None => String::new(),
            }
        )
    }

    /// Returns a message with the seed, and the command that reproduces the failure: `again` and
    /// the seed.
    fn complaint(&self, failure: &Failure, again: &str) -> String {
        match self.seed {
            Some(seed) => format!(
                "soak: the program of seed {seed} FAILED: {failure}; \
                 reproduce it with ./run-qemu.sh {again} --seed {seed}"
            ),
            None => format!("soak: no program has begun: {failure}"),
        }
    }
}

/// Returns `arguments` without the seed.
fn again(mut arguments: impl Iterator<Item = String>) -> String {
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--seed" {
            arguments.next();
        } else if !argument.starts_with("--seed=") {
            kept.push(argument);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Splitter;

    fn soak_after(lines: &[&str]) -> Soak {
        let mut soak = Soak::default();
        let mut splitter = Splitter::default();
        for line in lines {
            splitter
                .push(format!("{line}\n").as_bytes(), |piece| {
                    soak.take(piece, Duration::from_secs(7))
                })
                .unwrap();
        }
        soak
    }

    #[test]
    fn programs_in_the_records_are_counted() {
        let soak = soak_after(&[
            "@ready",
            "@soak seed=5 programs=0 operations=0",
            "@soak seed=6 programs=1 operations=4000",
            "@done passed=2 failed=0",
        ]);
        assert_eq!(
            (soak.programs, soak.program_began),
            (2, Duration::from_secs(7))
        );
        assert!(soak.end().is_ok());
        assert!(soak.progress().contains("2 programs of 4,000 operations"));
    }

    #[test]
    fn an_early_end_or_a_failed_program_is_no_success() {
        assert!(
            soak_after(&["@ready", "@soak seed=5 programs=0 operations=0"])
                .end()
                .is_err()
        );
        assert!(
            soak_after(&["@ready", "@done passed=3 failed=1"])
                .end()
                .is_err()
        );
        assert!(
            soak_after(&["@ready", "@done passed=0 failed=0"])
                .end()
                .is_err()
        );
    }

    #[test]
    fn a_failure_names_its_seed_and_the_command_that_repeats_it() {
        let soak = soak_after(&[
            "@ready",
            "@soak seed=5 programs=0 operations=0",
            "before",
            "@soak seed=6 programs=1 operations=4000",
            "after",
        ]);
        assert_eq!(soak.text, b"after\n");
        let arguments = ["test", "--seed", "5", "--soak", "3", "--seed=9", "--uefi"];
        let again = again(arguments.map(String::from).into_iter());
        let complaint = soak.complaint(&Failure::Panicked, &again);
        assert!(
            complaint.contains("seed 6 FAILED: the kernel panicked")
                && complaint.ends_with("./run-qemu.sh test --soak 3 --uefi --seed 6"),
            "{complaint}"
        );
    }

    #[test]
    fn records_of_tests_are_refused() {
        let piece = Piece::Record(Record::Tests(3));
        assert!(Soak::default().take(piece, Duration::ZERO).is_err());
    }
}
