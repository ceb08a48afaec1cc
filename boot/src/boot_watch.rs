//! Watches one boot of the in-kernel tests: a state machine over the records. It uses neither QEMU
//! nor a clock, so tests on the host cover each way in which a boot ends.

use std::time::Duration;

use kernel_protocol::{
    exit::ExitCode,
    number::Thousands,
    record::{Ended, Outcome, Record},
};

use crate::{
    failure::Failure,
    machine::{BOOT_LIMIT, Exit, Moment},
    report::{TestResult, Verdict},
    serial::Piece,
};

/// The time limit between two tests.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// The scale of the numbers in the records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// The factor of all deadlines. `None` stands for no deadlines.
    pub deadline: Option<u32>,
    /// The unit of a test's cost: `instructions` or `cycles`.
    pub unit: &'static str,
    /// The number of ticks of the kernel's counter in one unit.
    pub ticks_per_unit: u64,
}

/// The state of one boot.
#[derive(Debug)]
pub(crate) struct BootWatch {
    scale: Scale,
    /// The time at which the current limit expires.
    due: Option<Duration>,
    is_ready: bool,
    /// The number of tests that the kernel announced.
    announced: Option<usize>,
    running: Option<Running>,
    results: Vec<TestResult>,
    /// The kernel's count of passed and failed tests at the end.
    done: Option<(usize, usize)>,
    /// The output outside of tests.
    text: Vec<u8>,
    /// Shows a result.
    show: fn(&TestResult),
}

/// The test that runs.
#[derive(Debug)]
struct Running {
    name: String,
    /// When it began, in the time that has passed.
    began: Duration,
    deadline: Duration,
    text: Vec<u8>,
}

/// Why a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It ended by itself.
    Exit(Exit),
    /// It was killed after a time limit.
    Killed,
}

/// The results of one boot.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The results of the tests that ended in it or with it.
    pub results: Vec<TestResult>,
    /// The number of tests that are left for the next boot, or the failure that rules out another
    /// boot.
    pub left: Result<usize, Failure>,
    /// The output of the kernel outside of tests.
    pub text: String,
}

impl BootWatch {
    /// Returns the state at the beginning of a boot, at time zero. Calls `show` with each result.
    pub(crate) fn new(scale: Scale, show: fn(&TestResult)) -> Self {
        let mut watch = Self {
            scale,
            due: None,
            is_ready: false,
            announced: None,
            running: None,
            results: Vec::new(),
            done: None,
            text: Vec::new(),
            show,
        };
        watch.set_due(Duration::ZERO, BOOT_LIMIT);
        watch
    }

    /// Returns when the current limit expires on the clock of the boot. `None` without limits.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Takes the next piece of the kernel's output.
    ///
    /// # Errors
    /// [`Failure::Protocol`] if a record contradicts an earlier one.
    pub(crate) fn take(&mut self, piece: Piece<'_>, now: Moment) -> Result<(), Failure> {
        let record = match piece {
            Piece::Text(bytes) => {
                self.running
                    .as_mut()
                    .map_or(&mut self.text, |running| &mut running.text)
                    .extend(bytes);
                return Ok(());
            }
            Piece::Record(record) => record,
        };
        match record {
            Record::Ready => {
                self.is_ready = true;
                self.set_due(now.clock, IDLE_LIMIT);
            }
            Record::Tests(count) => self.announced = Some(count),
            Record::Begin { name, deadline } => {
                if let Some(running) = &self.running {
                    return Err(Failure::Protocol(format!(
                        "{name} begins before {} ends",
                        running.name
                    )));
                }
                let deadline = Duration::from_secs(deadline.into());
                self.set_due(now.clock, deadline);
                self.running = Some(Running {
                    name: name.into(),
                    began: now.passed,
                    deadline,
                    text: Vec::new(),
                });
            }
            Record::End(ended) => {
                let Some(running) = self.running.take_if(|running| running.name == ended.name)
                else {
                    return Err(Failure::Protocol(format!(
                        "{} ends and has not begun",
                        ended.name
                    )));
                };
                self.set_due(now.clock, IDLE_LIMIT);
                self.push(self.result_of(running, ended, now));
            }
            Record::Done { passed, failed } => self.done = Some((passed, failed)),
            Record::RunTests { .. } => {
                return Err(Failure::Protocol("the tests ask for the tests".into()));
            }
            Record::Soak { .. } | Record::Input | Record::Hold | Record::Frame { .. } => {
                return Err(Failure::Protocol(format!("`{record}` in a test")));
            }
        }
        Ok(())
    }

    /// Ends the boot at `now`. A test that still runs gets a verdict from how the boot ended.
    pub(crate) fn end(mut self, end: End, now: Moment) -> Booted {
        if let Some(running) = self.running.take() {
            self.push(TestResult {
                verdict: verdict_at_end(&end, running.deadline),
                name: running.name,
                took: Some(now.passed - running.began),
                cost: None,
                text: lossy(&running.text),
            });
        } else if self.done.is_none()
            && end != End::Exit(Exit::Kernel(ExitCode::Panicked))
            && end != End::Exit(Exit::Kernel(ExitCode::Faulted))
            && let Some(last) = self.results.last_mut()
        {
            // The last test should have ended the boot by a panic or a fault. The boot ended in
            // another way, so the test has damaged the kernel.
            last.verdict = verdict_at_end(&end, IDLE_LIMIT);
            (self.show)(last);
        }
        Booted {
            left: self.left(&end),
            text: lossy(&self.text),
            results: self.results,
        }
    }

    /// Ends the boot because of `failure`.
    pub(crate) fn give_up(self, failure: Failure) -> Booted {
        Booted {
            left: Err(failure),
            text: lossy(&self.text),
            results: self.results,
        }
    }

    /// Returns the number of tests that are left after `end`.
    fn left(&self, end: &End) -> Result<usize, Failure> {
        if self.done.is_some() || self.results.is_empty() {
            // No test ended this boot, so it must have ended with success or failed tests.
            match end {
                End::Exit(Exit::Kernel(ExitCode::Success)) => {}
                End::Exit(Exit::Kernel(ExitCode::Failed)) if self.done.is_some() => {}
                End::Exit(exit) => return exit.failure().map_or(Ok(0), Err),
                End::Killed => {
                    let (what, limit) = match self.is_ready {
                        false => ("sign of life from the kernel", BOOT_LIMIT),
                        true => ("next test", IDLE_LIMIT),
                    };
                    return Err(Failure::timed_out(what, limit));
                }
            }
        }
        let announced = self
            .announced
            .ok_or_else(|| Failure::Protocol("no tests were announced".into()))?;
        let left = announced.checked_sub(self.results.len()).ok_or_else(|| {
            Failure::Protocol(format!(
                "{announced} tests announced, {} ended",
                self.results.len()
            ))
        })?;
        match self.done {
            Some(_) if left > 0 => Err(Failure::Protocol(format!(
                "{left} of {announced} tests have not run"
            ))),
            Some((passed, failed)) => self.check_count(passed, failed).map(|()| 0),
            None if self.results.is_empty() => {
                Err(Failure::Protocol("it exited before its first test".into()))
            }
            None => Ok(left),
        }
    }

    fn push(&mut self, result: TestResult) {
        (self.show)(&result);
        self.results.push(result);
    }

    fn set_due(&mut self, now: Duration, limit: Duration) {
        self.due = self
            .scale
            .deadline
            .and_then(|factor| now.checked_add(limit.checked_mul(factor)?));
    }

    fn result_of(&self, running: Running, ended: Ended<'_>, now: Moment) -> TestResult {
        let reason = ended
            .reason
            .unwrap_or("the kernel gives no reason")
            .to_owned();
        let verdict = match ended.outcome {
            Outcome::Passed => Verdict::Passed,
            Outcome::Failed => Verdict::Failed {
                how: "failed",
                reason,
            },
            Outcome::Panicked => Verdict::Failed {
                how: "panicked",
                reason,
            },
            Outcome::Faulted => Verdict::Failed {
                how: "faulted",
                reason,
            },
        };
        let cost = Thousands(ended.instructions / self.scale.ticks_per_unit);
        let mut cost = format!("{cost} {}", self.scale.unit);
        let (before, after) = ended.frames;
        // After a test that passed, more pages of boundary tags may be in use: the kernel allows a
        // few. A test that ends by a panic frees nothing.
        if before != after && verdict != Verdict::Passed {
            cost += &format!(", {before} frames before and {after} after");
        }
        TestResult {
            name: running.name,
            verdict,
            took: Some(now.passed - running.began),
            cost: Some(cost),
            text: lossy(&running.text),
        }
    }

    /// Compares the kernel's count with the results.
    fn check_count(&self, passed: usize, failed: usize) -> Result<(), Failure> {
        let counted = self
            .results
            .iter()
            .filter(|result| result.verdict == Verdict::Passed)
            .count();
        if (passed, failed) == (counted, self.results.len() - counted) {
            return Ok(());
        }
        Err(Failure::Protocol(format!(
            "the kernel counts {passed} passed and {failed} failed, \
             its records say {counted} and {}",
            self.results.len() - counted
        )))
    }
}

/// Returns the verdict of a test that ran when the boot ended.
fn verdict_at_end(end: &End, limit: Duration) -> Verdict {
    let (how, reason) = match end {
        End::Killed => (
            "timed out",
            format!("not done within {} s", limit.as_secs()),
        ),
        End::Exit(exit) => match exit {
            Exit::Kernel(ExitCode::Panicked) => ("panicked", "the kernel panicked".to_owned()),
            Exit::Kernel(ExitCode::Faulted) => ("faulted", "the kernel met a fault".to_owned()),
            Exit::Reset => (
                "reset",
                "the machine reset itself (a triple fault?)".to_owned(),
            ),
            Exit::Debugger => ("died", "the debugger has ended the machine".to_owned()),
            Exit::Kernel(ExitCode::Success)
            | Exit::Kernel(ExitCode::Failed)
            | Exit::Kernel(ExitCode::Refused) => ("died", "the kernel exited".to_owned()),
        },
    };
    Verdict::Failed { how, reason }
}

/// Returns `bytes` as text. Invalid UTF-8 becomes replacement characters.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
