//! Frames and mappings: all frames are freed at the end, also after failures.

use core::ops::Range;
use core::ptr::{self, NonNull};

use heap::vmem::AllocPolicy;
use kernel::kernel_test;
use kernel::memory::fault_injection::FRAMES;
use kernel::memory::frames::{self, Purpose, Usage};
use kernel::memory::{PAGE_SIZE, heap_pages, kernel_addresses, mapped_pages, physical};

use crate::support::heap_pages_arena;

/// The pages that one page table maps.
pub(crate) const TABLE_PAGES: usize = 512;

/// Returns the counts that a failed operation must not change.
fn counts() -> (Usage, usize, usize, usize) {
    let (pages, addresses) = (heap_pages(), kernel_addresses());
    (
        frames::usage(),
        mapped_pages::mapped(),
        pages.allocated_space(),
        addresses.allocated_space(),
    )
}

/// Pages of the heap, which are freed on drop.
pub(crate) struct Pages {
    pub(crate) base: usize,
}

impl Pages {
    pub(crate) fn new(count: usize) -> Self {
        let base = heap_pages_arena().alloc(count * PAGE_SIZE, AllocPolicy::InstantFit);
        Self {
            base: base.expect("memory is free"),
        }
    }

    pub(crate) fn resize(&self, count: usize) -> heap::vmem::Result<()> {
        heap_pages_arena().resize(self.base, count * PAGE_SIZE)
    }

    /// Writes a different number to each page.
    pub(crate) fn write(&self, pages: Range<usize>) {
        for page in pages {
            // SAFETY: the page is mapped, and the test owns it.
            unsafe { self.at(page).write_volatile(!page) };
        }
    }

    /// Checks the numbers that [`write`](Self::write) has written.
    pub(crate) fn verify(&self, pages: Range<usize>) {
        for page in pages {
            // SAFETY: the page is mapped.
            let found = unsafe { self.at(page).read_volatile() };
            assert_eq!(found, !page, "page {page}");
        }
    }

    pub(crate) fn at(&self, page: usize) -> *mut usize {
        ptr::with_exposed_provenance_mut(self.base + page * PAGE_SIZE)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        heap_pages_arena()
            .free(self.base)
            .expect("it was allocated");
    }
}

kernel_test! {
    /// Growth over several page tables that runs out of frames at any point, for a page or for a
    /// table, leaves all counts unchanged.
    fn growth_that_fails_at_any_frame_changes_nothing(deadline = 240) {
        let pages = Pages::new(3);
        pages.write(0..3);
        let before = counts();
        let wanted = 2 * TABLE_PAGES + 10;
        // All calls near the beginning, near the next page tables and near the end, and some
        // between.
        let mut calls = 0;
        loop {
            FRAMES.fail_from(calls);
            let grown = pages.resize(wanted);
            FRAMES.fail_never();
            if grown.is_ok() {
                break;
            }
            assert_eq!(counts(), before, "after {calls} frames");
            let near = (calls + 20) % TABLE_PAGES < 40 || calls >= wanted - 16;
            calls += if near { 1 } else { 84 };
        }
        assert!(calls >= wanted - 3, "only {calls} frames were needed");
        pages.verify(0..3);
        pages.write(3..wanted);
        pages.verify(0..wanted);
        pages.resize(3).expect("shrinking needs nothing");
        pages.verify(0..3);
        assert_eq!(counts(), before);
    }
}

kernel_test! {
    /// Unmapping needs no frame, and succeeds if no frame is free.
    fn shrinking_and_freeing_need_no_frames() {
        let (lower, upper) = (Pages::new(700), Pages::new(9));
        FRAMES.fail_from(0);
        let shrunk = [600, 64, 1].map(|count| lower.resize(count));
        drop(upper);
        FRAMES.fail_never();
        assert_eq!(shrunk, [Ok(()); 3]);
    }
}

kernel_test! {
    /// Unmapping a range frees the page tables that were allocated for it.
    fn empty_page_tables_are_freed() {
        let before = frames::usage();
        let during = {
            let _pages = Pages::new(3 * TABLE_PAGES);
            frames::usage()
        };
        assert!(during.page_tables >= before.page_tables + 2, "{during:?}");
        assert_eq!(frames::usage().page_tables, before.page_tables);
        assert_eq!(frames::usage().heap, before.heap);
    }
}

kernel_test! {
    /// A large frame is 2 MiB of memory, and can be freed in parts.
    fn frames_of_two_mebibytes_are_memory() {
        let before = frames::usage();
        let large = frames::allocate_2mib(Purpose::Other).expect("memory is free");
        assert_eq!(frames::usage().other, before.other + TABLE_PAGES);
        let words: NonNull<usize> = physical::pointer(large.start_address());
        let count = TABLE_PAGES * PAGE_SIZE / size_of::<usize>();
        for index in (0..count).step_by(97) {
            // SAFETY: the frame is the test's, and is mapped there.
            unsafe { words.add(index).write_volatile(!index) };
        }
        for index in (0..count).step_by(97) {
            // SAFETY: the frame is the test's, and is mapped there.
            assert_eq!(unsafe { words.add(index).read_volatile() }, !index);
        }
        // SAFETY: the frame was allocated above, and is not used any more.
        let freed = || unsafe { frames::free_2mib(large, Purpose::Other) };
        freed().expect("allocated above");
        assert!(freed().is_err(), "freed twice");
        assert_eq!(frames::usage(), before);
    }
}

kernel_test! {
    /// Freeing a frame that is not in use is an error and changes nothing.
    fn frames_that_are_not_in_use_cannot_be_freed() {
        let frame = frames::allocate(Purpose::Other).expect("memory is free");
        // SAFETY: the frame was allocated above, and no code uses it. After the first call it is
        // free.
        let free = || unsafe { frames::free(frame, Purpose::Other) };
        free().expect("allocated above");
        let before = frames::usage();
        assert!(free().is_err(), "freed twice");
        let low = x86_64::structures::paging::PhysFrame::containing_address(x86_64::PhysAddr::new(
            0x1000,
        ));
        // SAFETY: the allocator does not manage the frame.
        let foreign = unsafe { frames::free(low, Purpose::Other) };
        assert!(foreign.is_err(), "never handed out");
        assert_eq!(frames::usage(), before);
        frames::check().expect("nothing changed");
    }
}
