//! The test that runs now, and the record of how it ended.
//!
//! The state is in atomic variables and not behind a lock: a test may crash while it holds any
//! lock.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use kernel_protocol::record::{self, Outcome, Record};

use super::{Expectation, Test};
use crate::memory::frames;
use crate::panic::Crash;
use crate::serial::send_unlocked;
use crate::text::Line;
use crate::time_stamp;

/// The longest reason in a record, in bytes.
const REASON: usize = 400;

/// The test that runs; null between tests.
static TEST: AtomicPtr<Test> = AtomicPtr::new(ptr::null_mut());
/// The time-stamp counter at the beginning of the test.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// The number of frames in use at the beginning of the test.
static FRAMES: AtomicUsize = AtomicUsize::new(0);

/// A test that has ended, and what it cost.
pub(super) struct Ended {
    test: &'static Test,
    instructions: u64,
    /// The number of frames that were in use before it.
    frames: usize,
}

/// Notes that `test` begins.
pub(super) fn begin(test: &'static Test) {
    FRAMES.store(frames::usage().used(), Ordering::Relaxed);
    BEGAN.store(time_stamp(), Ordering::Relaxed);
    TEST.store(ptr::from_ref(test).cast_mut(), Ordering::Release);
}

/// Notes that the running test has ended, and returns it. `None` between tests.
pub(super) fn end() -> Option<Ended> {
    let now = time_stamp();
    let test = TEST.swap(ptr::null_mut(), Ordering::Acquire);
    // SAFETY: `begin` stores only pointers made of a `&'static Test`; otherwise it is null.
    let test = unsafe { test.as_ref() }?;
    Some(Ended {
        test,
        instructions: now - BEGAN.load(Ordering::Relaxed),
        frames: FRAMES.load(Ordering::Relaxed),
    })
}

/// Tells the host how the running test ended, when the kernel crashes for `reason`. Does nothing
/// between tests. Takes no lock.
pub(super) fn crashed(crash: Crash, reason: &dyn fmt::Display) {
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
    // The code that crashed may hold the lock of the frames. The count before the test then stands
    // in.
    let frames = frames::try_usage().map_or(ended.frames, |usage| usage.used());
    let not_as_expected = Unexpected { reason, expected };
    let reason = (!as_expected).then_some(&not_as_expected as &dyn fmt::Display);
    ended.report(outcome, frames, reason, |record| {
        send_unlocked(format_args!("{record}\n"));
    });
}

/// The reason of a crash that is not as expected.
struct Unexpected<'a> {
    reason: &'a dyn fmt::Display,
    /// The text that was expected in the reason.
    expected: Option<&'static str>,
}

impl fmt::Display for Unexpected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match self.expected {
            Some(text) => write!(f, " (expected: `{text}`)"),
            None => Ok(()),
        }
    }
}

impl Ended {
    /// Calls `write` with the record of how the test ended. `frames` are in use now.
    pub(super) fn report(
        self,
        outcome: Outcome,
        frames: usize,
        reason: Option<&dyn fmt::Display>,
        write: impl FnOnce(Record<'_>),
    ) {
        let reason = reason.map(Line::<REASON>::of);
        write(Record::End(record::Ended {
            name: self.test.name(),
            outcome,
            instructions: self.instructions,
            frames: (self.frames as u64, frames as u64),
            reason: reason.as_ref().map(Line::as_str),
        }));
    }
}
