//! The synthetic workload: a random mix of small and some larger blocks.

use core::alloc::{GlobalAlloc, Layout};

use kernel::trace::Operation;

use super::replayer::Replayer;

/// How many blocks live at most.
pub const SLOTS: usize = 2_000;

/// A xorshift generator (Marsaglia, "Xorshift RNGs", 2003).
pub struct Mix(u64);

impl Mix {
    /// The mix that `seed` determines. Zero is taken as one.
    pub fn new(seed: u64) -> Self {
        Mix(seed.max(1))
    }

    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    /// The next operation: for a random slot, an allocation if it is empty; else a free, or one time in eight a
    /// reallocation. Sizes are 1 to 2,048 bytes, small ones far more often; alignments 1 to 16.
    pub fn operation<H: GlobalAlloc, const V: bool>(
        &mut self,
        player: &Replayer<'_, H, V>,
    ) -> Operation {
        let slot = self.next() % player.slots();
        let most = 8 << (self.next() % 9);
        let size = 1 + self.next() % most;
        if !player.holds(slot) {
            let layout = Layout::from_size_align(size, 1 << (self.next() % 5));
            Operation::Allocate {
                slot,
                layout: layout.unwrap_or(Layout::new::<u64>()),
            }
        } else if self.next().is_multiple_of(8) {
            Operation::Reallocate { slot, size }
        } else {
            Operation::Free { slot }
        }
    }
}
