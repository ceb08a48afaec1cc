//! Programs on a Talc with three heaps, which are claimed, extended, truncated and removed.

use std::alloc::Layout;

use heap::talc::DefaultBinning;
use heap::talc::base::Talc;
use heap::talc::source::Manual;

use crate::common::manual_heap::ManualHeap;
use crate::common::shadow::Shadow;
use crate::input::Input;

const HEAPS: usize = 3;
const SIZE: usize = 12 << 10;

type Subject = Talc<Manual, DefaultBinning>;

/// Runs a program.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut heaps = [(); HEAPS].map(|()| ManualHeap::new(SIZE));
    let mut talc = Subject::new(Manual);
    let mut shadow = Shadow::new();
    while !input.is_over() {
        match input.below(12) {
            0 => heaps[input.below(HEAPS)].change(&mut talc, &mut input),
            1..=5 => {
                let layout = input.layout(9, 10);
                // SAFETY: the size is not zero.
                if let Some(block) = unsafe { talc.allocate(layout) } {
                    shadow.insert(block.as_ptr(), layout);
                }
            }
            6..=8 if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                // SAFETY: the block is live.
                unsafe { talc.deallocate(block.ptr, block.layout) };
            }
            choice if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                let old_size = block.layout.size();
                let (new_size, done);
                // SAFETY: the block is live, and the size as each operation wants it.
                unsafe {
                    match choice {
                        9 => {
                            new_size = old_size + input.size(10);
                            done = talc.try_grow_in_place(block.ptr, block.layout, new_size);
                        }
                        10 => {
                            new_size = 1 + input.below(old_size);
                            talc.shrink(block.ptr, block.layout, new_size);
                            done = true;
                        }
                        _ => {
                            new_size = input.size(10);
                            done = talc.try_realloc_in_place(block.ptr, block.layout, new_size);
                        }
                    }
                }
                assert!(done || new_size > old_size, "shrinking failed");
                shadow.put_back(block, block.ptr, if done { new_size } else { old_size });
            }
            _ => {}
        }
        verify(&talc, &heaps, &shadow);
    }

    shadow.assert_all_intact();
    while !shadow.is_empty() {
        let block = shadow.take_at(0);
        // SAFETY: the block is live.
        unsafe { talc.deallocate(block.ptr, block.layout) };
    }
    verify(&talc, &heaps, &shadow);
    for heap in &mut heaps {
        let Some(span) = heap.span() else { continue };
        assert!(talc.gaps_in(span).count() <= 1, "free neighbours");
        let gap = talc.gaps_in(span).map(|gap| gap.size()).next();
        if let Some(size) = gap.filter(|&size| size >= 512) {
            // The difference is the overhead of an allocation.
            let layout = Layout::from_size_align(size - 256, 1).unwrap();
            // SAFETY: the size is not zero.
            let block = unsafe { talc.allocate(layout) }.expect("a gap can be allocated");
            // SAFETY: the block is live.
            unsafe { talc.deallocate(block.as_ptr(), layout) };
        }
        heap.truncate(&mut talc);
    }
    verify(&talc, &heaps, &shadow);
    let left = heaps.iter().filter(|heap| heap.span().is_some()).count();
    assert_eq!(left, usize::from(talc.is_metadata_established()));
}

fn verify(talc: &Subject, heaps: &[ManualHeap; HEAPS], shadow: &Shadow) {
    talc.check().unwrap();
    heaps.iter().for_each(|heap| heap.check(talc));
    let spans = heaps.iter().filter_map(ManualHeap::span);
    let ranges: Vec<_> = spans
        .map(|span| (span.base().addr(), span.end().addr()))
        .collect();
    shadow.assert_within(&ranges);
    let counters = talc.counters();
    assert_eq!(counters.allocation_count, shadow.len());
    assert_eq!(counters.allocated_bytes, shadow.bytes());
}
