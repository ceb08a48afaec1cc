//! The operations of model programs on a bare `Talc`, over any source.

use std::alloc::Layout;

use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::source::Source;

use crate::common::random::Random;
use crate::common::shadow::Shadow;

/// The number of bits of the largest sizes.
const SIZE_BITS: u32 = 11;

pub(crate) fn random_layout(random: &mut Random) -> Layout {
    let size = random.size(SIZE_BITS);
    let log2 = if random.below(4) == 0 { 12 } else { 5 };
    Layout::from_size_align(size, 1 << random.below(log2)).unwrap()
}

/// Returns whether programs allocate more than they free in this step. Such phases alternate with
/// the opposite.
pub(crate) fn is_growing(step: usize) -> bool {
    (step / 50) % 2 == 0
}

/// Allocates, frees or resizes.
pub(crate) fn step<S: Source, B: Binning>(
    talc: &mut Talc<S, B>,
    shadow: &mut Shadow,
    random: &mut Random,
    growing: bool,
) {
    let choice = random.below(16);
    if choice < if growing { 10 } else { 3 } {
        let layout = random_layout(random);
        // SAFETY: the size is not zero.
        if let Some(ptr) = unsafe { talc.allocate(layout) } {
            shadow.insert(ptr.as_ptr(), layout);
        }
    } else if let Some(block) = shadow.take(random) {
        let old_size = block.layout.size();
        let (new_size, done) = match choice {
            // SAFETY: the block is live, and the sizes are as each operation requires.
            11 | 12 => unsafe {
                let new_size = old_size + random.size(SIZE_BITS);
                let done = talc.try_grow_in_place(block.ptr, block.layout, new_size);
                (new_size, done)
            },
            // SAFETY: as above.
            13 | 14 => unsafe {
                let new_size = 1 + random.below(old_size);
                talc.shrink(block.ptr, block.layout, new_size);
                (new_size, true)
            },
            // SAFETY: as above.
            15 => unsafe {
                let new_size = random.size(SIZE_BITS);
                let done = talc.try_realloc_in_place(block.ptr, block.layout, new_size);
                assert!(done || new_size > old_size, "shrinking failed");
                (new_size, done)
            },
            _ => {
                // SAFETY: the block is live.
                unsafe { talc.deallocate(block.ptr, block.layout) };
                return;
            }
        };
        shadow.put_back(block, block.ptr, if done { new_size } else { old_size });
    }
}

pub(crate) fn free_all<S: Source, B: Binning>(
    talc: &mut Talc<S, B>,
    shadow: &mut Shadow,
    random: &mut Random,
) {
    while let Some(block) = shadow.take(random) {
        // SAFETY: the block is live.
        unsafe { talc.deallocate(block.ptr, block.layout) };
    }
    talc.check().unwrap();
    assert_counters_agree(talc, shadow);
}

#[cfg(feature = "counters")]
pub(crate) fn assert_counters_agree<S: Source, B: Binning>(talc: &Talc<S, B>, shadow: &Shadow) {
    let counters = talc.counters();
    assert_eq!(counters.allocation_count, shadow.len());
    assert_eq!(counters.allocated_bytes, shadow.bytes());
    assert!(counters.total_allocation_count >= shadow.len() as u64);
    assert!(counters.claimed_bytes >= counters.available_bytes + counters.allocated_bytes);
}

#[cfg(not(feature = "counters"))]
pub(crate) fn assert_counters_agree<S: Source, B: Binning>(_: &Talc<S, B>, _: &Shadow) {}
