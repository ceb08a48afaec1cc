//! The workloads of the comparison: a random mix of operations, and a recorded trace.

use core::alloc::{GlobalAlloc, Layout};

use kernel::trace::{Operation, Trace};

use super::replayer::Replayer;

/// The number of operations of the random mix.
const MIX_OPERATIONS: usize = 20_000;
/// The largest number of live blocks of the random mix.
const MIX_SLOTS: usize = 2_000;
/// The number of operations of a trace. For all of them, `linked_list_allocator` would need
/// minutes.
const TRACE_OPERATIONS: usize = 10_000;

/// A sequence of operations that can be replayed on several allocators.
pub(crate) enum Workload<'t> {
    /// The random mix of this seed.
    RandomMix(u64),
    /// The beginning of a trace.
    Trace(&'t Trace<'t>),
}

impl Workload<'_> {
    /// Returns the number of operations.
    pub(crate) fn operations(&self) -> usize {
        match self {
            Workload::RandomMix(_) => MIX_OPERATIONS,
            Workload::Trace(trace) => trace.len().min(TRACE_OPERATIONS),
        }
    }

    /// Returns the number of slots.
    pub(crate) fn slots(&self) -> usize {
        match self {
            Workload::RandomMix(_) => MIX_SLOTS,
            Workload::Trace(trace) => trace.slots(),
        }
    }

    /// Returns a number of bytes that suffices for an allocator that wastes up to half of them.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Workload::RandomMix(_) => 4 << 20,
            Workload::Trace(trace) => 2 * trace.peak() + (1 << 20),
        }
    }
}

/// A random mix of small blocks and a few larger ones, from a xorshift generator (Marsaglia,
/// "Xorshift RNGs", 2003).
pub(crate) struct RandomMix(u64);

impl RandomMix {
    /// Creates the mix of a seed. The seeds 0 and 1 give the same mix.
    pub(crate) fn new(seed: u64) -> Self {
        RandomMix(seed.max(1))
    }

    /// Returns a random number.
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }

    /// Returns the next operation, for a random slot of `replayer`.
    ///
    /// An empty slot gets a block. Other slots are freed, or one time in eight reallocated. Sizes
    /// are 1 to 2,048 bytes, mostly small; alignments are 1 to 16.
    pub(crate) fn operation<H: GlobalAlloc, const V: bool>(
        &mut self,
        replayer: &Replayer<'_, H, V>,
    ) -> Operation {
        let slot = self.next() % replayer.slots();
        let most = 8 << (self.next() % 9);
        let size = 1 + self.next() % most;
        if !replayer.holds(slot) {
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
