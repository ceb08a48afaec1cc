//! Regressions: bugs of other allocators, as scenarios that need a kernel. (Scenario 20 is in
//! `storm`, 26 in `security`.)

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;

use heap::vmem::AllocPolicy;
use kernel::audit;
use kernel::heap::HEAP;
use kernel::kernel_test;
use kernel::memory::frames;
use kernel::memory::page_table::{for_each_mapping, mapping_at};
use kernel::memory::{PAGE_SIZE, mapped_pages};
use x86_64::VirtAddr;

use crate::support::{OwnedFrame, Snapshot, filled, heap_pages_arena};

const MIB: usize = 1 << 20;

kernel_test! {
    /// Scenario 18.
    fn freeing_a_large_block_frees_all_its_frames() {
        let before = Snapshot::take();
        for size in [
            MIB + 1,
            3 * MIB - 1,
            5 * MIB + 4095,
            7 * PAGE_SIZE,
            7 * PAGE_SIZE + 1,
            9 * MIB,
        ] {
            let block = filled(18, size);
            assert!(frames::usage().heap * PAGE_SIZE > size);
            drop(block);
            assert_eq!(Snapshot::take(), before, "{size} bytes");
        }
    }

    /// Scenario 22: the frames run out, without fault injection, in the middle of growth by 40
    /// pages.
    fn growth_that_runs_out_of_frames_is_rolled_back() {
        let layout = Layout::from_size_align(40 * PAGE_SIZE, 8).expect("valid");
        let mut taken = Vec::with_capacity(frames::usage().free);
        let before = Snapshot::take();
        let top = {
            let talc = HEAP.core().lock();
            let heap = talc
                .arena_heaps()
                .next()
                .expect("the harness has allocated");
            heap.base.addr().get() + heap.size
        };
        for left in (1..40).rev() {
            while frames::usage().free > left {
                taken.push(OwnedFrame::take().expect("frames are free"));
            }
            let (mapped, usage) = (mapped_pages::mapped(), frames::usage());
            // SAFETY: the size is not zero.
            let block = unsafe { HEAP.alloc(layout) };
            assert!(
                block.is_null(),
                "{left} frames are free"
            );
            assert_eq!(
                (mapped_pages::mapped(), frames::usage()),
                (mapped, usage),
                "{left} frames are free"
            );
            for page in 0..40 {
                let address = VirtAddr::new((top + page * PAGE_SIZE) as u64);
                assert_eq!(mapping_at(address), None, "{left} frames are free");
            }
            assert_eq!(audit::check(), Ok(()));
        }
        taken.clear();
        assert_eq!(Snapshot::take(), before);
        drop(filled(1, 40 * PAGE_SIZE));
    }

    /// Scenario 23: mapping works while the heap is locked, so it does not allocate from the heap.
    /// Allocating a frame works while the page tables are locked.
    fn mapping_needs_no_heap_and_frames_no_page_tables() {
        let heap = HEAP.core().lock();
        // These need three page tables, and boundary tags.
        let pages =
            [(); 40].map(|()| heap_pages_arena().alloc(40 * PAGE_SIZE, AllocPolicy::InstantFit));
        for base in pages {
            heap_pages_arena()
                .free(base.expect("memory is free"))
                .expect("it was allocated");
        }
        drop(heap);
        let mut frame = None;
        for_each_mapping(|_| frame = frame.take().or_else(OwnedFrame::take));
        assert!(frame.is_some(), "memory is free");
    }

    /// Scenario 24.
    fn all_blocks_can_be_freed_after_exhaustion() {
        let before = Snapshot::take();
        let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(1 << 13);
        while blocks.len() < blocks.capacity() {
            let mut block: Vec<u8> = Vec::new();
            if black_box(&mut block).try_reserve_exact(MIB).is_err() {
                break;
            }
            blocks.push(block);
        }
        assert!(frames::usage().free < 2 * MIB / PAGE_SIZE, "memory did not run out");
        while let Some(block) = blocks.pop() {
            drop(block);
        }
        drop(blocks);
        assert_eq!(Snapshot::take(), before);
    }
}
