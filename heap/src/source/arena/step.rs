//! How much to grow by, and how much free room to leave at a heap's top.
//!
//! Growth steps are an eighth of what is claimed, from 64 KiB to 2 MiB. The free top may grow to two
//! *slacks* before pages go back, and one slack is left; a slack is at least a step, so that a block that
//! is allocated and freed across a boundary never bounces. Blocks larger than that could: each time that
//! growth follows directly upon giving back, the slack is doubled (up to 2 MiB); each time that pages
//! go back twice without growth between, it is halved.

/// Smallest growth step, in bytes.
pub(super) const MIN_STEP: usize = 64 << 10;
/// Largest growth step that the layout does not demand, in bytes.
pub(super) const MAX_STEP: usize = 2 << 20;

const MAX_BOUNCES: u32 = (MAX_STEP / MIN_STEP).ilog2();

/// The state of the rules above.
#[derive(Debug)]
pub(super) struct Step {
    /// How often growth followed directly upon giving back, less how often it did not.
    /// At most [`MAX_BOUNCES`].
    bounces: u32,
    /// Whether the last change gave pages back.
    gave_back: bool,
}

impl Step {
    pub const fn new() -> Self {
        Step {
            bounces: 0,
            gave_back: false,
        }
    }

    /// How many bytes to grow by, with `claimed` bytes in all heaps.
    pub fn growth(&self, claimed: usize) -> usize {
        (claimed / 8).clamp(MIN_STEP, MAX_STEP)
    }

    /// How many free bytes to leave at the top of a heap that gives back.
    pub fn slack(&self, claimed: usize) -> usize {
        self.growth(claimed).max(MIN_STEP << self.bounces)
    }

    /// Whether a heap that became empty may stay because it was wanted again soon the last time.
    pub fn keeps_empty_heaps(&self) -> bool {
        self.bounces > 0
    }

    /// Records that the heap grew.
    pub fn grew(&mut self) {
        if self.gave_back {
            self.bounces = (self.bounces + 1).min(MAX_BOUNCES);
        }
        self.gave_back = false;
    }

    /// Records that pages were given back.
    pub fn gave_back(&mut self) {
        if self.gave_back {
            self.bounces = self.bounces.saturating_sub(1);
        }
        self.gave_back = true;
    }
}
