//! Failures on purpose, for tests of what happens when something runs out.

use crate::sync::InterruptMutex;

/// Allocations of frames, for whatever purpose.
pub static FRAMES: FailPoint = FailPoint::new();

/// Pages that are mapped.
pub static MAPPINGS: FailPoint = FailPoint::new();

/// A place where calls can be made to fail. Without the feature `fault-injection` none does.
#[derive(Debug)]
pub struct FailPoint {
    state: InterruptMutex<State>,
}

#[derive(Debug)]
struct State {
    /// The next call to fail, after so many that succeed.
    after: Option<usize>,
    /// Whether those after it fail, too.
    all: bool,
    failed: usize,
}

impl FailPoint {
    const fn new() -> Self {
        Self {
            state: InterruptMutex::new(State::NONE),
        }
    }

    /// Whether the call that is made now is to fail.
    #[inline]
    pub(super) fn fails(&self) -> bool {
        cfg!(any(test, feature = "fault-injection")) && self.state.lock().fails()
    }
}

#[cfg(any(test, feature = "fault-injection"))]
impl FailPoint {
    /// Lets one call fail, after `calls` that succeed.
    pub fn fail_once(&self, calls: usize) {
        self.set(calls, false);
    }

    /// Lets all calls fail, after `calls` that succeed.
    pub fn fail_from(&self, calls: usize) {
        self.set(calls, true);
    }

    /// Lets all calls succeed again, and returns how many have failed.
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
    fn one_call_fails_when_told_to() {
        let calls = FailPoint::new();
        calls.fail_once(1);
        assert_eq!([(); 4].map(|()| calls.fails()), [false, true, false, false]);
        assert_eq!(calls.fail_never(), 1);
    }

    #[test]
    fn all_calls_fail_until_told_otherwise() {
        let calls = FailPoint::new();
        calls.fail_from(2);
        assert_eq!([(); 4].map(|()| calls.fails()), [false, false, true, true]);
        assert_eq!(calls.fail_never(), 2);
        assert!(!calls.fails());
    }

    #[test]
    fn a_failure_that_was_not_met_is_not_counted() {
        let calls = FailPoint::new();
        calls.fail_once(1);
        assert!(!calls.fails());
        assert_eq!(calls.fail_never(), 0);
        assert!(!calls.fails());
    }
}
