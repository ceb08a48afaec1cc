//! When free pages go back: after a number of operations, or a time.
//!
//! A pass over the heap gives back what has been free since the pass before. The first free after
//! the interval makes the pass. It counts calls that free memory of Talc, because that costs least.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

#[cfg(any(doc, target_os = "none"))]
use crate::interrupts::timer;

/// How often a pass is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The number of calls that free memory of Talc (slabs call it for pages). Zero: they are not
    /// counted.
    pub frees: usize,
    /// The number of ticks of the [timer]. Zero: they are not counted.
    pub ticks: u64,
}

/// The interval if no other is set: 1,000 frees, or 250 ticks, which is a quarter of a second if
/// the timer runs at 1,000 hertz.
pub const DEFAULT_INTERVAL: Interval = Interval {
    frees: 1_000,
    ticks: 250,
};

static FREES: AtomicUsize = AtomicUsize::new(DEFAULT_INTERVAL.frees);
static TICKS: AtomicU64 = AtomicU64::new(DEFAULT_INTERVAL.ticks);

/// The number of frees before the one that finds a pass due; zero if one is due.
static LEFT: AtomicUsize = AtomicUsize::new(DEFAULT_INTERVAL.frees - 1);
/// The tick of the timer at which the interval began.
#[cfg(target_os = "none")]
static BEGAN: AtomicU64 = AtomicU64::new(0);

/// Sets the interval, and begins it anew. Returns the one before.
pub fn set_interval(interval: Interval) -> Interval {
    let before = Interval {
        frees: FREES.swap(interval.frees, Relaxed),
        ticks: TICKS.swap(interval.ticks, Relaxed),
    };
    begin_interval();
    before
}

/// Counts a free. Returns whether a pass is due.
#[inline]
pub(super) fn count_free() -> bool {
    // An interrupt handler may count between the two. Then one free is not counted.
    let left = LEFT.load(Relaxed);
    LEFT.store(left.saturating_sub(1), Relaxed);
    left == 0
}

/// Returns whether a pass is due.
#[inline]
pub(super) fn is_due() -> bool {
    LEFT.load(Relaxed) == 0
}

/// Begins another interval.
pub(super) fn begin_interval() {
    // Zero frees are the largest number: they are not counted.
    LEFT.store(FREES.load(Relaxed).wrapping_sub(1), Relaxed);
    #[cfg(target_os = "none")]
    BEGAN.store(timer::ticks(), Relaxed);
}

/// Counts a tick of the timer.
#[cfg(target_os = "none")]
pub(crate) fn count_tick() {
    let interval = TICKS.load(Relaxed);
    if interval != 0 && timer::ticks() - BEGAN.load(Relaxed) >= interval {
        LEFT.store(0, Relaxed);
    }
}
