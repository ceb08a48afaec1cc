//! Edge cases and counters of `talc` 5.1.1, side by side with this crate.
//!
//! Each scenario is compiled once for either crate, and both must return the same.

#![cfg(all(feature = "counters", not(feature = "hardened")))]

mod common;

use common::memory::Memory;

/// Defines the scenarios for the crate that is called `talc` in the module around them.
macro_rules! scenes {
    () => {
        use std::alloc::Layout;
        use std::ptr::{NonNull, null_mut};

        use super::Memory;
        use super::common::random::Random;
        use talc::base::Talc;
        use talc::source::Manual;
        use talc::{DefaultBinning, min_first_heap_layout, min_first_heap_size};

        type ManualTalc = Talc<Manual, DefaultBinning>;

        fn layout(size: usize) -> Layout {
            Layout::from_size_align(size, 1).unwrap()
        }

        /// Returns the counters on which both crates agree: those that do not depend on the sizes
        /// of chunks.
        fn counts(talc: &ManualTalc) -> [u64; 8] {
            let counters = talc.counters();
            [
                counters.allocation_count as u64,
                counters.total_allocation_count,
                counters.allocated_bytes as u64,
                counters.total_allocated_bytes,
                counters.total_freed_bytes(),
                counters.heap_count as u64,
                counters.total_heap_count,
                counters.total_released_bytes(),
            ]
        }

        /// Both crates round the end of a heap to a multiple of this.
        const ROUND: usize = 64;

        pub fn least_first_claim(memory: &Memory) -> (bool, usize, bool, bool) {
            let enough = min_first_heap_layout::<DefaultBinning>().size();
            let (mut talc, end) = (0..=enough)
                .find_map(|size| {
                    let mut talc = ManualTalc::new(Manual);
                    // SAFETY: the range is in the memory.
                    let end = unsafe { talc.claim(memory.base(), size) }?;
                    Some((talc, end))
                })
                .expect("the documented size suffices");
            // SAFETY: the end is current, and the size is not zero.
            unsafe {
                let reserved = talc.reserved(end);
                (
                    reserved.any && reserved.up_to == end,
                    talc.counters().available_bytes,
                    talc.try_allocate(layout(1)).is_some(),
                    talc.truncate(end, null_mut()) == Some(end),
                )
            }
        }

        pub fn documented_minimum(memory: &Memory, offset: usize) -> bool {
            let mut talc = ManualTalc::new(Manual);
            let base = memory.base().wrapping_add(offset);
            // SAFETY: the range is in the memory.
            unsafe { talc.claim(base, min_first_heap_size::<DefaultBinning>()) }.is_some()
        }

        pub fn first_claim_counts(memory: &Memory, offset: usize) -> (usize, u64) {
            let mut talc = ManualTalc::new(Manual);
            let base = memory.base().wrapping_add(offset);
            let size = (memory.size() - offset) / ROUND * ROUND - offset % ROUND;
            // SAFETY: the range is in the memory.
            unsafe { talc.claim(base, size) }.unwrap();
            let counters = talc.counters();
            (counters.claimed_bytes, counters.total_claimed_bytes)
        }

        /// Returns whether the rest of an empty heap, if there is one, can be used.
        pub fn truncated(first: &Memory, memory: &Memory, size: usize) -> bool {
            let mut talc = ManualTalc::new(Manual);
            // SAFETY: only this scenario uses the memory, and the size is not zero.
            unsafe {
                let full: NonNull<u8> = talc.claim(first.base(), first.size()).unwrap();
                talc.truncate(full, null_mut());
                let end = talc.claim(memory.base(), memory.size()).unwrap();
                let left = talc.truncate(end, memory.base().wrapping_add(size));
                left.is_some() == talc.try_allocate(layout(1)).is_some()
            }
        }

        pub fn program(memory: &Memory, seed: u64) -> Vec<[u64; 8]> {
            let mut random = Random::new(seed);
            let mut talc = ManualTalc::new(Manual);
            // SAFETY: only this scenario uses the memory.
            unsafe { talc.claim(memory.base(), memory.size()) }.unwrap();
            let mut live: Vec<(*mut u8, usize)> = Vec::new();
            (0..400)
                .map(|_| {
                    // SAFETY: blocks are live, and sizes not zero.
                    unsafe {
                        match random.below(4) {
                            0 if !live.is_empty() => {
                                let (block, size) = live.swap_remove(random.below(live.len()));
                                talc.deallocate(block, layout(size));
                            }
                            1 if !live.is_empty() => {
                                let index = random.below(live.len());
                                let (block, size) = &mut live[index];
                                let new_size = 1 + random.below(*size);
                                talc.shrink(*block, layout(*size), new_size);
                                // And back, in place, where the memory is still free.
                                if random.below(2) == 0 {
                                    let grows =
                                        talc.try_grow_in_place(*block, layout(new_size), *size);
                                    assert!(grows);
                                } else {
                                    *size = new_size;
                                }
                            }
                            _ => {
                                let size = random.size(10);
                                let block = talc.allocate(layout(size)).expect("there is room");
                                live.push((block.as_ptr(), size));
                            }
                        }
                    }
                    counts(&talc)
                })
                .collect()
        }
    };
}

mod here {
    use heap::talc;
    scenes!();
}

mod upstream {
    use upstream_talc as talc;
    scenes!();
}

/// Runs a scenario with both crates. Asserts that they return the same, and returns it.
macro_rules! same {
    ($scene:ident($($argument:expr),*)) => {{
        let result = here::$scene($($argument),*);
        assert_eq!(result, upstream::$scene($($argument),*), stringify!($scene($($argument),*)));
        result
    }};
}

#[test]
fn the_smallest_first_claim_equals_upstream() {
    let memory = Memory::new(4096);
    assert_eq!(same!(least_first_claim(&memory)), (true, 0, false, true));
}

#[test]
fn claiming_the_documented_minimum_equals_upstream() {
    let memory = Memory::new(4096);
    for offset in 0..64 {
        assert!(same!(documented_minimum(&memory, offset)), "{offset}");
    }
}

/// Regression: 15 bytes of the first heap were not counted.
#[test]
fn claimed_bytes_of_the_first_heap_equal_upstream() {
    let memory = Memory::new(1 << 14);
    for offset in 0..64 {
        let (claimed, total) = same!(first_claim_counts(&memory, offset));
        assert_eq!(claimed as u64, total);
    }
    assert_eq!(same!(first_claim_counts(&memory, 0)).0, memory.size());
}

#[test]
fn the_rest_of_a_truncated_empty_heap_equals_upstream() {
    let (first, memory) = (Memory::new(4096), Memory::new(4096));
    for size in 0..300 {
        assert!(same!(truncated(&first, &memory, size)), "{size}");
    }
}

/// Regression: the bytes by which a block shrinks were counted as freed.
#[test]
fn counters_of_allocations_equal_upstream() {
    let memory = Memory::new(1 << 20);
    for seed in 0..50 {
        same!(program(&memory, seed));
    }
}
