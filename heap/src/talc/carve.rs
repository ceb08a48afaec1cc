//! Chunks that are made at chosen addresses in gaps, and whose bounds move: what holes are made of.
//!
//! A source can give pages back from the inside of a gap. To the allocator these pages are then a
//! chunk: nothing reads it or writes to it, except for the tag in its last bytes. So no operation
//! on the fast paths knows about holes. Such a chunk does not count as an allocation.
//!
//! ```text
//!     page boundaries     ┊               ┊               ┊               ┊
//!                 ├─ gap ─┊───────────────┊───────────────┊────────────┤          before
//!                 ├─ gap ─┼─ carved chunk ────────────────┊──t├─ gap ──┤          after
//!                         └─ not memory ──────────────────┘
//! ```

use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::{CHUNK_UNIT, distance};
use super::gap_header::Gap;
use super::source::Source;
use super::tag::{TAG_SIZE, Tag};
use super::walk::gap_span;
use crate::span::Span;

/// Bytes at the end of each chunk that belong to the allocator.
pub(crate) const CARVED_OVERHEAD: usize = TAG_SIZE;

/// Only holes whose end is a multiple of this may have no tag: see
/// [`takes_tag`](Source::takes_tag).
pub(crate) const UNTAGGED_ALIGN: usize = 4096;

/// Whether holes can be made. With `hardened`, all free memory is filled with a pattern, which is
/// checked: it stays where it is.
pub(crate) const MAKES_HOLES: bool = cfg!(not(feature = "hardened"));

/// The number of gaps of one list that a walk passes at most.
const MAX_PASSED: usize = 256;

/// Where a walk over the free lists has got to: see [`Talc::large_gaps_from`].
#[derive(Clone, Copy)]
pub(crate) struct GapCursor {
    bin: u32,
    /// The number of gaps of that list that the walk has passed.
    passed: usize,
}

impl GapCursor {
    /// Returns the cursor, or one at the next list if this has passed many gaps of its list: each
    /// step of a walk follows the list from its head.
    pub(crate) fn bounded(self) -> Self {
        if self.passed < MAX_PASSED {
            return self;
        }
        Self {
            bin: self.bin + 1,
            passed: 0,
        }
    }

    /// Returns the cursor after one more gap of its list.
    pub(crate) fn after_one(self) -> Self {
        Self {
            passed: self.passed + 1,
            ..self
        }
    }

    /// Returns the cursor before the gap that this one has passed last.
    pub(crate) fn before_one(self) -> Self {
        Self {
            passed: self.passed - 1,
            ..self
        }
    }
}

/// Up to where the top of a heap was in use: of the heap at whose top memory was freed last.
#[derive(Clone, Copy)]
pub(super) struct UsedTop {
    /// The end of that heap; zero if nothing was freed.
    end: usize,
    /// The highest address at which something ended that was freed.
    up_to: usize,
}

impl UsedTop {
    pub(super) const fn new() -> Self {
        Self { end: 0, up_to: 0 }
    }

    /// Notes that a chunk which ended at `up_to` was freed into the top gap of a heap.
    #[inline]
    pub(super) fn note_freed(&mut self, up_to: NonNull<u8>, heap_end: NonNull<u8>) {
        let (up_to, end) = (up_to.addr().get(), heap_end.addr().get());
        let before = if self.end == end { self.up_to } else { 0 };
        *self = Self {
            end,
            up_to: before.max(up_to),
        };
    }

    /// Notes that the end of a heap has moved.
    #[inline]
    pub(super) fn note_end(&mut self, old_end: NonNull<u8>, new_end: usize) {
        if self.end == old_end.addr().get() {
            self.end = new_end;
        }
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Returns the end of the heap at whose top memory was freed last, and the highest address up
    /// to which it was in use then. Both are zero if nothing was freed there since the last call.
    pub(crate) fn take_used_top(&mut self) -> (usize, usize) {
        let UsedTop { end, up_to } = core::mem::replace(&mut self.used_top, UsedTop::new());
        (end, up_to)
    }

    /// Returns a cursor at the first list that can contain gaps of `size` bytes.
    pub(crate) fn gap_cursor(&self, size: usize) -> GapCursor {
        GapCursor {
            bin: super::free_lists::FreeLists::<B>::expected_bin(size),
            passed: 0,
        }
    }

    /// Returns gaps from the cursor on, except those at the end of a heap. With each comes the
    /// cursor that passes it. The lists may have changed since the cursor was made: then gaps may
    /// be left out or repeated.
    pub(crate) fn large_gaps_from(
        &self,
        cursor: GapCursor,
    ) -> impl Iterator<Item = (Option<Span>, GapCursor)> {
        self.free_lists
            .numbered_from(cursor.bin, cursor.passed)
            .map(|(gap, bin, passed)| {
                let inner = (!gap.is_heap_end()).then(|| gap_span(gap));
                (inner, GapCursor { bin, passed })
            })
    }

    /// Makes a chunk from `base` to `end` in a gap. What is below and above stays free.
    ///
    /// Constant time.
    ///
    /// # Safety
    /// * A gap that is no sliver begins at `gap`, and reaches at least to `end`.
    /// * `base` and `end` are multiples of the unit, and at least two units apart. `base` is not
    ///   below `gap`.
    pub(crate) unsafe fn carve(&mut self, gap: NonNull<u8>, base: NonNull<u8>, end: NonNull<u8>) {
        // SAFETY: a gap begins there.
        let gap = unsafe { Gap::at(gap) };
        // SAFETY: a gap that is no sliver is in its list.
        unsafe { self.remove_gap(gap) };
        // SAFETY: `base` lies in the removed gap, or at its base.
        unsafe { self.end_gap_below(gap.base, base) };
        // SAFETY: the chunk ends in the removed gap or at its end.
        unsafe { self.end_chunk_in(gap, end) };
        self.counters.count_hole(distance(base, end));
    }

    /// Makes the range from `base` up to `end` a gap, or, if it is empty, marks that no gap is
    /// there.
    ///
    /// # Safety
    /// The range is free and in no list, its size is a multiple of the unit, and a tag lies below
    /// it. The list heads are established.
    unsafe fn end_gap_below(&mut self, base: NonNull<u8>, end: NonNull<u8>) {
        if base < end {
            // SAFETY: the range is free, in no list, and at least one unit.
            unsafe { self.insert_gap(Gap::new(base, distance(base, end), false)) };
        } else {
            // SAFETY: a tag lies below the range.
            unsafe { Tag::clear_below_gap(base) };
        }
    }

    /// Frees a carved chunk, which coalesces with the gaps that it touches. The source is not asked
    /// where the heap ends.
    ///
    /// Constant time.
    ///
    /// # Safety
    /// A carved chunk extends from `base` to `end`, all of it memory.
    pub(crate) unsafe fn uncarve(&mut self, base: NonNull<u8>, end: NonNull<u8>) {
        let size = distance(base, end);
        self.counters.uncount_hole(size);
        // SAFETY: the chunk ends at `end`, and nothing uses it.
        let gap = unsafe { self.coalesce(base, size) };
        // If the gap ends its heap, a chunk above this one was freed there. So it is known already
        // that all of this one was in use.
        // SAFETY: the gap is free, at least two units, and in no list. A heap has list heads.
        unsafe { self.insert_gap(gap) };
    }

    /// Frees the part of a carved chunk below `new_base`, which coalesces with the gap below. The
    /// chunk now begins at `new_base`.
    ///
    /// Constant time.
    ///
    /// # Safety
    /// A carved chunk begins at `base` and reaches beyond `new_base`, a multiple of the unit, at
    /// least two units above `base`. The part between them is memory.
    pub(crate) unsafe fn raise_carved(&mut self, base: NonNull<u8>, new_base: NonNull<u8>) {
        // SAFETY: the part is memory, and nothing uses it.
        unsafe { Tag::ending_chunk(false).write_at(new_base) };
        // SAFETY: a carved chunk, the part of this one, now ends at `new_base`.
        unsafe { self.uncarve(base, new_base) };
    }

    /// Notes that there are carved chunks without a tag.
    pub(crate) fn note_untagged(&mut self) {
        self.has_untagged = true;
    }

    /// Writes the tag of a carved chunk that ends at `end`, where a chunk in use begins.
    ///
    /// # Safety
    /// A carved chunk ends at `end`, and its last bytes are memory.
    pub(crate) unsafe fn write_tag(&mut self, end: NonNull<u8>) {
        // SAFETY: the chunk ends there.
        unsafe { Tag::ending_chunk(false).write_at(end) };
    }

    /// Makes a chunk of `size` bytes at the base of the gap that a new heap is, for records of the
    /// source. It counts as overhead.
    ///
    /// # Safety
    /// A gap of more than `size` bytes begins at `gap`. `size` is a multiple of the unit, and at
    /// least two.
    pub(crate) unsafe fn reserve_bottom(&mut self, gap: NonNull<u8>, size: usize) {
        // SAFETY: the gap has as many bytes.
        let end = unsafe { gap.byte_add(size) };
        // SAFETY: the gap is no sliver, and larger than the chunk.
        unsafe { self.carve(gap, gap, end) };
        self.counters.uncount_hole(size);
    }

    /// Frees a chunk of `size` bytes that begins above an untagged hole, for which its lowest unit
    /// becomes a tag.
    ///
    /// # Safety
    /// As for [`Talc::deallocate`]. The source has [taken](Source::takes_tag) the unit.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn deallocate_above_hole(&mut self, base: NonNull<u8>, size: usize) {
        // SAFETY: a chunk has at least two units.
        let rest = unsafe { base.byte_add(CHUNK_UNIT) };
        // SAFETY: the hole's chunk now ends there.
        unsafe { self.write_tag(rest) };
        self.counters.count_hole(CHUNK_UNIT);
        // SAFETY: the tag of the freed chunk is in place, and nothing uses the chunk.
        unsafe { self.free_end(rest, size - CHUNK_UNIT) };
    }

    /// Returns the base of the free memory that ends at `base`, where a chunk begins: `base` itself
    /// if a chunk or the heap's base tag ends there.
    ///
    /// # Safety
    /// A chunk begins at `base`.
    pub(crate) unsafe fn free_below(&self, base: NonNull<u8>) -> NonNull<u8> {
        // SAFETY: a chunk, a gap or a base tag ends where a chunk begins.
        if unsafe { Tag::ending_at(base) }.is_allocated() {
            return base;
        }
        // SAFETY: what ends without a tag is a gap.
        unsafe { Gap::below(base) }.base
    }

    /// Returns the end of the free memory that begins at `end`, where a chunk ends.
    ///
    /// # Safety
    /// A chunk ends at `end`.
    pub(crate) unsafe fn free_above(&self, end: NonNull<u8>) -> NonNull<u8> {
        // SAFETY: a chunk ends at `end`.
        if !unsafe { Tag::ending_at(end) }.is_below_gap() {
            return end;
        }
        // SAFETY: a gap begins at `end`, as the tag says.
        unsafe { Gap::at(end) }.end()
    }

    /// Returns whether a tag lies below `end`, as where a chunk ends.
    ///
    /// # Safety
    /// The bytes below `end` are initialised, and `end` is a multiple of the unit.
    pub(crate) unsafe fn ends_chunk(&self, end: NonNull<u8>) -> bool {
        // SAFETY: the bytes are initialised.
        unsafe { Tag::ending_at(end) }.is_allocated()
    }

    /// Moves the end of a heap down through a carved chunk, which is given up with all that lies
    /// above it. The memory of the chunk and above `new_end` is not accessed. Returns `None` if the
    /// heap is deleted.
    ///
    /// ```text
    ///     ┄──────┬───────┬────────────────────┬──────────┐
    ///      chunk │  gap  │ carved chunk       │ gap      │   heap_end
    ///     ┄──────┴────┬──┴────────────────────┴──────────┘
    ///      chunk │ gap│   the caller's again                 new_end
    ///     ┄──────┴────┘
    /// ```
    ///
    /// # Safety
    /// * A carved chunk begins at `base`. Above it lies nothing but, perhaps, a gap up to
    ///   `heap_end`, where its heap ends.
    /// * `new_end` is a multiple of the unit, in the free memory that ends at `base`, or at its
    ///   base.
    pub(crate) unsafe fn truncate_through(
        &mut self,
        heap_end: NonNull<u8>,
        base: NonNull<u8>,
        end: NonNull<u8>,
        new_end: *mut u8,
    ) -> Option<NonNull<u8>> {
        self.counters.uncount_hole(distance(base, end));
        if end < heap_end {
            // SAFETY: a gap lies between the chunk and the end of the heap.
            let gap = unsafe { Gap::at(end) };
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(gap) };
        }
        // SAFETY: a chunk begins at `base`.
        let free = unsafe { self.free_below(base) };
        if free < base {
            // SAFETY: a gap begins there.
            let gap = unsafe { Gap::at(free) };
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(gap) };
        }
        // SAFETY: a tag lies below the free memory, in which the new end lies, and which is in no
        // list any more.
        unsafe { self.set_heap_end(free, heap_end, new_end.addr()) }
    }
}
