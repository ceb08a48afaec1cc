//! Gaps: free ranges that describe themselves.
//!
//! ```text
//!   base          + 1 word      + 2 words     + 3 words                  end - 1 word
//!    ┌─────────────┬─────────────┬─────────────┬┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┬─────────────┐
//!    │ extent      │ next        │ referrer    │ unused                  │ extent      │
//!    └─────────────┴─────────────┴─────────────┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴─────────────┘
//! ```
//!
//! * `extent` is the gap's size with the flag [`HEAP_END`] in it, so that the gap is found from
//!   both neighbours. A size is a multiple of [`CHUNK_UNIT`], which leaves its low bits free.
//! * `next` and `referrer` link the gap into the list of its bin. The referrer is the address of
//!   the pointer that leads here, be it in another gap or in the array of list heads: unlinking
//!   needs to know neither the bin nor whether the gap is the first in it.
//!
//! The smallest gap with links is the smallest chunk: nothing is unused. A gap of one unit is a
//! *sliver*: it has both extents and no links.
//!
//! ```text
//!   base          end - 1 word
//!    ┌─────────────┬─────────────┐
//!    │ extent      │ extent      │
//!    └─────────────┴─────────────┘
//! ```

use core::ptr::NonNull;

use super::chunk::{CHUNK_UNIT, MIN_CHUNK, unit_floor};
use super::tag::HEAP_END;

/// A pointer to the first or to the next gap of a list.
pub(super) type Link = Option<NonNull<GapHeader>>;

/// The header of a gap.
#[repr(C)]
pub(super) struct GapHeader {
    /// As at the end of the gap.
    pub(super) extent: usize,
    /// The next gap in the same bin.
    pub(super) next: Link,
    /// Points to the pointer that points here.
    pub(super) referrer: *mut Link,
}

const _: () = assert!(size_of::<GapHeader>() + size_of::<usize>() <= MIN_CHUNK);
const _: () = assert!(2 * size_of::<usize>() <= CHUNK_UNIT && HEAP_END < CHUNK_UNIT);

/// A free range of a heap, as its first or last word describes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) base: NonNull<u8>,
    extent: usize,
}

impl Gap {
    /// The free range of `size` bytes from `base`, which may still be without header.
    #[inline]
    pub(super) fn new(base: NonNull<u8>, size: usize, heap_end: bool) -> Gap {
        Gap {
            base,
            extent: size | if heap_end { HEAP_END } else { 0 },
        }
    }

    /// The gap that begins at `base`.
    ///
    /// # Safety
    /// A gap begins at `base`.
    #[inline]
    pub(super) unsafe fn at(base: NonNull<u8>) -> Gap {
        // SAFETY: a gap begins with its extent, aligned because `base` is.
        let extent = unsafe { base.cast::<usize>().read() };
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

    /// The gap that ends at `end`, where a chunk begins.
    ///
    /// # Safety
    /// A gap ends at `end`, but not its heap.
    #[inline]
    pub(super) unsafe fn below(end: NonNull<u8>) -> Gap {
        // SAFETY: the last word of a gap is its extent.
        let extent = unsafe { end.cast::<usize>().sub(1).read() };
        // SAFETY: without a flag, the extent is the size, and so far down the gap reaches.
        let base = unsafe { end.byte_sub(extent) };
        Gap { base, extent }
    }

    /// This gap and the one that begins where it ends, as one.
    #[inline]
    pub(super) fn join(self, above: Gap) -> Gap {
        // What has something above it has no flag: the sum is the size of both with the flag of the
        // upper.
        Gap {
            base: self.base,
            extent: self.extent + above.extent,
        }
    }

    /// Whether it has at least `size` bytes, which are a multiple of the unit.
    #[inline]
    pub(super) const fn has(self, size: usize) -> bool {
        // The flag is less than a unit.
        self.extent >= size
    }

    /// What is left above its first `size` bytes, a multiple of the unit. It [has](Gap::has) so many.
    ///
    /// The result may be of no size.
    #[inline]
    pub(super) fn above(self, size: usize) -> Gap {
        Gap {
            // SAFETY: this is in the gap or at its end.
            base: unsafe { self.base.byte_add(size) },
            extent: self.extent - size,
        }
    }

    /// There are no bytes in it.
    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.extent < CHUNK_UNIT
    }

    /// Writes the extent to both ends.
    ///
    /// # Safety
    /// The range is free, at least one unit and in no list.
    #[inline]
    pub(super) unsafe fn write_extent(self) {
        // SAFETY: the range is free and has room for two words.
        unsafe {
            self.base.cast::<usize>().write(self.extent);
            self.end().cast::<usize>().sub(1).write(self.extent);
        }
    }

    /// What is written to both ends.
    #[cfg(feature = "hardened")]
    pub(super) const fn extent(self) -> usize {
        self.extent
    }

    /// Too small for links (or empty): in no list.
    #[inline]
    pub(super) const fn is_sliver(self) -> bool {
        self.extent < MIN_CHUNK
    }

    /// The gap's header, unless it is a sliver.
    #[inline]
    pub(super) fn header(self) -> NonNull<GapHeader> {
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
