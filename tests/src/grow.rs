//! Growth of the heap, and the exhaustion of pages.

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};

use heap::source::{ArenaHeap, ArenaSource};
use heap::talc::TalcLock;
use kernel::audit;
use kernel::heap::HEAP;
use kernel::kernel_test;
use kernel::memory::fault_injection::FRAMES;
use kernel::memory::{PAGE_SIZE, frames, heap_pages, kernel_addresses, mapped_pages};
use kernel::sync::InterruptLock;

use crate::support::{OwnedFrame, filled, heap_pages_arena, kernel_addresses_arena};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Returns the heap that grows first, and the number of heaps.
fn heaps() -> (ArenaHeap, usize) {
    let talc = HEAP.core().lock();
    let first = talc
        .arena_heaps()
        .next()
        .expect("the harness has allocated");
    (first, talc.arena_heaps().count())
}

/// Fills the memory with empty vectors that have a capacity of `size` bytes. The number of a vector
/// is written once into each of its pages: more would take minutes on a machine with much memory.
fn fill_memory(size: usize) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(size).is_err() || blocks.try_reserve(1).is_err() {
            return blocks;
        }
        for byte in block.spare_capacity_mut().iter_mut().step_by(PAGE_SIZE) {
            byte.write(blocks.len() as u8);
        }
        blocks.push(block);
    }
}

/// Returns whether the bytes that [`fill_memory`] wrote are unchanged.
fn is_intact(block: &mut Vec<u8>, number: usize) -> bool {
    let mut bytes = block.spare_capacity_mut().iter_mut().step_by(PAGE_SIZE);
    // SAFETY: `fill_memory` has written these bytes.
    bytes.all(|byte| unsafe { byte.assume_init_read() } == number as u8)
}

kernel_test! {
    fn nothing_is_mapped_before_the_first_allocation() {
        let mapped = mapped_pages::mapped();
        // SAFETY: the pages that the arena allocates are memory that only the allocating code uses.
        let heap: TalcLock<InterruptLock, _> =
            TalcLock::new(unsafe { ArenaSource::new(heap_pages_arena()) });
        assert_eq!(mapped_pages::mapped(), mapped);
        let layout = Layout::new::<u64>();
        // SAFETY: the size is not zero; the block is freed with its layout.
        unsafe {
            let block = heap.alloc(layout);
            assert!(!block.is_null());
            assert_eq!(
                mapped_pages::mapped(),
                mapped + 64 * KIB / PAGE_SIZE,
                "the least growth"
            );
            heap.dealloc(block, layout);
        }
        drop(heap);
        assert_eq!(
            mapped_pages::mapped(),
            mapped,
            "a heap that is dropped gives everything back"
        );
    }
}

kernel_test! {
    fn growth_extends_the_heap_in_place() {
        HEAP.reap();
        let (before, count) = heaps();
        let blocks: Vec<Vec<u8>> = (0..64).map(|n| filled(n, 100 * KIB)).collect();
        let (after, same) = heaps();
        assert_eq!((after.base, same), (before.base, count), "no second heap");
        assert!(after.retained >= 64 * 100 * KIB);
        assert!(blocks.iter().zip(0..).all(|(block, n)| block.iter().all(|&byte| byte == n)));
    }
}

kernel_test! {
    fn a_second_heap_is_claimed_if_the_first_cannot_grow() {
        HEAP.reap();
        let (heap, count) = heaps();
        let above = heap.base.addr().get() + heap.size + PAGE_SIZE;
        kernel_addresses_arena()
            .xalloc_at(above, PAGE_SIZE)
            .expect("only the guard lies above the heap");
        let block = filled(1, MIB);
        assert_eq!(heaps().1, count + 1);
        let base = block.as_ptr().addr();
        assert!(base < heap.base.addr().get() || base > above);
        drop(block);
        HEAP.reap();
        assert_eq!(heaps().1, count, "it is given back when it is empty");
        kernel_addresses_arena()
            .free(above)
            .expect("allocated above");
    }
}

kernel_test! {
    fn one_large_block_is_mapped_in_one_step() {
        HEAP.reap();
        let before = mapped_pages::mapped();
        let block = filled(3, 5 * MIB);
        let mapped = (mapped_pages::mapped() - before) * PAGE_SIZE;
        assert!((5 * MIB..=5 * MIB + 2 * PAGE_SIZE).contains(&mapped), "{mapped} bytes for 5 MiB");
        assert!(block.iter().all(|&byte| byte == 3));
    }
}

kernel_test! {
    fn small_blocks_grow_the_heap_in_large_steps() {
        HEAP.reap();
        let before = mapped_pages::mapped();
        let mut growths = 0;
        let mut last = before;
        let mut blocks = Vec::with_capacity(20_000);
        for _ in 0..20_000 {
            blocks.push(filled(0, 200));
            if mapped_pages::mapped() != last {
                last = mapped_pages::mapped();
                growths += 1;
            }
        }
        let pages = last - before;
        assert!(growths <= 60, "{growths} steps for {pages} pages");
        assert!(pages * PAGE_SIZE <= 20_000 * 224 + 480_000 + 2 * MIB, "{pages} pages");
    }
}

kernel_test! {
    fn exhausted_memory_is_an_error_and_can_be_freed(deadline = 240) {
        HEAP.reap();
        let before = HEAP.stats();
        let mut blocks = fill_memory(64 * KIB);
        assert!(blocks.len() > 100, "{} blocks", blocks.len());
        let free = frames::usage().free;
        assert!(free < 64 * KIB / PAGE_SIZE + 64, "{free} frames are free still");
        for (number, block) in blocks.iter_mut().enumerate() {
            assert!(is_intact(block, number), "block {number} changed");
        }
        let count = blocks.len();
        drop(blocks);
        HEAP.reap();
        assert_eq!(HEAP.stats(), before);
        assert_eq!(audit::check(), Ok(()));
        let again = fill_memory(64 * KIB);
        assert!(again.len() + 1 >= count, "{} blocks after {count}", again.len());
    }
}

kernel_test! {
    fn small_blocks_get_the_last_frames() {
        HEAP.reap();
        let mut taken = Vec::with_capacity(frames::usage().free);
        while frames::usage().free > 12 {
            taken.push(OwnedFrame::take().expect("frames are free"));
        }
        HEAP.reap();
        let layout = Layout::from_size_align(16 * KIB, 8).expect("valid");
        // SAFETY: the size is not zero; the block is freed with its layout.
        unsafe {
            let block = HEAP.alloc(layout);
            assert!(!block.is_null(), "{} frames are free", frames::usage().free);
            HEAP.dealloc(block, layout);
            let step = Layout::from_size_align(64 * KIB, 8).expect("valid");
            assert!(HEAP.alloc(step).is_null());
        }
        drop(taken);
    }
}

kernel_test! {
    fn growth_that_fails_at_any_frame_is_rolled_back(deadline = 240) {
        // 40 pages, and the page tables that they may need.
        let layout = Layout::from_size_align(40 * PAGE_SIZE, 8).expect("valid");
        for frame in 0.. {
            HEAP.reap();
            let before = HEAP.stats();
            let arena = (
                heap_pages().allocated_space(),
                kernel_addresses().allocated_space(),
            );
            FRAMES.fail_from(frame);
            // SAFETY: the size is not zero; the block is freed with its layout.
            let block = unsafe { HEAP.alloc(layout) };
            FRAMES.fail_never();
            if !block.is_null() {
                // SAFETY: the block is live, and has this layout.
                unsafe { HEAP.dealloc(block, layout) };
                assert!(frame >= 40, "only {frame} frames were needed");
                break;
            }
            assert_eq!(HEAP.stats(), before, "frame {frame}");
            assert_eq!(
                (
                    heap_pages().allocated_space(),
                    kernel_addresses().allocated_space()
                ),
                arena
            );
            assert_eq!(audit::check(), Ok(()));
            // SAFETY: the size is not zero, and the block is freed with its layout.
            unsafe {
                let block = HEAP.alloc(layout);
                assert!(!block.is_null(), "the same request succeeds afterwards");
                block.write_bytes(0x42, layout.size());
                HEAP.dealloc(block, layout);
            }
        }
    }
}

kernel_test! {
    fn a_vector_that_cannot_grow_keeps_what_it_has() {
        let mut vector = filled(9, 100 * KIB);
        HEAP.reap();
        FRAMES.fail_from(0);
        let result = vector.try_reserve_exact(64 * MIB);
        FRAMES.fail_never();
        assert!(result.is_err());
        assert!(vector.len() == 100 * KIB && vector.iter().all(|&byte| byte == 9));
        vector.push(1);
    }
}
