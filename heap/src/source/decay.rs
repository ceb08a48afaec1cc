//! When free pages go back: after a number of frees, or of ticks of a timer.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How often a [`PageHeap`](super::PageHeap) makes a pass, which gives back what has been free
/// since the pass before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecayInterval {
    /// The number of operations that may free memory. Zero: they are not counted.
    pub frees: usize,
    /// The number of [ticks](super::PageHeap::count_tick). Zero: they are not counted.
    pub ticks: usize,
}

impl DecayInterval {
    /// 1,000 frees, or 250 ticks: a quarter of a second of a timer that runs at 1,000 hertz.
    pub const DEFAULT: Self = Self {
        frees: 1_000,
        ticks: 250,
    };
}

/// Counts frees and ticks until a pass is due.
///
/// A handler may interrupt each of the methods. Then one event may be lost, or a pass be made one
/// event early.
#[derive(Debug)]
pub(super) struct DecayTimer {
    frees: AtomicUsize,
    ticks: AtomicUsize,
    /// The number of frees before the one that finds a pass due; zero if one is due.
    left: AtomicUsize,
    /// The number of ticks since the interval began.
    elapsed: AtomicUsize,
}

impl DecayTimer {
    /// Begins the default interval.
    pub(super) const fn new() -> Self {
        let DecayInterval { frees, ticks } = DecayInterval::DEFAULT;
        Self {
            frees: AtomicUsize::new(frees),
            ticks: AtomicUsize::new(ticks),
            left: AtomicUsize::new(frees - 1),
            elapsed: AtomicUsize::new(0),
        }
    }

    /// Sets the interval, and begins it anew. Returns the one before.
    pub(super) fn set_interval(&self, interval: DecayInterval) -> DecayInterval {
        let before = DecayInterval {
            frees: self.frees.swap(interval.frees, Relaxed),
            ticks: self.ticks.swap(interval.ticks, Relaxed),
        };
        self.begin_interval();
        before
    }

    /// Counts a free. Returns whether a pass is due.
    #[inline]
    pub(super) fn count_free(&self) -> bool {
        let left = self.left.load(Relaxed);
        self.left.store(left.saturating_sub(1), Relaxed);
        left == 0
    }

    /// Counts a tick.
    pub(super) fn count_tick(&self) {
        let elapsed = self.elapsed.load(Relaxed).saturating_add(1);
        self.elapsed.store(elapsed, Relaxed);
        let ticks = self.ticks.load(Relaxed);
        if ticks != 0 && elapsed >= ticks {
            self.left.store(0, Relaxed);
        }
    }

    /// Returns whether a pass is due.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.left.load(Relaxed) == 0
    }

    /// Begins another interval.
    pub(super) fn begin_interval(&self) {
        // Zero frees are the largest number: they are not counted.
        let left = self.frees.load(Relaxed).wrapping_sub(1);
        self.left.store(left, Relaxed);
        self.elapsed.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(frees: usize, ticks: usize) -> DecayTimer {
        let timer = DecayTimer::new();
        assert_eq!(
            timer.set_interval(DecayInterval { frees, ticks }),
            DecayInterval::DEFAULT
        );
        timer
    }

    #[test]
    fn the_last_free_of_an_interval_finds_a_pass_due() {
        let timer = timer(3, 0);
        let count = || [(); 3].map(|()| timer.count_free());
        assert_eq!(count(), [false, false, true]);
        assert_eq!(count(), [true; 3], "until another interval begins");
        timer.begin_interval();
        assert_eq!(count(), [false, false, true]);
    }

    #[test]
    fn the_last_tick_of_an_interval_makes_a_pass_due() {
        let timer = timer(0, 2);
        let count = || {
            timer.count_tick();
            timer.is_due()
        };
        assert_eq!([count(), count(), count()], [false, true, true]);
        timer.begin_interval();
        assert_eq!([count(), count()], [false, true]);
    }

    #[test]
    fn an_interval_of_zero_events_does_not_end() {
        let timer = timer(0, 0);
        for _ in 0..10_000 {
            timer.count_tick();
            assert!(!timer.count_free());
        }
    }
}
