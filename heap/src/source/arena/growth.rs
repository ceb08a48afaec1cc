//! How much to grow by, and how much free room to leave at a heap's top.
//!
//! Growth steps are an eighth of what is claimed, from 64 KiB to 2 MiB. The free top may grow to two
//! *slacks* before pages go back, and one headroom is left; a headroom is at least a step, so that a block that
//! is allocated and freed across a boundary never bounces. Blocks larger than that could: each time that
//! growth follows directly upon giving back, the headroom is doubled (up to 2 MiB); each time that pages
//! go back twice without growth between, it is halved.

/// Smallest growth step, in bytes.
pub(super) const MIN_GROWTH: usize = 64 << 10;
/// Largest growth step that the layout does not demand, in bytes.
pub(super) const MAX_GROWTH: usize = 2 << 20;

const MAX_BOUNCES: u32 = (MAX_GROWTH / MIN_GROWTH).ilog2();

/// The state of the rules above.
#[derive(Debug)]
pub(super) struct GrowthPolicy {
    /// How often growth followed directly upon giving back, less how often it did not.
    /// At most [`MAX_BOUNCES`].
    bounces: u32,
    /// Whether the last change gave pages back.
    released_last: bool,
}

impl GrowthPolicy {
    pub const fn new() -> Self {
        GrowthPolicy {
            bounces: 0,
            released_last: false,
        }
    }

    /// How many bytes to grow by, with `claimed` bytes in all heaps.
    pub fn growth(&self, claimed: usize) -> usize {
        (claimed / 8).clamp(MIN_GROWTH, MAX_GROWTH)
    }

    /// How many free bytes to leave at the top of a heap that gives back.
    pub fn headroom(&self, claimed: usize) -> usize {
        self.growth(claimed).max(MIN_GROWTH << self.bounces)
    }

    /// Whether a heap that became empty may stay because it was wanted again soon the last time.
    pub fn retains_empty_heaps(&self) -> bool {
        self.bounces > 0
    }

    /// Records that the heap grew.
    pub fn record_growth(&mut self) {
        if self.released_last {
            self.bounces = (self.bounces + 1).min(MAX_BOUNCES);
        }
        self.released_last = false;
    }

    /// Records that pages were given back.
    pub fn record_release(&mut self) {
        if self.released_last {
            self.bounces = self.bounces.saturating_sub(1);
        }
        self.released_last = true;
    }
}
