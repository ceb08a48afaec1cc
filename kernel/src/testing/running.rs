//! The test that runs now, and the record of how it ended.
//!
//! No locks: a test may die anywhere.

use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::{Expectation, Test};
use crate::memory::frames;
use crate::panic::Crash;
use crate::serial::println_unlocked;
use crate::text::Line;

/// The longest reason in a record, in bytes.
const REASON: usize = 400;

/// The test that runs; null when none does.
static TEST: AtomicPtr<Test> = AtomicPtr::new(ptr::null_mut());
/// The time stamp counter when it began.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// The frames in use when it began.
static FRAMES: AtomicUsize = AtomicUsize::new(0);

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Panicked,
    Faulted,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Faulted => "faulted",
        }
    }
}

/// A test that has ended, and what it took.
pub(super) struct Ended {
    test: &'static Test,
    instructions: u64,
    frames: usize,
}

/// The line that tells the host how a test ended.
pub(super) struct Record<'a> {
    ended: Ended,
    outcome: Outcome,
    /// The frames in use afterwards.
    frames: usize,
    reason: Option<&'a dyn fmt::Display>,
}

pub(super) fn begin(test: &'static Test) {
    FRAMES.store(frames::usage().used(), Ordering::Relaxed);
    BEGAN.store(time_stamp(), Ordering::Relaxed);
    TEST.store(ptr::from_ref(test).cast_mut(), Ordering::Release);
}

/// Ends the test that runs.
pub(super) fn end() -> Option<Ended> {
    let now = time_stamp();
    let test = TEST.swap(ptr::null_mut(), Ordering::Acquire);
    // SAFETY: it is null or came from a `&'static Test`.
    let test = unsafe { test.as_ref() }?;
    Some(Ended {
        test,
        instructions: now - BEGAN.load(Ordering::Relaxed),
        frames: FRAMES.load(Ordering::Relaxed),
    })
}

/// Tells the host how the test that runs has ended, if one runs, when the kernel dies for `reason`.
/// Waits for no lock.
pub(super) fn died(crash: Crash, reason: &dyn fmt::Display) {
    let Some(ended) = end() else { return };
    let (unexpected, expected) = match (crash, ended.test.expectation) {
        (Crash::Panic, Expectation::Panics(text)) => (Outcome::Panicked, Some(text)),
        (Crash::Panic, _) => (Outcome::Panicked, None),
        (Crash::Fault, Expectation::Faults(text)) => (Outcome::Faulted, Some(text)),
        (Crash::Fault, _) => (Outcome::Faulted, None),
    };
    let as_expected =
        expected.is_some_and(|text| Line::<REASON>::of(reason).as_str().contains(text));
    let outcome = if as_expected {
        Outcome::Passed
    } else {
        unexpected
    };
    // Whoever died may hold the lock of the frames: then what there was before must do.
    let frames = frames::try_usage().map_or(ended.frames, |usage| usage.used());
    println_unlocked!(
        "{}",
        ended.record(outcome, frames, (!as_expected).then_some(reason))
    );
}

/// Under `-icount shift=0` this counts instructions.
fn time_stamp() -> u64 {
    // SAFETY: every CPU with 64-bit mode has the instruction.
    unsafe { _rdtsc() }
}

impl Ended {
    pub fn record(
        self,
        outcome: Outcome,
        frames: usize,
        reason: Option<&dyn fmt::Display>,
    ) -> Record<'_> {
        Record {
            ended: self,
            outcome,
            frames,
            reason,
        }
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended {
            test,
            instructions,
            frames,
        } = self.ended;
        write!(
            f,
            "@end {} {} instructions={instructions} frames={frames}..{}",
            test.name(),
            self.outcome.name(),
            self.frames
        )?;
        match self.reason {
            Some(reason) => write!(f, " reason={}", Line::<REASON>::of(reason).as_str()),
            None => Ok(()),
        }
    }
}
