//! Gaps: free ranges that describe themselves.
//!
//! ```text
//!   base          + 1 word      + 2 words     + 3 words                  end - 1 word
//!    ┌─────────────┬─────────────┬─────────────┬┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┬─────────────┐
//!    │ next        │ referrer    │ extent      │ unused                  │ extent      │
//!    └─────────────┴─────────────┴─────────────┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴─────────────┘
//! ```
//!
//! * `next` and `referrer` link the gap into the list of its bin. The referrer is the address of
//!   the pointer that leads here, be it in another gap or in the array of list heads: unlinking
//!   needs to know neither the bin nor whether the gap is the first in it.
//! * `extent` is the gap's size with the flag [`HEAP_END`] in it, so that the gap is found from
//!   both neighbours. A size is a multiple of [`CHUNK_UNIT`], which leaves its low bits free.
//!
//! The smallest gap is one [`CHUNK_UNIT`]: the last two words coincide with nothing else.

use core::ptr::NonNull;

use super::chunk::{CHUNK_UNIT, distance, unit_floor};
use super::tag::HEAP_END;

/// A pointer to the first or to the next gap of a list.
pub(super) type Link = Option<NonNull<Node>>;

/// The header of a gap.
#[repr(C)]
pub(super) struct Node {
    /// The next gap in the same bin.
    pub(super) next: Link,
    /// Points to the pointer that points here.
    pub(super) referrer: *mut Link,
    /// As at the end of the gap.
    pub(super) extent: usize,
}

const _: () = assert!(size_of::<Node>() + size_of::<usize>() <= CHUNK_UNIT);

/// A free range of a heap, as its header or its end describes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) base: NonNull<u8>,
    extent: usize,
}

impl Gap {
    /// The free range from `base` to `end`, which may still be without header.
    #[inline]
    pub(super) fn new(base: NonNull<u8>, end: NonNull<u8>, heap_end: bool) -> Gap {
        Gap {
            base,
            extent: distance(base, end) | if heap_end { HEAP_END } else { 0 },
        }
    }

    /// The gap that begins at `base`.
    ///
    /// # Safety
    /// A gap begins at `base`.
    #[inline]
    pub(super) unsafe fn at(base: NonNull<u8>) -> Gap {
        // SAFETY: a gap begins with its header, aligned because `base` is.
        let extent = unsafe { (*base.cast::<Node>().as_ptr()).extent };
        Gap { base, extent }
    }

    /// The gap that ends at `end`.
    ///
    /// # Safety
    /// A gap ends at `end`.
    #[inline]
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Gap {
        // SAFETY: the last word of a gap is its extent.
        let extent = unsafe { end.cast::<usize>().sub(1).read() };
        // SAFETY: the extent says how far down the gap, and so its heap, reaches.
        let base = unsafe { end.byte_sub(unit_floor(extent)) };
        Gap { base, extent }
    }

    /// Writes the extent to both ends, the header's links excepted.
    ///
    /// # Safety
    /// The range is free, at least one unit and in no list.
    #[inline]
    pub(super) unsafe fn write_extent(self) {
        // SAFETY: the range is free and has room for a header and a word at its end.
        unsafe {
            (&raw mut (*self.node().as_ptr()).extent).write(self.extent);
            self.end().cast::<usize>().sub(1).write(self.extent);
        }
    }

    /// The gap's header.
    #[inline]
    pub(super) fn node(self) -> NonNull<Node> {
        self.base.cast()
    }

    /// Bytes from the base to the end.
    #[inline]
    pub(super) const fn size(self) -> usize {
        unit_floor(self.extent)
    }

    /// The first address above.
    #[inline]
    pub(super) fn end(self) -> NonNull<u8> {
        // SAFETY: the whole gap lies in one heap, whose end is at most one past its memory.
        unsafe { self.base.byte_add(self.size()) }
    }

    /// The heap ends where this gap ends.
    #[inline]
    pub(super) const fn is_heap_end(self) -> bool {
        self.extent & HEAP_END != 0
    }
}
