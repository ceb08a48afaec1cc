//! Holes: pages in the middle of a range that are discarded, and restored.

use core::ops::Range;

use heap::vmem::Result;
use kernel::kernel_test;
use kernel::memory::fault_injection::{FRAMES, MAPPINGS};
use kernel::memory::frames::{self, Usage};
use kernel::memory::page_table::mapping_at;
use kernel::memory::{PAGE_SIZE, heap_pages, kernel_addresses, mapped_pages};
use x86_64::VirtAddr;

use crate::mapping::{Pages, TABLE_PAGES};
use crate::support::heap_pages_arena;

/// Returns the counts that a failed operation must not change.
fn counts() -> (Usage, [usize; 4]) {
    let others = [
        mapped_pages::mapped(),
        mapped_pages::discarded(),
        heap_pages().allocated_space(),
        kernel_addresses().allocated_space(),
    ];
    // The pool of boundary tags retains some pages.
    let mut usage = frames::usage();
    usage.free += core::mem::take(&mut usage.tags);
    (usage, others)
}

impl Pages {
    fn discard(&self, pages: Range<usize>) -> Result<()> {
        let base = self.base + pages.start * PAGE_SIZE;
        heap_pages_arena().discard(base, pages.len() * PAGE_SIZE)
    }

    fn restore(&self, pages: Range<usize>) -> Result<()> {
        let base = self.base + pages.start * PAGE_SIZE;
        heap_pages_arena().restore(base, pages.len() * PAGE_SIZE)
    }

    /// Checks that each page is a hole.
    fn verify_holes(&self, pages: Range<usize>) {
        for page in pages {
            assert_eq!(self.mapping(page), None, "page {page}");
        }
    }

    /// Checks that each page is mapped, and that all of it is zero.
    fn verify_zero(&self, pages: Range<usize>) {
        for page in pages {
            for word in 0..PAGE_SIZE / size_of::<usize>() {
                // SAFETY: the page is mapped, or the test faults.
                let found = unsafe { self.at(page).add(word).read_volatile() };
                assert_eq!(found, 0, "page {page}");
            }
        }
    }

    /// Returns whether the page can be written, and whether it can be executed.
    fn mapping(&self, page: usize) -> Option<(bool, bool)> {
        let mapping = mapping_at(VirtAddr::from_ptr(self.at(page)))?;
        Some((mapping.writable, mapping.executable))
    }
}

kernel_test! {
    /// A hole has no frame. What lies around it stays, and a restored page is zero.
    fn a_part_of_a_range_is_discarded_and_restored() {
        let pages = Pages::new(200);
        pages.write(0..200);
        let (before, ever) = (counts(), mapped_pages::ever_restored());
        pages.discard(20..150).expect("discarding needs nothing");
        pages.verify(0..20);
        pages.verify_holes(20..150);
        pages.verify(150..200);
        assert_eq!(mapped_pages::discarded(), 130);
        assert_eq!(frames::usage().heap, before.0.heap - 130);
        // Partly discarded already.
        pages.discard(10..100).expect("discarding needs nothing");
        assert_eq!(mapped_pages::discarded(), 140);
        assert_eq!(mapped_pages::mapped() + 140, before.1[0]);
        // Partly mapped still.
        pages.restore(0..60).expect("memory is free");
        pages.verify(0..10);
        pages.verify_zero(10..60);
        pages.verify_holes(60..150);
        pages.restore(0..200).expect("memory is free");
        pages.verify_zero(60..150);
        pages.verify(150..200);
        assert!((0..200).all(|page| pages.mapping(page) == Some((true, false))));
        assert_eq!(counts(), before);
        assert_eq!(mapped_pages::ever_restored() - ever, 140);
    }
}

kernel_test! {
    /// A restore over several page tables that runs out of frames at any point, for a page or for a
    /// table, changes nothing: what was mapped stays mapped, and what was a hole stays one.
    fn a_restore_that_fails_at_any_frame_changes_nothing(deadline = 240) {
        let all = 2 * TABLE_PAGES + 10;
        let pages = Pages::new(all);
        pages.write(0..all);
        let whole = counts();
        pages.discard(3..all - 3).expect("discarding needs nothing");
        assert!(counts().0.page_tables < whole.0.page_tables, "an empty table is freed");
        // Some pages among the holes are mapped.
        let islands = [70..71, 100..130, 1000..1005];
        for island in &islands {
            pages.restore(island.clone()).expect("memory is free");
            pages.write(island.clone());
        }
        let verify = || {
            pages.verify(0..3);
            pages.verify(all - 3..all);
            islands.iter().for_each(|island| pages.verify(island.clone()));
        };
        let before = counts();
        for point in [&FRAMES, &MAPPINGS] {
            let mut calls = 0;
            loop {
                point.fail_from(calls);
                let restored = pages.restore(0..all);
                point.fail_never();
                if restored.is_ok() {
                    break;
                }
                assert_eq!(counts(), before, "after {calls} calls");
                pages.verify_holes(3..70);
                pages.verify_holes(130..1000);
                verify();
                let near = (calls + 20) % TABLE_PAGES < 40 || calls >= before.1[1] - 16;
                calls += if near { 1 } else { 84 };
            }
            assert!(calls >= before.1[1], "only {calls} calls were needed");
            verify();
            pages.verify_zero(3..70);
            pages.verify_zero(130..1000);
            assert_eq!(counts(), whole);
            for holes in [3..70, 71..100, 130..1000, 1005..all - 3] {
                pages.discard(holes).expect("discarding needs nothing");
            }
            assert_eq!(counts(), before);
        }
    }
}

kernel_test! {
    /// Discarding needs no frame. Ranges with holes can be resized and released.
    fn ranges_with_holes_are_resized_and_released() {
        let before = counts();
        {
            let (lower, upper) = (Pages::new(700), Pages::new(9));
            FRAMES.fail_from(0);
            let discarded = [0..64, 100..500, 300..301, 690..700].map(|part| lower.discard(part));
            let shrunk = lower.resize(600);
            let whole = upper.discard(0..9);
            FRAMES.fail_never();
            assert_eq!((discarded, shrunk, whole), ([Ok(()); 4], Ok(()), Ok(())));
            assert_eq!(mapped_pages::discarded(), 64 + 400 + 9);
            lower.resize(450).expect("shrinking needs nothing");
            assert_eq!(mapped_pages::discarded(), 64 + 350 + 9);
            drop(upper);
            lower.resize(460).expect("memory is free");
            lower.verify_holes(100..450);
            lower.write(450..460);
            assert_eq!(mapped_pages::discarded(), 64 + 350);
        }
        assert_eq!(counts(), before);
    }
}

kernel_test! {
    /// An access to a hole faults, and the report says that the page was given back.
    fn a_hole_cannot_be_accessed(
        should_fault = "now in a page that was given back, in the span of the heap",
    ) {
        let pages = Pages::new(3);
        pages.discard(1..2).expect("discarding needs nothing");
        pages.write(0..1);
        pages.write(2..3);
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pages.at(1).read_volatile() };
    }
}

kernel_test! {
    /// The report says so too when the page was given back long ago.
    fn an_old_hole_cannot_be_accessed(
        should_fault = "not mapped; in a page that was given back, in the span of the heap",
    ) {
        let (pages, others) = (Pages::new(3), Pages::new(1));
        pages.discard(1..2).expect("discarding needs nothing");
        for _ in 0..40 {
            others.discard(0..1).expect("discarding needs nothing");
        }
        // SAFETY: this access is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { pages.at(1).write_volatile(1) };
    }
}

kernel_test! {
    /// A page that was restored is not reported as given back.
    fn a_restored_page_is_in_the_span_again(
        should_fault = "mapped, but not for this access; in the span of the heap",
    ) {
        let pages = Pages::new(3);
        pages.discard(1..2).expect("discarding needs nothing");
        pages.restore(1..2).expect("memory is free");
        // SAFETY: this jump is undefined behaviour on purpose: the test shows that it is caught.
        unsafe { core::mem::transmute::<*mut usize, extern "C" fn()>(pages.at(1))() };
    }
}
