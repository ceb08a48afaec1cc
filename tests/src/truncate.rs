//! Heaps that the tests manage themselves, in pages of the kernel's arena: claim, reserved,
//! truncate, resize, delete.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD, Talc};
use heap::talc::source::Manual;
use heap::talc::{DefaultBinning, min_first_heap_size};
use heap::vmem::AllocPolicy;
use kernel::kernel_test;
use kernel::memory::PAGE_SIZE;

use crate::support::heap_pages_arena;

/// A size that is enough for a heap other than the first.
const SECOND_HEAP: usize = HEAP_OVERHEAD.next_multiple_of(CHUNK_UNIT) + 3 * CHUNK_UNIT;

/// Pages of the kernel's arena, which are freed on drop.
struct Pages {
    base: NonNull<u8>,
    count: usize,
}

impl Pages {
    fn new(count: usize) -> Self {
        let base = heap_pages_arena()
            .alloc(count * PAGE_SIZE, AllocPolicy::InstantFit)
            .expect("memory is free");
        Pages {
            base: NonNull::new(ptr::with_exposed_provenance_mut(base)).expect("not at zero"),
            count,
        }
    }

    /// Returns the address of the page at index `pages`.
    fn at(&self, pages: usize) -> *mut u8 {
        assert!(pages <= self.count);
        // SAFETY: the index is at most the number of pages.
        unsafe { self.base.byte_add(pages * PAGE_SIZE) }.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        heap_pages_arena()
            .free_sized(self.base.addr().get(), self.count * PAGE_SIZE)
            .expect("allocated above");
    }
}

type Heap = Talc<Manual, DefaultBinning>;

/// Creates an allocator with one heap in the first `pages` pages.
fn claimed(memory: &Pages, pages: usize) -> (Heap, NonNull<u8>) {
    let mut talc = Heap::new(Manual);
    // SAFETY: the test owns the pages.
    let end = unsafe { talc.claim(memory.at(0), pages * PAGE_SIZE) }.expect("large enough");
    (talc, end)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small layout")
}

kernel_test! {
    fn claim_needs_the_documented_minimum() {
        let memory = Pages::new(4);
        let smallest = min_first_heap_size::<DefaultBinning>();
        let mut talc = Heap::new(Manual);
        // SAFETY: the test owns the pages.
        unsafe {
            assert_eq!(talc.claim(memory.at(0), 0), None);
            assert_eq!(talc.claim(memory.at(0), smallest / 2), None);
            assert_eq!(talc.claim(ptr::null_mut(), 1 << 20), None);
            assert!(!talc.is_metadata_established());
            assert!(talc.claim(memory.at(0).byte_add(7), smallest).is_some());
            assert!(talc.is_metadata_established());
            assert!(
                talc.claim(memory.at(3), SECOND_HEAP).is_some(),
                "a second heap needs next to nothing"
            );
        }
        assert_eq!(talc.check(), Ok(()));
    }
}

kernel_test! {
    fn truncate_ends_the_heap_after_the_last_block() {
        let memory = Pages::new(16);
        let (mut talc, end) = claimed(&memory, 16);
        // SAFETY: `end` is always the current end; blocks are freed with their layouts.
        unsafe {
            let low = talc.allocate(layout(3 * PAGE_SIZE)).expect("there is room");
            let high = talc.allocate(layout(3 * PAGE_SIZE)).expect("there is room");
            let reserved = talc.reserved(end);
            assert!(reserved.any && reserved.up_to >= high.byte_add(3 * PAGE_SIZE));
            let end = talc.truncate(end, ptr::null_mut()).expect("blocks are in it");
            assert_eq!(end, reserved.up_to);
            // The allocator does not access the pages above the new end any more.
            let cut = memory.at(16).addr() - end.addr().get();
            end.as_ptr().write_bytes(0x77, cut);
            talc.deallocate(high.as_ptr(), layout(3 * PAGE_SIZE));
            assert_eq!(talc.allocate(layout(4 * PAGE_SIZE)), None, "the heap is smaller now");
            talc.deallocate(low.as_ptr(), layout(3 * PAGE_SIZE));
            assert!((0..cut).all(|at| *end.as_ptr().add(at) == 0x77));
            assert_eq!(talc.check(), Ok(()));
        }
    }
}

kernel_test! {
    fn truncate_above_the_end_changes_nothing() {
        let memory = Pages::new(8);
        let (mut talc, end) = claimed(&memory, 4);
        // SAFETY: `end` is the current end.
        unsafe {
            assert_eq!(talc.truncate(end, memory.at(6)), Some(end));
            assert_eq!(talc.check(), Ok(()));
        }
    }
}

kernel_test! {
    fn resize_grows_and_shrinks_to_the_byte() {
        let memory = Pages::new(32);
        let (mut talc, mut end) = claimed(&memory, 4);
        for pages in [8, 6, 32, 5, 20, 4] {
            // SAFETY: `end` is the current end, and the test owns the pages.
            unsafe {
                end = talc.resize(end, memory.at(pages)).expect("the metadata stays");
                assert_eq!(end.as_ptr(), memory.at(pages));
                let free = end.addr().get() - talc.reserved(end).up_to.addr().get();
                let all = layout(free - CHUNK_OVERHEAD);
                let block = talc.allocate(all).expect("all of it is one gap");
                block.as_ptr().write_bytes(0xAB, all.size());
                talc.deallocate(block.as_ptr(), all);
            }
            assert_eq!(talc.check(), Ok(()));
        }
    }
}

kernel_test! {
    fn extend_coalesces_with_the_free_top() {
        let memory = Pages::new(8);
        let (mut talc, end) = claimed(&memory, 2);
        // SAFETY: `end` is the current end, and the test owns the pages.
        unsafe {
            assert_eq!(talc.allocate(layout(4 * PAGE_SIZE)), None);
            talc.extend(end, memory.at(8));
            let block = talc
                .allocate(layout(6 * PAGE_SIZE))
                .expect("old top and new pages are one gap");
            talc.deallocate(block.as_ptr(), layout(6 * PAGE_SIZE));
        }
        assert_eq!(talc.check(), Ok(()));
    }
}

kernel_test! {
    fn an_empty_heap_is_deleted_and_can_be_claimed_again() {
        let memory = Pages::new(8);
        let (mut talc, _) = claimed(&memory, 2);
        for _ in 0..3 {
            // SAFETY: the test owns the pages above the first heap, and `end` is the end of the
            // second heap.
            unsafe {
                let end = talc.claim(memory.at(4), 4 * PAGE_SIZE).expect("large enough");
                let block = talc.allocate(layout(3 * PAGE_SIZE)).expect("the second heap has room");
                assert!(block.as_ptr() >= memory.at(4));
                assert!(talc.reserved(end).any);
                talc.deallocate(block.as_ptr(), layout(3 * PAGE_SIZE));
                assert!(!talc.reserved(end).any);
                assert_eq!(talc.truncate(end, ptr::null_mut()), None, "it is deleted");
                assert_eq!(talc.allocate(layout(3 * PAGE_SIZE)), None);
            }
            assert_eq!(talc.check(), Ok(()));
        }
    }
}
