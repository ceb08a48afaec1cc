//! Gaps: free chunks, each with a header at its base and its extent at both ends.
//!
//! ```text
//!   base          + 1 word      + 2 words     + 3 words                  end - 1 word
//!    ┌─────────────┬─────────────┬─────────────┬┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┬─────────────┐
//!    │ extent      │ next        │ referrer    │ unused                  │ extent      │
//!    └─────────────┴─────────────┴─────────────┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴─────────────┘
//! ```
//!
//! * `extent` is the gap's size and the flag [`HEAP_END`]: a boundary tag, by which both neighbours
//!   find the gap. A size is a multiple of [`CHUNK_UNIT`], so its low bits are free for flags.
//! * `next` and `referrer` link the gap into the free list of its bin. The referrer is the address
//!   of the pointer that leads here, in another gap or in the array of list heads (as `pprev` in
//!   Linux's `hlist`). To unlink a gap, neither its bin nor its position in the list must be known.
//!
//! The smallest gap with links has the size of the smallest chunk, and no unused bytes. A gap of
//! one unit is a *sliver*: it has both extents and no links.
//!
//! ```text
//!   base          end - 1 word
//!    ┌─────────────┬─────────────┐
//!    │ extent      │ extent      │
//!    └─────────────┴─────────────┘
//! ```

use core::mem::offset_of;
use core::ptr::NonNull;

use super::chunk::{CHUNK_UNIT, MIN_CHUNK, unit_floor};
use super::tag::HEAP_END;

/// A pointer to the first or to the next gap of a free list.
pub(super) type Link = Option<NonNull<GapHeader>>;

/// The header at the base of a gap that is not a sliver.
#[repr(C)]
pub(super) struct GapHeader {
    /// The size and flag, as in the last word of the gap.
    pub(super) extent: usize,
    /// The next gap in the same free list.
    pub(super) next: Link,
    /// The address of the pointer that leads to this gap.
    pub(super) referrer: *mut Link,
}

impl GapHeader {
    /// Returns where the pointer to the next gap lies in the header at `header`.
    #[inline]
    pub(super) const fn next_field(header: NonNull<GapHeader>) -> *mut Link {
        let field = header
            .as_ptr()
            .wrapping_byte_add(offset_of!(GapHeader, next));
        field.cast()
    }

    /// Returns where the referrer lies in the header at `header`.
    #[cfg(feature = "hardened")]
    #[inline]
    pub(super) const fn referrer_field(header: NonNull<GapHeader>) -> *mut *mut Link {
        let field = header
            .as_ptr()
            .wrapping_byte_add(offset_of!(GapHeader, referrer));
        field.cast()
    }
}

const _: () = assert!(size_of::<GapHeader>() + size_of::<usize>() <= MIN_CHUNK);
const _: () = assert!(2 * size_of::<usize>() <= CHUNK_UNIT && HEAP_END < CHUNK_UNIT);

/// Reads the word below `end`: the extent of a gap, or with `hardened` a tag.
///
/// # Safety
/// A gap ends at `end`, or with `hardened` a chunk or the base tag of a heap.
#[inline]
pub(super) unsafe fn word_below(end: NonNull<u8>) -> usize {
    let word = end.cast::<usize>().as_ptr().wrapping_sub(1);
    // SAFETY: each of the three ends with a word, aligned because ends are multiples of the unit.
    unsafe { word.read() }
}

/// A gap as its first or last word describes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) base: NonNull<u8>,
    extent: usize,
}

impl Gap {
    /// Returns the gap of `size` bytes from `base`. Its header may not have been written yet.
    #[inline]
    pub(super) fn new(base: NonNull<u8>, size: usize, heap_end: bool) -> Gap {
        Gap {
            base,
            extent: size | if heap_end { HEAP_END } else { 0 },
        }
    }

    /// Reads the gap that begins at `base`.
    ///
    /// # Safety
    /// A gap begins at `base`.
    #[inline]
    pub(super) unsafe fn at(base: NonNull<u8>) -> Gap {
        // SAFETY: a gap begins with its extent, aligned because `base` is.
        let extent = unsafe { base.cast::<usize>().read() };
        Gap { base, extent }
    }

    /// Reads the gap that ends at `end`.
    ///
    /// # Safety
    /// A gap ends at `end`.
    #[inline]
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Gap {
        // SAFETY: a gap ends at `end`.
        let extent = unsafe { word_below(end) };
        // SAFETY: the last word of a gap is its size and a flag, so `base` is in the same heap.
        let base = unsafe { end.byte_sub(unit_floor(extent)) };
        Gap { base, extent }
    }

    /// Reads the gap that ends at `end`, where a chunk begins.
    ///
    /// # Safety
    /// A gap ends at `end`, but not its heap.
    #[inline]
    pub(super) unsafe fn below(end: NonNull<u8>) -> Gap {
        // SAFETY: a gap ends at `end`.
        let extent = unsafe { word_below(end) };
        // SAFETY: an extent without the flag is the gap's size, so `base` is in the same heap.
        let base = unsafe { end.byte_sub(extent) };
        Gap { base, extent }
    }

    /// Coalesces this gap with the gap that begins where it ends.
    #[inline]
    pub(super) fn join(self, above: Gap) -> Gap {
        // A gap below another has no flag, so the sum is both sizes with the flag of the upper one.
        Gap {
            base: self.base,
            extent: self.extent + above.extent,
        }
    }

    /// Returns whether the gap has at least `size` bytes, a multiple of the unit.
    #[inline]
    pub(super) const fn has(self, size: usize) -> bool {
        // The flag is less than a unit.
        self.extent >= size
    }

    /// Returns the rest above the first `size` bytes, a multiple of the unit that the gap
    /// [has](Gap::has). The rest may be empty.
    #[inline]
    pub(super) fn above(self, size: usize) -> Gap {
        Gap {
            // SAFETY: the gap has `size` bytes, so this is in the gap or at its end.
            base: unsafe { self.base.byte_add(size) },
            extent: self.extent - size,
        }
    }

    /// Returns whether the gap has no bytes.
    #[inline]
    pub(super) const fn is_empty(self) -> bool {
        self.extent < CHUNK_UNIT
    }

    /// Writes the extent to the first and the last word.
    ///
    /// # Safety
    /// The range is free, at least one unit, and in no free list.
    #[inline]
    pub(super) unsafe fn write_extent(self) {
        // SAFETY: the range is free, and has room for a word at its base.
        unsafe { self.base.cast::<usize>().write(self.extent) };
        // SAFETY: the range is free, and has room for a second word at its end.
        unsafe { self.last_word().write(self.extent) };
    }

    /// Writes the header and the last word.
    ///
    /// # Safety
    /// The range is free, no sliver, and in no free list.
    #[inline]
    pub(super) unsafe fn write_header(self, next: Link, referrer: *mut Link) {
        let extent = self.extent;
        let header = GapHeader {
            extent,
            next,
            referrer,
        };
        // SAFETY: a free range that is no sliver has room for a header at its base.
        unsafe { self.header().write(header) };
        // SAFETY: the range is free, and has room for a word above the header.
        unsafe { self.last_word().write(extent) };
    }

    /// Returns where the last word lies, unless the gap is empty.
    #[inline]
    pub(super) fn last_word(self) -> *mut usize {
        self.end().cast::<usize>().as_ptr().wrapping_sub(1)
    }

    /// Returns the first and last word of the gap.
    #[cfg(feature = "hardened")]
    pub(super) const fn extent(self) -> usize {
        self.extent
    }

    /// Returns whether the gap is too small for links (or empty), and so in no free list.
    #[inline]
    pub(super) const fn is_sliver(self) -> bool {
        self.extent < MIN_CHUNK
    }

    /// Returns the gap's header, which a sliver does not have.
    #[inline]
    pub(super) fn header(self) -> NonNull<GapHeader> {
        self.base.cast()
    }

    /// Returns the bytes from the base to the end.
    #[inline]
    pub(super) const fn size(self) -> usize {
        unit_floor(self.extent)
    }

    /// Returns the first address above the gap.
    #[inline]
    pub(super) fn end(self) -> NonNull<u8> {
        // SAFETY: the whole gap lies in one heap, whose end is at most one past its memory.
        unsafe { self.base.byte_add(self.size()) }
    }

    /// Returns whether the heap ends where this gap ends.
    #[inline]
    pub(super) const fn is_heap_end(self) -> bool {
        self.extent & HEAP_END != 0
    }
}
