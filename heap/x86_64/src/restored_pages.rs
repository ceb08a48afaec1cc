//! The pages that a restore has mapped so far, so that it can undo itself.
//!
//! A restore may map any number of pages, with any number of mapped pages between them. It needs no
//! memory to remember them: each batch has a record in the first frame that was mapped for it.
//!
//! ```text
//! pages    │ mapped │ new    │ new    │ mapped │ …  │ new    │ mapped │ …
//!                   └ record: set, before = none    └ record: set, before ──> the first record
//! ```

use core::ptr::NonNull;

use x86_64::structures::paging::PhysFrame;

use crate::memory::{self, Memory};
use crate::page_set::PageSet;

/// The sets of pages that were mapped, in records that the new pages contain.
pub(crate) struct RestoredPages {
    last: Option<NonNull<Record>>,
}

struct Record {
    pages: PageSet,
    before: Option<NonNull<Record>>,
}

impl RestoredPages {
    /// Creates an empty list.
    pub(crate) fn new() -> Self {
        Self { last: None }
    }

    /// Adds a set of pages.
    ///
    /// # Safety
    /// `memory` has handed out `frame`, which is mapped at one of the pages and is zero. No other
    /// code uses the frame before [`pop`](Self::pop) has returned the set.
    pub(crate) unsafe fn push(&mut self, pages: PageSet, frame: PhysFrame, memory: &impl Memory) {
        let record = memory::pointer::<Record>(memory, frame);
        let before = self.last.replace(record);
        // SAFETY: a frame is mapped there, large enough and aligned. The caller guarantees that no
        // other code uses it.
        unsafe { record.write(Record { pages, before }) };
    }

    /// Removes and returns the set that was added last. Its frame is zero again.
    pub(crate) fn pop(&mut self) -> Option<PageSet> {
        let record = self.last?;
        // SAFETY: `push` has written the record, and its caller guarantees that no other code uses
        // the frame.
        let Record { pages, before } = unsafe { record.read() };
        self.last = before;
        // SAFETY: the frame is the one of the record, which is not used any more.
        unsafe { record.write_bytes(0, 1) };
        Some(pages)
    }
}
