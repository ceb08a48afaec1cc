//! Records: lines that begin with `@`, which the kernel writes to the serial port and the host
//! reads.
//!
//! ```text
//! @ready                                   the serial port works; text before it is firmware's
//! @tests N                                 how many tests this boot will run
//! @begin NAME deadline=SECONDS             a test begins
//! @end NAME OUTCOME instructions=N frames=BEFORE..AFTER [reason=TEXT TO THE END OF THE LINE]
//! @soak seed=N programs=N operations=N     a program of a soak test begins
//! @done passed=N failed=N                  the last test of this boot has ended
//! @run-tests [FILTER]                      the monitor asks the host to run the tests
//! @frame 0xADDRESS times=N                 a frame of a backtrace, innermost first
//! @input                                   the kernel reads keys, until the end of a line
//! @hold                                    the kernel ends once the host has sent a byte
//! ```

use core::fmt;

/// The byte that the host sends at the end of its input: what Ctrl-D types.
pub const END_OF_INPUT: u8 = 0x04;

/// One record. [`Display`](fmt::Display) writes its line without the line break, and
/// [`parse`](Self::parse) reads that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// The kernel has started, and the serial port works.
    Ready,
    /// This boot will run that many tests.
    Tests(usize),
    /// A test begins.
    Begin {
        /// Its name, `module::function`, without spaces.
        name: &'a str,
        /// The time limit in seconds.
        deadline: u32,
    },
    /// A test has ended.
    End(Ended<'a>),
    /// A program of a soak test begins.
    Soak {
        /// The seed of its random numbers.
        seed: u64,
        /// How many programs have ended before it.
        programs: usize,
        /// How many operations those programs had.
        operations: u64,
    },
    /// The last test of this boot has ended.
    Done {
        /// How many tests passed.
        passed: usize,
        /// How many tests failed.
        failed: usize,
    },
    /// The monitor asks the host to run the tests.
    RunTests {
        /// Runs only the tests whose names contain this.
        filter: Option<&'a str>,
    },
    /// A frame of a backtrace. The frames follow each other, innermost first, and the host prints
    /// function, file and line instead.
    Frame {
        /// An address within the instruction that the frame executes. Where that is a call, the
        /// return address is the address of the next instruction, which may belong to another line
        /// or function. The kernel then sends the return address minus 1.
        address: u64,
        /// How often the same frame follows: more than once in a recursion.
        times: usize,
    },
    /// The kernel waits for a line, and reads each key. Until the line has ended, the host sends
    /// keys as they are typed, without showing them: the kernel does.
    Input,
    /// The kernel has done its work. It waits for a byte, and then ends.
    Hold,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended<'a> {
    /// The test's name, without spaces.
    pub name: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// How many instructions it took, on a machine that counts them; otherwise cycles.
    pub instructions: u64,
    /// The frames in use before and after it.
    pub frames: (u64, u64),
    /// Why it did not pass, in one line.
    pub reason: Option<&'a str>,
}

/// The outcome of a test, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The test did what it should; one that is expected to panic or fault did so.
    Passed,
    /// The test returned, but a check afterwards failed.
    Failed,
    /// The test panicked and should not have.
    Panicked,
    /// The test caused a CPU exception and should not have.
    Faulted,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Passed, Self::Failed, Self::Panicked, Self::Faulted];

    /// Returns the word for this outcome.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Faulted => "faulted",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("@ready"),
            Self::Tests(count) => write!(f, "@tests {count}"),
            Self::Begin { name, deadline } => write!(f, "@begin {name} deadline={deadline}"),
            Self::End(ended) => ended.fmt(f),
            Self::Soak {
                seed,
                programs,
                operations,
            } => write!(
                f,
                "@soak seed={seed} programs={programs} operations={operations}"
            ),
            Self::Done { passed, failed } => write!(f, "@done passed={passed} failed={failed}"),
            Self::RunTests { filter: None } => f.write_str("@run-tests"),
            Self::RunTests {
                filter: Some(filter),
            } => write!(f, "@run-tests {filter}"),
            Self::Frame { address, times } => write!(f, "@frame {address:#x} times={times}"),
            Self::Input => f.write_str("@input"),
            Self::Hold => f.write_str("@hold"),
        }
    }
}

impl fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, outcome) = (self.name, self.outcome.name());
        let (before, after) = self.frames;
        write!(
            f,
            "@end {name} {outcome} instructions={}",
            self.instructions
        )?;
        write!(f, " frames={before}..{after}")?;
        match self.reason {
            Some(reason) => write!(f, " reason={reason}"),
            None => Ok(()),
        }
    }
}

impl<'a> Record<'a> {
    /// Reads the record in `line`. `None` if the line is no record, or a damaged one.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "@ready" if rest.is_empty() => Some(Self::Ready),
            "@tests" => Some(Self::Tests(rest.parse().ok()?)),
            "@begin" => {
                let (name, deadline) = rest.split_once(' ')?;
                Some(Self::Begin {
                    name,
                    deadline: field(deadline, "deadline")?.parse().ok()?,
                })
            }
            "@end" => Ended::parse(rest).map(Self::End),
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
                filter: Some(rest.trim()).filter(|filter| !filter.is_empty()),
            }),
            "@frame" => {
                let (address, times) = rest.split_once(' ')?;
                Some(Self::Frame {
                    address: u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?,
                    times: field(times, "times")?.parse().ok()?,
                })
            }
            "@input" if rest.is_empty() => Some(Self::Input),
            "@hold" if rest.is_empty() => Some(Self::Hold),
            _ => None,
        }
    }
}

impl<'a> Ended<'a> {
    /// Reads what follows `@end `.
    fn parse(rest: &'a str) -> Option<Self> {
        let mut parts = rest.splitn(5, ' ');
        let name = parts.next()?;
        let outcome = Outcome::parse(parts.next()?)?;
        let instructions = field(parts.next()?, "instructions")?.parse().ok()?;
        let (before, after) = field(parts.next()?, "frames")?.split_once("..")?;
        let frames = (before.parse().ok()?, after.parse().ok()?);
        let reason = match parts.next() {
            Some(text) => Some(field(text, "reason")?),
            None => None,
        };
        Some(Self {
            name,
            outcome,
            instructions,
            frames,
            reason,
        })
    }
}

/// Returns the value in `key=value`. `None` if the key differs.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.strip_prefix(key)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn end(outcome: Outcome, reason: Option<&str>) -> Record<'_> {
        Record::End(Ended {
            name: "a::b",
            outcome,
            instructions: 12,
            frames: (3, 4),
            reason,
        })
    }

    #[test]
    fn each_record_is_written_and_read_as_the_same_line() {
        let cases = [
            ("@ready", Record::Ready),
            ("@tests 41", Record::Tests(41)),
            (
                "@begin grow::in_place deadline=10",
                Record::Begin {
                    name: "grow::in_place",
                    deadline: 10,
                },
            ),
            (
                "@end a::b passed instructions=12 frames=3..4",
                end(Outcome::Passed, None),
            ),
            (
                "@end a::b failed instructions=12 frames=3..4 reason=1 frame leaked, x = 2",
                end(Outcome::Failed, Some("1 frame leaked, x = 2")),
            ),
            (
                "@end a::b panicked instructions=12 frames=3..4 reason=",
                end(Outcome::Panicked, Some("")),
            ),
            (
                "@end a::b faulted instructions=12 frames=3..4",
                end(Outcome::Faulted, None),
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
                    filter: Some("grow::"),
                },
            ),
            (
                "@frame 0xffff800000012345 times=3",
                Record::Frame {
                    address: 0xffff_8000_0001_2345,
                    times: 3,
                },
            ),
            ("@input", Record::Input),
            ("@hold", Record::Hold),
        ];
        for (line, record) in cases {
            assert_eq!(record.to_string(), line);
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
            "@frame",
            "@frame 0x1",
            "@frame 12345 times=1",
            "@frame 0x times=1",
            "@frame 0x12345678901234567 times=1",
            "@hold on",
        ];
        for line in lines {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
