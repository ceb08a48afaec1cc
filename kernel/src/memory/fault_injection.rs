//! Fault injection: failures on purpose, for tests of code that handles exhaustion.

use crate::sync::InterruptMutex;

/// The allocation of a frame, for any purpose.
pub static FRAMES: FailPoint = FailPoint::new();

/// The mapping of a page.
pub static MAPPINGS: FailPoint = FailPoint::new();

/// A point in the code where a test can make calls fail. Without the feature `fault-injection` no
/// call fails.
#[derive(Debug)]
pub struct FailPoint {
    state: InterruptMutex<State>,
}

#[derive(Debug)]
struct State {
    /// The number of calls that succeed before one fails; `None` if no call fails.
    after: Option<usize>,
    /// Whether all calls after that one fail too.
    all: bool,
    /// The number of calls that have failed.
    failed: usize,
}

impl FailPoint {
    const fn new() -> Self {
        Self {
            state: InterruptMutex::new(State::NONE),
        }
    }

    /// Counts a call, and returns whether the call must fail.
    #[inline]
    pub(super) fn fails(&self) -> bool {
        cfg!(any(test, feature = "fault-injection")) && self.state.lock().fails()
    }
}

#[cfg(any(test, feature = "fault-injection"))]
impl FailPoint {
    /// Makes one call fail, after `calls` calls that succeed.
    pub fn fail_once(&self, calls: usize) {
        self.set(calls, false);
    }

    /// Makes all calls fail, after `calls` calls that succeed.
    pub fn fail_from(&self, calls: usize) {
        self.set(calls, true);
    }

    /// Makes all calls succeed again. Returns the number of calls that failed.
    pub fn fail_never(&self) -> usize {
        core::mem::replace(&mut *self.state.lock(), State::NONE).failed
    }

    fn set(&self, calls: usize, all: bool) {
        *self.state.lock() = State {
            after: Some(calls),
            all,
            failed: 0,
        };
    }
}

impl State {
    const NONE: Self = Self {
        after: None,
        all: false,
        failed: 0,
    };

    fn fails(&mut self) -> bool {
        match &mut self.after {
            None => return false,
            Some(0) if self.all => {}
            Some(0) => self.after = None,
            Some(calls) => {
                *calls -= 1;
                return false;
            }
        }
        self.failed += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_once_makes_one_call_fail() {
        let calls = FailPoint::new();
        calls.fail_once(1);
        assert_eq!([(); 4].map(|()| calls.fails()), [false, true, false, false]);
        assert_eq!(calls.fail_never(), 1);
    }

    #[test]
    fn fail_from_makes_calls_fail_until_fail_never() {
        let calls = FailPoint::new();
        calls.fail_from(2);
        assert_eq!([(); 4].map(|()| calls.fails()), [false, false, true, true]);
        assert_eq!(calls.fail_never(), 2);
        assert!(!calls.fails());
    }

    #[test]
    fn a_failure_that_never_happened_is_not_counted() {
        let calls = FailPoint::new();
        calls.fail_once(1);
        assert!(!calls.fails());
        assert_eq!(calls.fail_never(), 0);
        assert!(!calls.fails());
    }
}
