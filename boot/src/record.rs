//! The records that the kernel writes to its serial line: lines that begin with `@`.
//!
//! ```text
//! @ready                                   serial is up; nothing before it comes from the kernel
//! @tests N                                 how many tests will run in this boot
//! @begin NAME deadline=SECONDS
//! @end NAME OUTCOME instructions=N frames=BEFORE..AFTER [reason=TEXT TO THE END OF THE LINE]
//! @soak seed=N programs=N operations=N     a program begins; so many ended before it
//! @done passed=N failed=N                  the last test of this boot has ended
//! @run-tests [FILTER]                      the monitor asks for the tests
//! ```

use std::time::Duration;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The kernel's entry has serial up.
    Ready,
    /// So many tests will run in this boot.
    Tests(usize),
    /// A test begins.
    Begin {
        /// Its name: `module::function`.
        name: String,
        /// How long it may take.
        deadline: Duration,
    },
    /// A test has ended.
    End(Ended),
    /// A program of a soak begins.
    Soak {
        /// What it is made of.
        seed: u64,
        /// How many programs have ended before it.
        programs: usize,
        /// How many operations those were.
        operations: u64,
    },
    /// All tests of this boot have ended.
    Done {
        /// How many passed.
        passed: usize,
        /// How many did not.
        failed: usize,
    },
    /// The monitor asks the host to run the tests.
    RunTests {
        /// Only those whose names contain this.
        filter: Option<String>,
    },
}

/// How a test ended, in the kernel's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How many instructions it executed (where they are counted).
    pub instructions: u64,
    /// Frames in use before and after it.
    pub frames: (u64, u64),
    /// Why it did not pass.
    pub reason: Option<String>,
}

/// The outcome of a test, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should, dying included.
    Passed,
    /// It returned, and something was not as it was before.
    Failed,
    /// It panicked and should not have.
    Panicked,
    /// It faulted and should not have.
    Faulted,
}

impl Record {
    /// Reads the record in `line`, which begins with `@`; `None` when it is none of ours, or
    /// damaged.
    pub fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "@ready" if rest.is_empty() => Some(Self::Ready),
            "@tests" => Some(Self::Tests(rest.parse().ok()?)),
            "@begin" => {
                let (name, deadline) = rest.split_once(' ')?;
                let seconds: u64 = field(deadline, "deadline")?.parse().ok()?;
                Some(Self::Begin {
                    name: name.into(),
                    deadline: Duration::from_secs(seconds),
                })
            }
            "@end" => parse_end(rest).map(Self::End),
            "@soak" => {
                let (seed, rest) = rest.split_once(' ')?;
                let (programs, operations) = rest.split_once(' ')?;
                Some(Self::Soak {
                    seed: field(seed, "seed")?.parse().ok()?,
                    programs: field(programs, "programs")?.parse().ok()?,
                    operations: field(operations, "operations")?.parse().ok()?,
                })
            }
            "@done" => {
                let (passed, failed) = rest.split_once(' ')?;
                Some(Self::Done {
                    passed: field(passed, "passed")?.parse().ok()?,
                    failed: field(failed, "failed")?.parse().ok()?,
                })
            }
            "@run-tests" => Some(Self::RunTests {
                filter: Some(rest.trim().to_owned()).filter(|filter| !filter.is_empty()),
            }),
            _ => None,
        }
    }
}

fn parse_end(rest: &str) -> Option<Ended> {
    let mut parts = rest.splitn(5, ' ');
    let name = parts.next()?.to_owned();
    let outcome = match parts.next()? {
        "passed" => Outcome::Passed,
        "failed" => Outcome::Failed,
        "panicked" => Outcome::Panicked,
        "faulted" => Outcome::Faulted,
        _ => return None,
    };
    let instructions = field(parts.next()?, "instructions")?.parse().ok()?;
    let (before, after) = field(parts.next()?, "frames")?.split_once("..")?;
    let frames = (before.parse().ok()?, after.parse().ok()?);
    let reason = match parts.next() {
        Some(text) => Some(field(text, "reason")?.to_owned()),
        None => None,
    };
    Some(Ended {
        name,
        outcome,
        instructions,
        frames,
        reason,
    })
}

/// The value in `key=value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.strip_prefix(key)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_of_the_protocol_is_read() {
        let end = |name: &str, outcome, reason: Option<&str>| {
            Record::End(Ended {
                name: name.into(),
                outcome,
                instructions: 12,
                frames: (3, 4),
                reason: reason.map(str::to_owned),
            })
        };
        let cases = [
            ("@ready", Record::Ready),
            ("@tests 41", Record::Tests(41)),
            (
                "@begin grow::in_place deadline=10",
                Record::Begin {
                    name: "grow::in_place".into(),
                    deadline: Duration::from_secs(10),
                },
            ),
            (
                "@end a::b passed instructions=12 frames=3..4",
                end("a::b", Outcome::Passed, None),
            ),
            (
                "@end a::b failed instructions=12 frames=3..4 reason=1 frame leaked, x = 2",
                end("a::b", Outcome::Failed, Some("1 frame leaked, x = 2")),
            ),
            (
                "@end a::b panicked instructions=12 frames=3..4 reason=",
                end("a::b", Outcome::Panicked, Some("")),
            ),
            (
                "@end a::b faulted instructions=12 frames=3..4",
                end("a::b", Outcome::Faulted, None),
            ),
            (
                "@soak seed=18446744073709551615 programs=3 operations=12000",
                Record::Soak {
                    seed: u64::MAX,
                    programs: 3,
                    operations: 12_000,
                },
            ),
            (
                "@done passed=2 failed=1",
                Record::Done {
                    passed: 2,
                    failed: 1,
                },
            ),
            ("@run-tests", Record::RunTests { filter: None }),
            (
                "@run-tests grow::",
                Record::RunTests {
                    filter: Some("grow::".into()),
                },
            ),
        ];
        for (line, record) in cases {
            assert_eq!(Record::parse(line), Some(record), "{line}");
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        let lines = [
            "@",
            "@nothing",
            "@ready now",
            "@tests",
            "@tests many",
            "@tests -1",
            "@begin a::b",
            "@begin a::b deadline=soon",
            "@end a::b passed",
            "@end a::b well instructions=1 frames=1..1",
            "@end a::b passed instructions=1 frames=1",
            "@end a::b passed frames=1..1 instructions=1",
            "@end a::b passed instructions=99999999999999999999 frames=1..1",
            "@end a::b failed instructions=1 frames=1..1 because",
            "@soak seed=1 programs=1",
            "@soak seed=x programs=1 operations=1",
            "@done passed=1",
            "@done failed=1 passed=1",
        ];
        for line in lines {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
