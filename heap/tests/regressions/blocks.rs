//! Regressions in one heap: its gaps, and the blocks that are cut from them.

use std::alloc::Layout;
use std::ptr::NonNull;

use heap::Span;
use heap::talc::DefaultBinning;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD, Talc};
use heap::talc::source::Manual;

use super::{MIN, layout};
use crate::common::memory::Memory;
use crate::common::one_heap::{ManualTalc, OneHeap};
use crate::common::random::Random;
use crate::common::shadow::Shadow;
use crate::common::sizes::SMALLEST;

#[test]
fn r01_gap_sizes_around_powers_of_two_are_no_tags() {
    // With `hardened`, all freed memory is written and read.
    let largest = if cfg!(feature = "hardened") { 20 } else { 26 };
    let mut heap = OneHeap::new((1 << largest) + (1 << 16));
    for power in CHUNK_UNIT.ilog2() + 2..=largest {
        for units in [-1, 0, 1_isize] {
            let chunk = (1_usize << power).wrapping_add_signed(units * CHUNK_UNIT as isize);
            let size = chunk - CHUNK_OVERHEAD;
            let [low, middle, high] = [1, size, 1].map(|size| heap.allocate(size, 1).unwrap());
            heap.deallocate(middle, size, 1);
            heap.check();
            assert_eq!(heap.talc.gaps_in(heap.span).next().unwrap().size(), chunk);
            // Both neighbours must recognise the gap.
            heap.deallocate(high, 1, 1);
            heap.deallocate(low, 1, 1);
            heap.assert_one_gap();
        }
    }
}

#[test]
fn r03_many_small_blocks_at_page_alignment_fit_with_small_ones_between_them() {
    let mut heap = OneHeap::new(80 << 20);
    let pages: Vec<_> = (0..0x4000)
        .map(|_| heap.allocate(1, 4096).unwrap())
        .collect();
    heap.check();
    // The memory between the blocks is not lost.
    let between: Vec<_> = (0..0x4000)
        .map(|_| heap.allocate(3800, 1).unwrap())
        .collect();
    let last = pages.last().unwrap();
    let among = between.iter().filter(|block| *block < last).count();
    assert!(among > 0x3f00, "{among}");
    for (page, between) in pages.into_iter().zip(between) {
        heap.deallocate(page, 1, 4096);
        heap.deallocate(between, 3800, 1);
    }
    heap.assert_one_gap();
}

#[test]
fn r04_churn_of_tiny_blocks_leaves_room_for_larger_ones() {
    let mut random = Random::new(53);
    let mut heap = OneHeap::new(8 << 20);
    let mut shadow = Shadow::new();
    for round in 0..4 {
        let tiny = Layout::from_size_align(1 + round, 1).unwrap();
        for _ in 0..50_000 {
            let block = heap.allocate(tiny.size(), 1).unwrap();
            shadow.insert(block.as_ptr(), tiny);
            if random.below(3) == 0 {
                let block = shadow.take(&mut random).unwrap();
                heap.deallocate(NonNull::new(block.ptr).unwrap(), block.layout.size(), 1);
            }
        }
        heap.check();
        assert!(heap.allocate(64, 1).is_some());
    }
    shadow.assert_all_intact();
}

/// Returns an allocator whose list heads lie in the returned memory, so that other heaps may be
/// small.
fn established() -> (ManualTalc, Memory) {
    let memory = Memory::new(MIN);
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the memory lives as long as the allocator is used.
    unsafe { talc.claim(memory.base(), MIN) }.expect("the documented size suffices");
    (talc, memory)
}

#[test]
fn r05_tiny_misaligned_and_odd_ranges_are_refused_or_rounded_inward() {
    for established in [false, true] {
        for offset in 0..CHUNK_UNIT {
            for size in (0..8 * CHUNK_UNIT).chain(MIN - 4 * CHUNK_UNIT..MIN + 4) {
                let (mut talc, _first) = if established {
                    self::established()
                } else {
                    (ManualTalc::new(Manual), Memory::new(1))
                };
                let memory = Memory::new(offset + size + CHUNK_UNIT);
                let base = memory.base().wrapping_add(offset);
                // SAFETY: the range is in the memory.
                let end = unsafe { talc.claim(base, size) };
                memory.assert_untouched(memory.base(), base);
                match end {
                    None => memory.assert_untouched(base, memory.end()),
                    Some(end) => {
                        let end = end.as_ptr();
                        let limit = base.wrapping_add(size);
                        assert!(end <= limit && limit.addr() - end.addr() < CHUNK_UNIT);
                        memory.assert_untouched(end, memory.end());
                        // SAFETY: the span is that of a heap of this allocator.
                        unsafe { talc.check_heap(Span::new(base, end)) }.unwrap();
                    }
                }
                talc.check().unwrap();
                // The bytes below the first chunk, and the smallest chunk.
                let first = (offset + HEAP_OVERHEAD).next_multiple_of(CHUNK_UNIT);
                let fits = (offset + size) / CHUNK_UNIT * CHUNK_UNIT >= first + SMALLEST;
                if established {
                    assert_eq!(end.is_some(), fits, "{size} bytes");
                } else {
                    assert!(size < MIN || end.is_some(), "{size} bytes were refused");
                }
            }
        }
    }
}

#[test]
fn r06_a_remainder_too_small_for_a_list_comes_back_when_all_is_freed() {
    let mut heap = OneHeap::new(1 << 12);
    let whole = heap.talc.gaps_in(heap.span).next().unwrap().size();
    for remainder in 0..6 * CHUNK_UNIT {
        let size = whole - remainder - CHUNK_OVERHEAD;
        let block = heap.allocate(size, 1).expect("there is room");
        heap.check();
        let rest = heap.allocate(1, 1);
        heap.check();
        heap.deallocate(block, size, 1);
        heap.check();
        if let Some(rest) = rest {
            heap.deallocate(rest, 1, 1);
        }
        heap.assert_one_gap();
    }
}

#[test]
fn r07_blocks_between_holes_merge_in_every_order_of_freeing() {
    let mut heap = OneHeap::new(1 << 14);
    let mut orders = 0;
    // A count in base 6, of which the permutations are kept.
    for number in 0..6_usize.pow(6) {
        let order: [usize; 6] = std::array::from_fn(|digit| number / 6_usize.pow(digit as u32) % 6);
        if (0..6).any(|index| !order.contains(&index)) {
            continue;
        }
        orders += 1;
        let sizes = [1, 40, 16, 333, 24, 100];
        let blocks = sizes.map(|size| heap.allocate(size, 1).unwrap());
        for index in order {
            heap.deallocate(blocks[index], sizes[index], 1);
            heap.check();
        }
        heap.assert_one_gap();
    }
    assert_eq!(orders, 720);
}

/// A binning in which every gap larger than a few units is in the last bin.
struct Tiny;

impl Binning for Tiny {
    type AvailabilityBitField = u8;
    const BIN_COUNT: u32 = 3;
    fn size_to_bin(size: usize) -> u32 {
        (size / CHUNK_UNIT).min(1 << 20) as u32
    }
}

#[test]
fn r08_gaps_of_the_top_size_class_merge_and_stay_in_it() {
    let memory = Memory::new(1 << 16);
    let mut talc = Talc::<_, Tiny>::new(Manual);
    // SAFETY: the memory outlives the allocator.
    let end = unsafe { talc.claim(memory.base(), memory.size()) }.unwrap();
    let mut random = Random::new(8);
    for _ in 0..200 {
        let mut blocks = Vec::new();
        for _ in 0..40 {
            let layout = layout(random.size(9), 1);
            // SAFETY: the size is not zero.
            blocks.extend(unsafe { talc.allocate(layout) }.map(|block| (block, layout)));
        }
        while !blocks.is_empty() {
            let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
            // SAFETY: the block is live.
            unsafe { talc.deallocate(block.as_ptr(), layout) };
            talc.check().unwrap();
        }
        assert_eq!(
            talc.gaps_in(Span::new(memory.base(), end.as_ptr())).count(),
            1
        );
    }
    // The bins of impossible sizes are still in range.
    for size in [1 << (usize::BITS - 8), isize::MAX as usize, usize::MAX] {
        let size = size / CHUNK_UNIT * CHUNK_UNIT;
        assert!(DefaultBinning::size_to_bin(size) < DefaultBinning::BIN_COUNT);
    }
}

#[test]
fn r09_the_documented_minimum_suffices_at_every_misalignment() {
    for offset in 0..2 * CHUNK_UNIT {
        let memory = Memory::new(MIN + 2 * CHUNK_UNIT);
        let base = memory.base().wrapping_add(offset);
        let mut talc = ManualTalc::new(Manual);
        assert!(!talc.is_metadata_established());
        // SAFETY: the range is in the memory.
        let end = unsafe { talc.claim(base, MIN) }.expect("the documented size suffices");
        assert!(talc.is_metadata_established());
        assert!(
            // SAFETY: the size is not zero.
            unsafe { talc.allocate(layout(1, 1)) }.is_some(),
            "there is room for an allocation"
        );
        memory.assert_untouched(memory.base(), base);
        memory.assert_untouched(end.as_ptr(), memory.end());
        // SAFETY: the span is that of a heap of this allocator.
        unsafe { talc.check_heap(Span::new(base, end.as_ptr())) }.unwrap();
    }
}

#[test]
fn r14_size_and_alignment_that_overflow_fail_and_change_nothing() {
    let mut heap = OneHeap::new(1 << 16);
    let before: Vec<_> = heap.talc.gaps().collect();
    let largest = isize::MAX as usize;
    for align in [
        1,
        8,
        CHUNK_UNIT,
        4096,
        1 << (usize::BITS - 8),
        1 << (usize::BITS - 2),
    ] {
        for size in [
            largest - (align - 1),
            (largest - (align - 1)) / 2 + 1,
            1 << (usize::BITS - 8),
        ] {
            assert_eq!(heap.allocate(size.min(largest - (align - 1)), align), None);
        }
    }
    let block = heap.allocate(10, 1).unwrap();
    let layout = Layout::from_size_align(10, 1).unwrap();
    for size in [
        1 << 20,
        largest,
        largest + 1,
        usize::MAX - CHUNK_UNIT,
        usize::MAX,
    ] {
        // SAFETY: the block is live.
        assert!(!unsafe { heap.talc.try_grow_in_place(block.as_ptr(), layout, size) });
    }
    heap.deallocate(block, 10, 1);
    assert_eq!(heap.talc.gaps().collect::<Vec<_>>(), before);
    heap.assert_one_gap();
}

#[test]
fn r17_sizes_around_the_alignment_keep_it() {
    let mut heap = OneHeap::new(1 << 20);
    for align in [256, 512, 1024, 4096, 16384] {
        for size in [1, align - 1, align, align + 1] {
            let block = heap.allocate(size, align).unwrap();
            assert!(block.addr().get() % align == 0);
            heap.check();
            heap.deallocate(block, size, align);
            heap.assert_one_gap();
        }
    }
}

#[test]
fn r24_the_last_block_can_be_freed_when_memory_has_run_out() {
    let mut heap = OneHeap::new(1 << 16);
    let mut blocks = Vec::new();
    while let Some(block) = heap.allocate(100, 8) {
        blocks.push(block);
    }
    assert_eq!(heap.allocate(100, 8), None);
    let last = blocks.pop().unwrap();
    heap.deallocate(last, 100, 8);
    assert_eq!(heap.allocate(100, 8), Some(last));
    heap.deallocate(last, 100, 8);
    for block in blocks {
        heap.deallocate(block, 100, 8);
    }
    heap.assert_one_gap();
}

#[test]
fn r25_an_allocator_without_memory_can_be_looked_at() {
    let mut talc = ManualTalc::new(Manual);
    talc.check().unwrap();
    assert_eq!(talc.gaps().count(), 0);
    assert!(format!("{talc:?}").contains("gaps: 0"));
    // SAFETY: the size is not zero.
    assert_eq!(unsafe { talc.try_allocate(Layout::new::<u8>()) }, None);
    #[cfg(feature = "counters")]
    assert_eq!(talc.counters().overhead_bytes(), 0);
}
