//! Regressions in resizing blocks, in place or by moving.

use std::alloc::GlobalAlloc;

use allocator_api2::alloc::Allocator;
use heap::talc::TalcCell;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};
use heap::talc::source::Claim;

use super::{layout, lock};
use crate::common::memory::Memory;
use crate::common::shadow::Shadow;

#[test]
fn r11_a_moving_realloc_copies_the_smaller_size() {
    let memory = Memory::new(1 << 20);
    let lock = lock(&memory);
    let mut shadow = Shadow::new();
    for (old, new) in [(1, 5000), (100, 101), (4096, 9000), (37, 70_000)] {
        // SAFETY: the blocks are live and the sizes not zero.
        unsafe {
            let block = lock.alloc(layout(old, 8));
            let fence = lock.alloc(layout(1, 1));
            shadow.insert(block, layout(old, 8));
            let taken = shadow.take_at(0);
            let moved = lock.realloc(block, layout(old, 8), new);
            assert!(moved != block || new <= old + CHUNK_UNIT, "{old} to {new}");
            shadow.put_back(taken, moved, new);
            let taken = shadow.take_at(0);
            let back = lock.realloc(moved, layout(new, 8), old);
            shadow.put_back(taken, back, old);
            shadow.take_at(0);
            lock.dealloc(back, layout(old, 8));
            lock.dealloc(fence, layout(1, 1));
        }
        lock.lock().check().unwrap();
    }
}

#[test]
fn r12_shrinking_while_raising_the_alignment_keeps_the_contents() {
    let memory = Memory::new(1 << 20);
    let cell = TalcCell::new({
        // SAFETY: the memory outlives the allocator.
        unsafe { Claim::new(memory.base(), memory.size()) }
    });
    for old_size in [40, 100, 1000, 5000] {
        for new_size in (1..=old_size).step_by(37) {
            for align in (0..13).map(|log2| 1 << log2) {
                let (old, new) = (layout(old_size, 1), layout(new_size, align));
                let mut shadow = Shadow::new();
                let block = cell.allocate(old).unwrap().cast::<u8>();
                shadow.insert(block.as_ptr(), old);
                let taken = shadow.take_at(0);
                // SAFETY: the block is live, and the new size not larger.
                let moved = unsafe { cell.shrink(block, old, new) }.unwrap();
                let moved = moved.cast::<u8>();
                assert!(moved.addr().get() % align == 0);
                taken.moved_to(moved.as_ptr()).assert_intact(new_size);
                // SAFETY: the block is live.
                unsafe { cell.deallocate(moved, new) };
            }
        }
    }
    cell.into_inner().check().unwrap();
}

#[test]
fn r15_realloc_of_an_over_aligned_block_keeps_alignment_and_contents() {
    let memory = Memory::new(4 << 20);
    let lock = lock(&memory);
    for align in (5..=16).map(|log2| 1 << log2) {
        let mut shadow = Shadow::new();
        // SAFETY: the sizes are not zero, and the blocks live.
        unsafe {
            let mut block = lock.alloc(layout(10, align));
            shadow.insert(block, layout(10, align));
            let mut old = 10;
            for (round, new) in [300, 20, 70_000, 4096, 1, 9000].into_iter().enumerate() {
                // The block above prevents growing in place.
                let fence = lock.alloc(layout(1 + round, 1));
                let taken = shadow.take_at(0);
                block = lock.realloc(block, layout(old, align), new);
                // The shadow verifies the alignment and the contents.
                shadow.put_back(taken, block, new);
                lock.dealloc(fence, layout(1 + round, 1));
                old = new;
            }
            shadow.take_at(0);
            lock.dealloc(block, layout(old, align));
        }
        lock.lock().check().unwrap();
    }
}

#[test]
fn r16_a_block_is_freed_as_what_it_was_last_resized_to() {
    let memory = Memory::new(1 << 20);
    let lock = lock(&memory);
    // Sizes around those at which another bin or chunk size begins.
    let edges = (1..=80)
        .map(|units| units * CHUNK_UNIT)
        .chain((8..17).map(|log2| 1 << log2));
    let sizes: Vec<usize> = edges
        .flat_map(|edge| {
            [-1, 0, 1].map(|by| {
                edge.saturating_sub(CHUNK_OVERHEAD)
                    .max(1)
                    .wrapping_add_signed(by)
                    .max(1)
            })
        })
        .collect();
    for (index, &from) in sizes.iter().enumerate() {
        let to = sizes[(index * 7 + 3) % sizes.len()];
        // SAFETY: the sizes are not zero, and the block is live.
        unsafe {
            let block = lock.alloc(layout(from, 8));
            let block = lock.realloc(block, layout(from, 8), to);
            let block = lock.realloc(block, layout(to, 8), from);
            lock.dealloc(block, layout(from, 8));
        }
        let talc = lock.lock();
        talc.check().unwrap();
        assert_eq!(talc.gaps().count(), 1, "{from} to {to} and back");
    }
}
