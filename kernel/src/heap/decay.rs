//! When free pages go back: after a number of operations, or a time.
//!
//! A pass over the heap gives back what has been free since the pass before. The first free after
//! the interval makes the pass. It counts calls that free memory of Talc, because that costs least
//! (slabs call it for pages). The ticks are those of the
//! [timer](crate::interrupts::timer): 250 are a quarter of a second if it runs at 1,000 hertz.

pub use heap::source::DecayInterval as Interval;

use super::HEAP;

/// Sets the interval, and begins it anew. Returns the one before.
pub fn set_interval(interval: Interval) -> Interval {
    HEAP.set_decay_interval(interval)
}

/// Counts a tick of the timer.
#[cfg(target_os = "none")]
pub(crate) fn count_tick() {
    HEAP.count_tick();
}
