//! Allocating, freeing and resizing on one heap.

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use common::trace::{Operation, Trace};
use heap::Span;
use heap::talc::base::{CHUNK_UNIT, Talc};
use heap::talc::source::Manual;
use heap::talc::{DefaultBinning, min_first_heap_size};

/// What a chunk needs beyond the allocation.
const TAG: usize = if cfg!(all(target_pointer_width = "64", target_endian = "little")) {
    1
} else {
    size_of::<usize>()
};

type ManualTalc = Talc<Manual, DefaultBinning>;

/// An allocator with one heap, and the same heap for the walker.
struct OneHeap {
    talc: ManualTalc,
    span: Span,
    _memory: Memory,
}

impl OneHeap {
    fn new(size: usize) -> Self {
        let memory = Memory::new(min_first_heap_size::<DefaultBinning>() + size);
        let mut talc = ManualTalc::new(Manual);
        // SAFETY: the memory lives as long as the allocator.
        let end = unsafe { talc.claim(memory.base(), memory.size()) }.expect("it is large enough");
        Self {
            talc,
            span: Span::new(memory.base(), end.as_ptr()),
            _memory: memory,
        }
    }

    fn allocate(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        // SAFETY: no test asks for zero bytes.
        unsafe {
            self.talc
                .allocate(Layout::from_size_align(size, align).unwrap())
        }
    }

    fn deallocate(&mut self, ptr: NonNull<u8>, size: usize, align: usize) {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the tests free what they have allocated, once.
        unsafe { self.talc.deallocate(ptr.as_ptr(), layout) }
    }

    fn check(&self) {
        self.talc.check().unwrap();
        // SAFETY: it is the heap's span.
        unsafe { self.talc.check_heap(self.span) }.unwrap();
    }

    /// Everything is free: one gap, and it can be allocated whole.
    fn assert_one_gap(&mut self) {
        self.check();
        let gaps: Vec<_> = self.talc.gaps().collect();
        let [gap] = gaps[..] else {
            panic!("{gaps:?} did not merge")
        };
        assert_eq!(gap.end(), self.span.end());
        let size = gap.size() - size_of::<usize>();
        let all = self
            .allocate(size, 1)
            .expect("a gap can be allocated whole");
        self.deallocate(all, size, 1);
    }
}

/// Four orders of freeing `count` blocks.
fn orders(count: usize, random: &mut Random) -> [Vec<usize>; 4] {
    let upwards: Vec<_> = (0..count).collect();
    let downwards = upwards.iter().rev().copied().collect();
    let every_other_first = (0..count).step_by(2).chain((1..count).step_by(2)).collect();
    let mut shuffled = upwards.clone();
    for index in 1..count {
        shuffled.swap(index, random.below(index + 1));
    }
    [upwards, downwards, every_other_first, shuffled]
}

#[test]
fn every_size_and_alignment_is_freed_in_every_order() {
    let mut random = Random::new(1);
    let mut heap = OneHeap::new(40 << 20);
    for align in (0..=22).map(|log2| 1 << log2) {
        // All sizes with the small alignments, some with the large.
        let step = if align <= 64 { 1 } else { 97 };
        for size in (1..=4096).step_by(step) {
            for order in orders(4, &mut random) {
                let mut shadow = Shadow::new();
                let mut blocks = Vec::new();
                for _ in 0..order.len() {
                    let block = heap.allocate(size, align).expect("there is room");
                    shadow.insert(
                        block.as_ptr(),
                        Layout::from_size_align(size, align).unwrap(),
                    );
                    blocks.push(block);
                }
                shadow.assert_all_intact();
                for index in order {
                    heap.deallocate(blocks[index], size, align);
                }
                heap.assert_one_gap();
            }
        }
    }
}

#[test]
fn sizes_around_the_alignment_keep_it() {
    let mut heap = OneHeap::new(1 << 20);
    for align in [256, 512, 1024, 4096, 16384] {
        for size in [1, align - 1, align, align + 1] {
            let block = heap.allocate(size, align).unwrap();
            assert!(block.addr().get().is_multiple_of(align));
            heap.check();
            heap.deallocate(block, size, align);
            heap.assert_one_gap();
        }
    }
}

#[test]
fn many_small_blocks_at_page_alignment_fit_with_small_ones_between_them() {
    let mut heap = OneHeap::new(40 << 20);
    let pages: Vec<_> = (0..0x2000)
        .map(|_| heap.allocate(1, 4096).unwrap())
        .collect();
    heap.check();
    // The room between them is not lost.
    let between: Vec<_> = (0..0x2000)
        .map(|_| heap.allocate(3800, 1).unwrap())
        .collect();
    assert!(
        between
            .iter()
            .filter(|block| **block < *pages.last().unwrap())
            .count()
            > 0x1f00
    );
    for (page, between) in pages.into_iter().zip(between) {
        heap.deallocate(page, 1, 4096);
        heap.deallocate(between, 3800, 1);
    }
    heap.assert_one_gap();
}

#[test]
fn requests_beyond_the_address_space_fail_and_change_nothing() {
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
fn gap_sizes_around_powers_of_two_are_no_tags() {
    let mut heap = OneHeap::new(80 << 20);
    for power in CHUNK_UNIT.ilog2() + 2..=26 {
        for units in [-1, 0, 1_isize] {
            let chunk = (1_usize << power).wrapping_add_signed(units * CHUNK_UNIT as isize);
            let size = chunk - size_of::<usize>();
            let [low, middle, high] = [1, size, 1].map(|size| heap.allocate(size, 1).unwrap());
            heap.deallocate(middle, size, 1);
            heap.check();
            assert_eq!(heap.talc.gaps_in(heap.span).next().unwrap().size(), chunk);
            // Both neighbours must take the gap for one.
            heap.deallocate(high, 1, 1);
            heap.deallocate(low, 1, 1);
            heap.assert_one_gap();
        }
    }
}

#[test]
fn churn_of_tiny_blocks_leaves_room_for_larger_ones() {
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

#[test]
fn sizes_within_a_chunk_need_no_change() {
    let mut heap = OneHeap::new(1 << 16);
    let largest = 2 * CHUNK_UNIT - TAG;
    let [low, high] = [1, 1].map(|size| heap.allocate(size, 1).unwrap());
    assert_eq!(high.addr().get() - low.addr().get(), 2 * CHUNK_UNIT);
    let layout = |size| Layout::from_size_align(size, 1).unwrap();
    // SAFETY: the block is live, and of the size that it was given last.
    unsafe {
        assert!(
            heap.talc
                .try_grow_in_place(low.as_ptr(), layout(1), largest)
        );
        assert!(
            !heap
                .talc
                .try_grow_in_place(low.as_ptr(), layout(largest), largest + 1)
        );
        heap.talc.shrink(low.as_ptr(), layout(largest), 1);
    }
    heap.check();
}

#[test]
fn a_remainder_of_one_unit_is_not_lost() {
    let mut heap = OneHeap::new(1 << 16);
    let units = |count: usize| count * CHUNK_UNIT - size_of::<usize>();
    let layout = |count| Layout::from_size_align(units(count), 1).unwrap();
    for free_lower_first in [false, true] {
        // Where five units were freed, four are allocated.
        let [low, middle, high] = [2, 5, 2].map(|count| heap.allocate(units(count), 1).unwrap());
        heap.deallocate(middle, units(5), 1);
        assert_eq!(heap.allocate(units(4), 1), Some(middle));
        heap.check();
        assert_eq!(
            heap.talc.gaps_in(heap.span).count(),
            1,
            "a sliver is in no list"
        );
        // SAFETY: the block is live, and of the size that it was given last.
        unsafe {
            // It can grow into the sliver, and give it up again.
            assert!(
                !heap
                    .talc
                    .try_grow_in_place(middle.as_ptr(), layout(4), units(6))
            );
            assert!(
                heap.talc
                    .try_grow_in_place(middle.as_ptr(), layout(4), units(5))
            );
            heap.check();
            heap.talc.shrink(middle.as_ptr(), layout(5), units(4));
            heap.check();
        }
        // Whoever is freed next to it takes it.
        let (first, second) = if free_lower_first {
            (middle, high)
        } else {
            (high, middle)
        };
        let size_of = |block| if block == middle { units(4) } else { units(2) };
        heap.deallocate(first, size_of(first), 1);
        heap.check();
        heap.deallocate(second, size_of(second), 1);
        heap.deallocate(low, units(2), 1);
        heap.assert_one_gap();
    }
}

#[test]
fn growing_takes_what_it_needs_of_the_gap_above() {
    let mut heap = OneHeap::new(1 << 16);
    let mut random = Random::new(7);
    for _ in 0..2_000 {
        let layout = Layout::from_size_align(random.size(10), 1).unwrap();
        let hole = random.size(10);
        let mut shadow = Shadow::new();
        let [block, above, top] =
            [layout.size(), hole, 1].map(|size| heap.allocate(size, 1).unwrap());
        shadow.insert(block.as_ptr(), layout);
        heap.deallocate(above, hole, 1);
        let limit = top.addr().get() - block.addr().get();
        let new_size = layout.size() + random.size(10);
        // SAFETY: the block is live.
        let grown = unsafe {
            heap.talc
                .try_grow_in_place(block.as_ptr(), layout, new_size)
        };
        assert_eq!(
            grown,
            new_size + TAG <= limit,
            "{layout:?} to {new_size} with {limit} in all"
        );
        heap.check();
        let taken = shadow.take_at(0);
        let size = if grown { new_size } else { layout.size() };
        shadow.put_back(taken, block.as_ptr(), size);
        shadow.assert_all_intact();
        heap.deallocate(block, size, 1);
        heap.deallocate(top, 1, 1);
        heap.assert_one_gap();
    }
}

#[test]
fn shrinking_gives_the_tail_back() {
    let mut heap = OneHeap::new(1 << 16);
    for (above_is_free, from, to) in [false, true].into_iter().flat_map(|above_is_free| {
        (1..400).step_by(7).flat_map(move |from| {
            (1..=from)
                .step_by(5)
                .map(move |to| (above_is_free, from, to))
        })
    }) {
        let mut shadow = Shadow::new();
        let layout = Layout::from_size_align(from, 1).unwrap();
        let block = heap.allocate(from, 1).unwrap();
        let above = heap.allocate(1, 1).unwrap();
        shadow.insert(block.as_ptr(), layout);
        if above_is_free {
            heap.deallocate(above, 1, 1);
        }
        let taken = shadow.take_at(0);
        // SAFETY: the block is live.
        unsafe { heap.talc.shrink(block.as_ptr(), layout, to) };
        heap.check();
        shadow.put_back(taken, block.as_ptr(), to);
        heap.deallocate(block, to, 1);
        if !above_is_free {
            heap.deallocate(above, 1, 1);
        }
        heap.assert_one_gap();
    }
}

#[test]
fn the_last_block_can_be_freed_when_memory_has_run_out() {
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
fn an_allocator_without_memory_can_be_looked_at() {
    let mut talc = ManualTalc::new(Manual);
    talc.check().unwrap();
    assert_eq!(talc.gaps().count(), 0);
    assert!(format!("{talc:?}").contains("gaps: 0"));
    // SAFETY: the size is not zero.
    assert_eq!(unsafe { talc.try_allocate(Layout::new::<u8>()) }, None);
    #[cfg(feature = "counters")]
    assert_eq!(talc.counters().overhead_bytes(), 0);
}

fn replay(name: &str) {
    let trace = Trace::load(name);
    let mut heap = OneHeap::new(trace.peak_live_bytes as usize * 3 / 2);
    let mut slots: Vec<Option<(NonNull<u8>, Layout)>> = vec![None; trace.slots];
    // The first and last byte of each block tell whether blocks overlap.
    let mark = |slot: usize, ptr: NonNull<u8>, layout: Layout| {
        // SAFETY: both bytes are in the block.
        unsafe {
            ptr.write(slot as u8);
            ptr.add(layout.size() - 1).write(slot as u8);
        }
    };
    let assert_marked = |slot: usize, ptr: NonNull<u8>, layout: Layout| {
        // SAFETY: both bytes are in the block and were written.
        let bytes = unsafe { [ptr.read(), ptr.add(layout.size() - 1).read()] };
        assert!(
            layout.size() == 1 || bytes == [slot as u8; 2],
            "slot {slot} was overwritten"
        );
    };
    for (index, operation) in trace.operations.into_iter().enumerate() {
        match operation {
            Operation::Allocate { slot, layout } => {
                let ptr = heap
                    .allocate(layout.size(), layout.align())
                    .expect("there is room");
                assert!(ptr.addr().get().is_multiple_of(layout.align()));
                mark(slot, ptr, layout);
                assert!(slots[slot].replace((ptr, layout)).is_none());
            }
            Operation::Free { slot } => {
                let (ptr, layout) = slots[slot].take().expect("slots that are freed are full");
                assert_marked(slot, ptr, layout);
                heap.deallocate(ptr, layout.size(), layout.align());
            }
            Operation::Reallocate { slot, new_size } => {
                let (ptr, layout) = slots[slot].take().expect("slots that are resized are full");
                assert_marked(slot, ptr, layout);
                let new_layout = Layout::from_size_align(new_size, layout.align()).unwrap();
                // SAFETY: the block is live.
                let in_place = unsafe {
                    heap.talc
                        .try_realloc_in_place(ptr.as_ptr(), layout, new_size)
                };
                let new = if in_place {
                    ptr
                } else {
                    let new = heap
                        .allocate(new_size, layout.align())
                        .expect("there is room");
                    heap.deallocate(ptr, layout.size(), layout.align());
                    new
                };
                mark(slot, new, new_layout);
                slots[slot] = Some((new, new_layout));
            }
        }
        if index % 10_000 == 0 {
            heap.check();
        }
    }
    for (slot, block) in slots.into_iter().enumerate() {
        if let Some((ptr, layout)) = block {
            assert_marked(slot, ptr, layout);
            heap.deallocate(ptr, layout.size(), layout.align());
        }
    }
    heap.assert_one_gap();
}

#[test]
fn the_trace_of_a_c_compiler_runs_in_half_as_much_again_as_its_peak() {
    replay("cc");
}

#[test]
fn the_trace_of_git_runs_in_half_as_much_again_as_its_peak() {
    replay("git");
}

#[test]
fn the_trace_of_python_runs_in_half_as_much_again_as_its_peak() {
    replay("python");
}

#[test]
fn the_trace_of_sqlite_runs_in_half_as_much_again_as_its_peak() {
    replay("sqlite");
}
