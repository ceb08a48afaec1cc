//! Allocating, freeing and resizing in one heap.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use common::memory::Memory;
use common::one_heap::OneHeap;
use common::random::Random;
use common::shadow::Shadow;
use common::sizes::{SMALLEST, units};
use common::trace::{Operation, Trace};
use heap::talc::TalcLock;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};
use heap::talc::source::Claim;

/// Returns four orders in which to free `count` blocks.
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
    for align in (0..=22).map(|log2| 1 << log2) {
        let mut heap = OneHeap::new(8 * (align + 8192));
        // All sizes with small alignments, some sizes with large ones.
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

/// The memory above a block that is resized.
#[derive(Clone, Copy, Debug)]
enum Above {
    Room,
    Block,
    /// A gap of this many bytes, and then a block.
    Hole(usize),
}

#[test]
fn every_size_is_reallocated_to_every_other() {
    let memory = Memory::new(1 << 20);
    // SAFETY: the memory outlives the allocator.
    let claim = unsafe { Claim::new(memory.base(), memory.size()) };
    let lock = TalcLock::<spin::Mutex<()>, _>::new(claim);
    let layout = |size| Layout::from_size_align(size, 1).unwrap();
    let sizes = (1..=130)
        .step_by(3)
        .chain((7..=15).flat_map(|log2| [-9, -1, 0, 1].map(|by| (1 << log2) + by)))
        .map(|size: isize| size as usize);
    let sizes: Vec<usize> = sizes.collect();
    for above in [
        Above::Room,
        Above::Block,
        Above::Hole(50),
        Above::Hole(3000),
    ] {
        for (&from, &to) in sizes
            .iter()
            .flat_map(|from| sizes.iter().map(move |to| (from, to)))
        {
            let mut shadow = Shadow::new();
            // SAFETY: the sizes are not zero, and freed blocks are live.
            unsafe {
                let block = lock.alloc(layout(from));
                shadow.insert(block, layout(from));
                let others = match above {
                    Above::Room => vec![],
                    Above::Block => vec![lock.alloc(layout(1))],
                    Above::Hole(size) => {
                        let hole = lock.alloc(layout(size));
                        let other = lock.alloc(layout(1));
                        lock.dealloc(hole, layout(size));
                        vec![other]
                    }
                };
                for &other in &others {
                    shadow.insert(other, layout(1));
                }
                let taken = shadow.take_at(0);
                let moved = lock.realloc(block, layout(from), to);
                let stays = if to <= from {
                    cfg!(not(feature = "disable-realloc-in-place"))
                } else {
                    matches!(above, Above::Room) && GROWS_IN_PLACE
                };
                assert!(moved == block || !stays, "{from} to {to}, {above:?}");
                shadow.put_back(taken, moved, to);
                shadow.assert_all_intact();
                lock.dealloc(moved, layout(to));
                for other in others {
                    lock.dealloc(other, layout(1));
                }
            }
            let talc = lock.lock();
            talc.check().unwrap();
            assert_eq!(talc.gaps().count(), 1, "{from} to {to}, {above:?}");
        }
    }
}

/// Whether blocks grow in place when the memory above is free.
const GROWS_IN_PLACE: bool = cfg!(not(any(
    feature = "disable-grow-in-place",
    feature = "disable-realloc-in-place"
)));

#[test]
fn resizing_within_a_chunk_always_succeeds_in_place() {
    let mut heap = OneHeap::new(1 << 16);
    let largest = SMALLEST - CHUNK_OVERHEAD;
    let [low, high] = [1, 1].map(|size| heap.allocate(size, 1).unwrap());
    assert_eq!(high.addr().get() - low.addr().get(), SMALLEST);
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
fn a_sliver_is_used_again_by_its_neighbours() {
    let mut heap = OneHeap::new(1 << 16);
    const FEW: usize = SMALLEST / CHUNK_UNIT;
    let layout = |count| Layout::from_size_align(units(count), 1).unwrap();
    for free_lower_first in [false, true] {
        // Four of five freed units are allocated again.
        let [low, middle, high] =
            [FEW, 5, FEW].map(|count| heap.allocate(units(count), 1).unwrap());
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
            // The block can grow into the sliver and release it again.
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
        // A neighbour that is freed coalesces with the sliver.
        let (first, second) = if free_lower_first {
            (middle, high)
        } else {
            (high, middle)
        };
        let size_of = |block| {
            if block == middle {
                units(4)
            } else {
                units(FEW)
            }
        };
        heap.deallocate(first, size_of(first), 1);
        heap.check();
        heap.deallocate(second, size_of(second), 1);
        heap.deallocate(low, units(FEW), 1);
        heap.assert_one_gap();
    }
}

#[test]
fn growing_takes_only_the_needed_part_of_the_gap_above() {
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
            new_size + CHUNK_OVERHEAD <= limit,
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
fn shrinking_frees_the_end_of_the_chunk() {
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

fn replay(name: &str) {
    let Some(trace) = Trace::load(name) else {
        eprintln!("skipped: there is no folder of traces beside this crate");
        return;
    };
    let mut heap = OneHeap::new(trace.peak_live_bytes as usize * 3 / 2);
    let mut slots: Vec<Option<(NonNull<u8>, Layout)>> = vec![None; trace.slots];
    // The first and the last byte of each block show whether blocks overlap.
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
                assert!(ptr.addr().get() % layout.align() == 0);
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
fn cc_trace_completes_in_one_and_a_half_times_its_peak() {
    replay("cc");
}

#[test]
fn git_trace_completes_in_one_and_a_half_times_its_peak() {
    replay("git");
}

#[test]
fn python_trace_completes_in_one_and_a_half_times_its_peak() {
    replay("python");
}

#[test]
fn sqlite_trace_completes_in_one_and_a_half_times_its_peak() {
    replay("sqlite");
}
