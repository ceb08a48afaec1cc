//! Counts the locks that a CPU holds and that mask its interrupts.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The count of one CPU.
///
/// Only this CPU uses the count, with its interrupts masked, so that plain loads and stores
/// suffice. An exception in between that takes and releases locks leaves the count unchanged.
pub(crate) struct Nesting {
    depth: AtomicUsize,
    /// Whether interrupts were enabled when the depth rose from 0.
    were_enabled: AtomicBool,
}

impl Nesting {
    pub(crate) const fn new() -> Self {
        Self {
            depth: AtomicUsize::new(0),
            were_enabled: AtomicBool::new(false),
        }
    }

    /// Counts one more lock. `were_enabled` says whether interrupts were enabled before they were
    /// masked for this lock.
    #[inline]
    pub(crate) fn enter(&self, were_enabled: bool) {
        let depth = self.depth.load(Ordering::Relaxed);
        // In this order, an exception in between counts as nested and does not change the flag.
        self.depth.store(depth + 1, Ordering::Relaxed);
        if depth == 0 {
            self.were_enabled.store(were_enabled, Ordering::Relaxed);
        }
    }

    /// Counts one lock less. Returns whether the caller must enable interrupts.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        let were_enabled = self.were_enabled.load(Ordering::Relaxed);
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        depth == 0 && were_enabled
    }
}

#[cfg(test)]
mod tests {
    use super::Nesting;

    #[test]
    fn only_the_last_release_enables_interrupts() {
        let cpu = Nesting::new();
        // The flag of the first lock counts: interrupts are masked when the others are taken.
        cpu.enter(true);
        cpu.enter(false);
        cpu.enter(false);
        assert_eq!([(); 3].map(|()| cpu.leave()), [false, false, true]);
    }

    #[test]
    fn interrupts_stay_masked_if_they_were_before_the_first_lock() {
        let cpu = Nesting::new();
        cpu.enter(false);
        cpu.enter(false);
        assert_eq!([cpu.leave(), cpu.leave()], [false; 2]);
        cpu.enter(true);
        assert!(cpu.leave(), "the next first lock has a flag of its own");
    }

    #[test]
    fn a_handler_within_a_lock_keeps_the_flag_of_the_first() {
        let cpu = Nesting::new();
        cpu.enter(true);
        // The code enables interrupts by hand, and the handler of one locks and unlocks.
        cpu.enter(false);
        assert!(!cpu.leave());
        assert!(cpu.leave());
    }
}
