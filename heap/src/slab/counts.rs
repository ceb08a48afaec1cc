//! What each CPU has done.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Cpus, SLAB_SIZE, SlabAllocator};
use crate::source::StableGlobalAlloc;

/// What one CPU-local part has done since the allocator was created, and what it holds back: see
/// [`SlabAllocator::cpu_stats`]. The counts wrap around.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuStats {
    /// The number of allocations that took a free block of the current slab: the fast path.
    #[cfg(feature = "counters")]
    #[cfg_attr(docsrs, doc(cfg(feature = "counters")))]
    pub hits: usize,
    /// The number of allocations for which the current slab had no free block. Then another slab
    /// became the current one, or memory of the slab that was never used became blocks. (One that
    /// was tried again after [reaping](SlabAllocator::reap) counts again.)
    pub misses: usize,
    /// The number of slabs that were made of pages of the allocator behind.
    pub new_slabs: usize,
    /// The number of batches that were brought to slabs of other CPUs: 16 freed blocks each, or
    /// fewer when the part was reaped.
    pub batches: usize,
    /// The number of slabs of other CPUs that blocks were brought to, by one compare-and-swap each:
    /// neighbours in a batch go together.
    pub deliveries: usize,
    /// The number of times that the part took the lock of the lists that all CPUs share.
    pub locks: usize,
    /// The bytes that the part holds back, at most [`MAX_HELD_BACK`](super::MAX_HELD_BACK).
    pub held_back: usize,
}

/// The counts of one part. Only its CPU changes them.
pub(super) struct Counts {
    #[cfg(feature = "counters")]
    hits: AtomicUsize,
    misses: AtomicUsize,
    new_slabs: AtomicUsize,
    batches: AtomicUsize,
    deliveries: AtomicUsize,
    locks: AtomicUsize,
    /// The bytes of the blocks in the batch.
    batch_bytes: AtomicUsize,
}

/// Adds to a count that only this CPU changes.
#[inline]
fn add(count: &AtomicUsize, number: usize) {
    count.store(count.load(Relaxed).wrapping_add(number), Relaxed);
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self {
            #[cfg(feature = "counters")]
            hits: AtomicUsize::new(0),
            misses: AtomicUsize::new(0),
            new_slabs: AtomicUsize::new(0),
            batches: AtomicUsize::new(0),
            deliveries: AtomicUsize::new(0),
            locks: AtomicUsize::new(0),
            batch_bytes: AtomicUsize::new(0),
        }
    }

    /// Counts an allocation on the fast path, if it succeeded.
    #[inline]
    pub(super) fn count_hit(&self, is_hit: bool) {
        #[cfg(feature = "counters")]
        add(&self.hits, usize::from(is_hit));
        let _ = is_hit;
    }

    pub(super) fn count_miss(&self) {
        add(&self.misses, 1);
    }

    pub(super) fn count_new_slab(&self) {
        add(&self.new_slabs, 1);
    }

    pub(super) fn count_delivery(&self) {
        add(&self.deliveries, 1);
    }

    pub(super) fn count_lock(&self) {
        add(&self.locks, 1);
    }

    /// Notes that a block of `bytes` is in the batch.
    pub(super) fn note_in_batch(&self, bytes: usize) {
        add(&self.batch_bytes, bytes);
    }

    /// Counts the batch, unless it is empty, and notes that it is empty now.
    pub(super) fn count_batch(&self) {
        let is_batch = self.batch_bytes.load(Relaxed) > 0;
        add(&self.batches, usize::from(is_batch));
        self.batch_bytes.store(0, Relaxed);
    }

    /// Returns the counts. Of what is held back they have the batch.
    pub(super) fn stats(&self) -> CpuStats {
        CpuStats {
            #[cfg(feature = "counters")]
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            new_slabs: self.new_slabs.load(Relaxed),
            batches: self.batches.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            locks: self.locks.load(Relaxed),
            held_back: self.batch_bytes.load(Relaxed),
        }
    }
}

impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    /// Returns what each CPU-local part has done, and holds back. O(slabs). Exact while no other
    /// CPU allocates or frees.
    pub fn cpu_stats(&self) -> [CpuStats; CPUS] {
        let mut all: [_; CPUS] = core::array::from_fn(|cpu| self.cell(cpu).counts.stats());
        self.cpus.with(|_| {
            for slab in self.shared.lock().all().iter() {
                if let Some(part) = slab.holding_part().and_then(|part| all.get_mut(part)) {
                    part.held_back += SLAB_SIZE;
                }
            }
        });
        all
    }
}
