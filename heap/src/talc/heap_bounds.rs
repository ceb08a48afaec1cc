//! The bounds of heaps: claiming, extending and truncating them.

use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::{HEAP_OVERHEAD, chunk_size, distance, unit_ceil, unit_floor};
use super::gap_header::Gap;
use super::hardened::poison;
use super::requirement::metadata_chunk_size;
use super::source::Source;
use super::tag::{MAX_GAP, Tag};
use super::zeroed::grants_zeroed;

/// The part of a heap that is in use: see the diagrams of [`Talc::reserved`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The end of the highest allocation (or of the allocator's metadata). If the heap has neither,
    /// the base of its lowest possible allocation.
    pub up_to: NonNull<u8>,
    /// Whether the heap contains an allocation or metadata.
    ///
    /// If not, [`Talc::truncate`] to `up_to` deletes the heap.
    pub any: bool,
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Claims `size` bytes from `base` as a heap. Returns the heap's end, which is less than a unit
    /// below the end of the range. Memory of the range outside the heap is not touched.
    ///
    /// ```text
    ///     0x1004     0x100f 0x1010                                0x3000        0x300c
    ///     ├─ not touched ─┬─┬───────────────────────────────────────┬─ not touched ─┤
    ///     │               │t│ one gap; in the first heap below it   │               │
    ///     │               │ │ the list heads, up to 0x1610          │               │
    ///     └───────────────┴─┴───────────────────────────────────────┴───────────────┘
    ///                    base tag                                   ^ the heap's end, returned
    /// ```
    ///
    /// Returns `None`, and touches nothing, if the range is null, wraps around, is too small, or
    /// too large (2⁵⁶ bytes; where a word has 32 bits, 2³¹). The first heap must have room for the
    /// list heads: [`min_first_heap_size`](super::min_first_heap_size) suffices for them and for an
    /// allocation. Other heaps must have room for [`HEAP_OVERHEAD`] and, at multiples of the unit,
    /// the smallest chunk.
    ///
    /// Heaps never coalesce, even if they touch.
    ///
    /// Constant time. (With `hardened`, in proportion to the size: free memory is poisoned.)
    ///
    /// ```
    /// use heap::Span;
    /// use heap::talc::base::{CHUNK_UNIT, HEAP_OVERHEAD, Talc};
    /// use heap::talc::{DefaultBinning, source::Manual};
    ///
    /// #[repr(align(16))]
    /// struct Memory([u8; 0x3000]);
    ///
    /// let (mut memory, mut other) = (Memory([0; 0x3000]), Memory([0; 0x3000]));
    /// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: only `talc` uses the memory, which outlives it.
    /// unsafe {
    ///     // Too small for the list heads.
    ///     assert_eq!(talc.claim(memory.0.as_mut_ptr(), 100), None);
    ///     talc.claim(memory.0.as_mut_ptr(), 0x3000).expect("large enough");
    ///     // The second heap may be small. It begins and ends at multiples of the unit.
    ///     let base = other.0.as_mut_ptr();
    ///     let end = talc.claim(base.add(4), 0x100).expect("large enough");
    ///     assert_eq!(end.as_ptr(), base.add(0x100));
    ///     let first = base.add((4 + HEAP_OVERHEAD).next_multiple_of(CHUNK_UNIT));
    ///     assert!(talc.gaps().any(|gap| gap == Span::new(first, end.as_ptr())));
    /// }
    /// ```
    ///
    /// # Safety
    /// * The range is valid for reads and writes. Up to the returned end, it belongs to this
    ///   allocator until it is [truncated](Talc::truncate) away, or until the allocator and its
    ///   allocations are no longer used. An allocation in the range belongs to the caller that made
    ///   it.
    /// * The [`Source`] allows heaps that it did not make.
    #[doc(alias("add_to_heap", "init", "sbrk"))]
    pub unsafe fn claim(&mut self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        let base = NonNull::new(base)?;
        let limit = base.addr().get().checked_add(size)?;
        let first = unit_ceil(base.addr().get().checked_add(HEAP_OVERHEAD)?)?;
        let end = unit_floor(limit);
        let (metadata_size, min_size) = if self.is_metadata_established() {
            (0, chunk_size(1))
        } else {
            (metadata_chunk_size::<B>(), metadata_chunk_size::<B>())
        };
        let heap_size = end.checked_sub(first)?;
        if heap_size < min_size || heap_size >= MAX_GAP {
            return None;
        }
        let counted_from = if metadata_size == 0 {
            first - HEAP_OVERHEAD
        } else {
            // The first heap is permanent, and so is the memory below its list heads.
            base.addr().get().next_multiple_of(align_of::<usize>())
        };

        // SAFETY: the range reaches beyond `first`.
        let first = unsafe { base.byte_add(first - base.addr().get()) };
        // SAFETY: the heap's size was counted from `first` to the last unit of the range.
        let end = unsafe { first.byte_add(heap_size) };
        // SAFETY: the range has `HEAP_OVERHEAD` bytes below `first`, for the base tag.
        unsafe { Tag::ALLOCATED.with(Tag::HEAP_BASE).write_at(first) };
        // SAFETY: the heap has at least the size of the metadata.
        let free = unsafe { first.byte_add(metadata_size) };
        if metadata_size != 0 {
            // SAFETY: no heap was claimed before. `first` is a multiple of the unit, with room for
            // the metadata above, and the range is the allocator's from now on.
            unsafe { self.free_lists.establish(first) };
            // SAFETY: the chunk of the metadata ends at `free`.
            unsafe { Tag::ALLOCATED.write_at(free) };
        }
        // SAFETY: the range has `HEAP_OVERHEAD` bytes below `first`. The heap is new.
        unsafe { self.free_lists.heaps.insert(first, free, end) };
        // SAFETY: nothing uses the range above the metadata.
        unsafe { poison(free, end) };
        self.counters.count_heap(end.addr().get() - counted_from);
        self.heap_bytes += heap_size;
        // SAFETY: the tag of the base or of the metadata lies below `free`. The range above is the
        // allocator's, in no list, and not in use.
        unsafe { self.set_heap_end(free, end, end.addr().get()) };
        Some(end)
    }

    /// Returns the part of a heap that is in use: the limit for [`truncate`](Talc::truncate).
    ///
    /// ```text
    ///     ├─ heap ──────────────────────────────────────────┤
    ///     ┌─────┬───────────┬─────┬───────────┬─────────────┐
    ///     │ gap │ allocated │ gap │ allocated │ gap         │   any: true
    ///     └─────┴───────────┴─────┴───────────┴─────────────┘
    ///     ├─ reserved ────────────────────────^ up_to
    ///     ┌─────────────────────────────────────────────────┐
    ///     │ gap                                             │   any: false
    ///     └─────────────────────────────────────────────────┘
    ///     ^ up_to: just above the base tag
    /// ```
    ///
    /// If an allocation ends where the heap does, `up_to` is the heap's end. (With `hardened`, the
    /// same if the top of the heap is damaged.)
    ///
    /// Constant time.
    ///
    /// # Safety
    /// `heap_end` is the current end of a heap of this allocator.
    #[doc(alias("top chunk", "get_allocated_span"))]
    pub unsafe fn reserved(&self, heap_end: NonNull<u8>) -> Reserved {
        let is_known = self.is_known_heap_end(heap_end);
        // SAFETY: a heap ends at `heap_end`.
        let Some(gap) = is_known.then(|| unsafe { top_gap(heap_end) }).flatten() else {
            return Reserved {
                up_to: heap_end,
                any: true,
            };
        };
        // SAFETY: a tag lies below every gap.
        let below = unsafe { Tag::ending_at(gap.base) };
        Reserved {
            up_to: gap.base,
            any: !below.is_heap_base(),
        }
    }

    /// Moves a heap's end up to `new_end`, rounded down to a multiple of the unit. Returns the end.
    /// If the result would not be above `heap_end`, or the gap at the top would be too large for a
    /// [claim](Talc::claim), nothing happens, and `heap_end` is returned.
    ///
    /// ```text
    ///             0x1f00  0x2000                          0x3000
    ///     ┄──────┬───────┐                                ┊         heap_end: 0x2000
    ///      chunk │  gap  │                                ┊
    ///     ┄──────┴───────┴────────────────────────────────┐         new_end: 0x3008
    ///      chunk │  gap                                   │         returned: 0x3000
    ///     ┄──────┴────────────────────────────────────────┘
    /// ```
    ///
    /// If the heap ended with a chunk, the gap begins at `heap_end`.
    ///
    /// Constant time. (With `hardened`, in proportion to the memory that is added.)
    ///
    /// ```
    /// # use heap::talc::{DefaultBinning, base::{CHUNK_UNIT, Talc}, source::Manual};
    /// #[repr(align(16))]
    /// struct Memory([u8; 0x4000]);
    ///
    /// let mut memory = Memory([0; 0x4000]);
    /// let base = memory.0.as_mut_ptr();
    /// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: only `talc` uses the memory, which outlives it.
    /// unsafe {
    ///     let end = talc.claim(base, 0x2000).expect("large enough");
    ///     assert_eq!(talc.extend(end, base.add(0x1000)), end); // not above
    ///     let end = talc.extend(end, base.add(0x3008));
    ///     assert_eq!(end.as_ptr(), base.add(0x3008 / CHUNK_UNIT * CHUNK_UNIT));
    ///     assert_eq!(talc.gaps().count(), 1);
    /// }
    /// ```
    ///
    /// # Safety
    /// * `heap_end` is the current end of a heap of this allocator.
    /// * The memory from `heap_end` to the returned end is given as for [`claim`](Talc::claim). The
    ///   old and the new memory are parts of one allocated object, for all of which `heap_end` is
    ///   valid.
    pub unsafe fn extend(&mut self, heap_end: NonNull<u8>, new_end: *mut u8) -> NonNull<u8> {
        let new_end = unit_floor(new_end.addr());
        if new_end <= heap_end.addr().get() || !self.validate_heap_end(heap_end) {
            return heap_end;
        }
        // SAFETY: a heap ends at `heap_end`.
        let gap = unsafe { top_gap(heap_end) };
        let base = gap.map_or(heap_end, |gap| gap.base);
        if new_end - base.addr().get() >= MAX_GAP {
            return heap_end;
        }
        if let Some(gap) = gap {
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(gap) };
        }
        // SAFETY: a tag lies below every gap, and below the end of a heap without a gap there. The
        // removed gap is in no list, and the caller gives the memory above the heap.
        unsafe { self.set_heap_end(base, heap_end, new_end) };
        // SAFETY: the heap and the memory that the caller gives are parts of one allocated object.
        unsafe { heap_end.byte_add(new_end - heap_end.addr().get()) }
    }

    /// Moves a heap's end down to `new_end`, rounded down to a multiple of the unit, but never into
    /// the [reserved](Talc::reserved) part. Returns the end, or `None` if the heap is deleted. A
    /// null `new_end` means as low as possible.
    ///
    /// ```text
    ///             0x1f00  0x2000                          0x3000
    ///     ┄──────┬────────────────────────────────────────┐
    ///      chunk │  gap                                   │    heap_end: 0x3000
    ///     ┄──────┼───────┬────────────────────────────────┘
    ///      chunk │  gap  │          the caller's again         new_end: 0x2008   Some(0x2000)
    ///     ┄──────┼───────┘
    ///      chunk │                  the caller's again         new_end: null     Some(0x1f00)
    ///     ┄──────┘
    /// ```
    ///
    /// The memory above the returned end belongs to the caller again and is no longer touched. If
    /// `new_end` is not below `heap_end`, or the heap ends with an allocation, nothing happens. A
    /// heap in which nothing is in use, and which would be too small for any allocation, is
    /// deleted. The first heap is never deleted, because the list heads lie in it.
    ///
    /// Constant time.
    ///
    /// ```
    /// # use core::{alloc::Layout, ptr::null_mut};
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// let (mut memory, mut other) = ([0_u64; 1024], [0_u64; 1024]);
    /// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: only `talc` uses the memory, which outlives it, and the block is freed once.
    /// unsafe {
    ///     let first_end = talc.claim(memory.as_mut_ptr().cast(), 8192).expect("large enough");
    ///     // Nothing but the list heads is in use.
    ///     let reserved = talc.reserved(first_end);
    ///     assert!(reserved.any);
    ///     assert_eq!(talc.truncate(first_end, null_mut()), Some(reserved.up_to));
    ///
    ///     let end = talc.claim(other.as_mut_ptr().cast(), 8192).expect("large enough");
    ///     let layout = Layout::new::<[u32; 10]>();
    ///     let block = talc.allocate(layout).expect("there is room");
    ///     let reserved = talc.reserved(end);
    ///     assert!(reserved.any && reserved.up_to > block);
    ///     let end = talc.truncate(end, null_mut()).expect("the block is in it");
    ///     assert_eq!(end, reserved.up_to);
    ///     talc.deallocate(block.as_ptr(), layout);
    ///     assert!(!talc.reserved(end).any);
    ///     assert_eq!(talc.truncate(end, null_mut()), None);
    /// }
    /// ```
    ///
    /// # Safety
    /// * `heap_end` is the current end of a heap of this allocator.
    /// * The [`Source`] allows heaps that it did not make.
    #[doc(alias("trim", "malloc_trim"))]
    pub unsafe fn truncate(
        &mut self,
        heap_end: NonNull<u8>,
        new_end: *mut u8,
    ) -> Option<NonNull<u8>> {
        let new_end = unit_floor(new_end.addr());
        if new_end >= heap_end.addr().get() || !self.validate_heap_end(heap_end) {
            return Some(heap_end);
        }
        // SAFETY: a heap ends at `heap_end`.
        let Some(gap) = (unsafe { top_gap(heap_end) }) else {
            return Some(heap_end);
        };
        // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
        unsafe { self.remove_gap(gap) };
        let base = gap.base.addr().get();
        // SAFETY: a tag lies below every gap.
        let below = unsafe { Tag::ending_at(gap.base) };
        let is_useless = below.is_heap_base() && new_end.saturating_sub(base) < chunk_size(1);
        let new_end = if is_useless { base } else { new_end.max(base) };
        // SAFETY: a tag lies below every gap. The new end lies in the removed gap, or at its base.
        unsafe { self.set_heap_end(gap.base, heap_end, new_end) }
    }

    /// [Extends](Talc::extend) or [truncates](Talc::truncate) a heap, depending on `new_end`. Null
    /// means as for `truncate`. Returns `None` if the heap is deleted.
    ///
    /// Constant time. (With `hardened`, in proportion to the memory that is added.)
    ///
    /// # Safety
    /// As for [`extend`](Talc::extend) and [`truncate`](Talc::truncate).
    pub unsafe fn resize(
        &mut self,
        heap_end: NonNull<u8>,
        new_end: *mut u8,
    ) -> Option<NonNull<u8>> {
        if new_end > heap_end.as_ptr() {
            // SAFETY: a heap ends at `heap_end`, and the caller gives the memory up to `new_end`.
            Some(unsafe { self.extend(heap_end, new_end) })
        } else {
            // SAFETY: a heap ends at `heap_end`, and the source allows heaps that it did not make.
            unsafe { self.truncate(heap_end, new_end) }
        }
    }

    /// Ends a heap that ended at `old_end`, and is free from `base` up, at the address `new_end`.
    /// Returns `None` if nothing is left of the heap. Memory above `new_end` is not accessed.
    ///
    /// # Safety
    /// * `base` is a multiple of the unit, and below it lies the tag of a chunk or of the heap's
    ///   base.
    /// * `new_end` is a multiple of the unit and not below `base`.
    /// * The range from `base` to `new_end` is the allocator's, in no list, and not in use.
    pub(super) unsafe fn set_heap_end(
        &mut self,
        base: NonNull<u8>,
        old_end: NonNull<u8>,
        new_end: usize,
    ) -> Option<NonNull<u8>> {
        self.count_end_moved(old_end.addr().get(), new_end);
        self.used_top.note_end(old_end, new_end);
        if grants_zeroed::<S>() {
            self.known_zero.note_end(old_end, new_end);
        }
        // SAFETY: the tag of a chunk or of the heap's base lies below `base`.
        let below = unsafe { Tag::ending_at(base) }
            .without(Tag::BELOW_GAP)
            .without(Tag::HEAP_END);
        // SAFETY: the range from `base` to `new_end` is the allocator's.
        let end = unsafe { base.byte_add(new_end - base.addr().get()) };
        if end > old_end {
            // The last word of a gap was below the old end, unless a tag was.
            // SAFETY: every heap ends with a chunk or a gap, and both are larger than a word.
            let last_word = unsafe { old_end.byte_sub(size_of::<usize>()) };
            // SAFETY: nothing uses the range from `base` up.
            unsafe { poison(base.max(last_word), end) };
        }
        self.free_lists.heaps.move_end(old_end, end);
        if end > base {
            // SAFETY: a chunk or the heap's base tag ends at `base`.
            unsafe { below.with(Tag::BELOW_GAP).write_at(base) };
            // SAFETY: the range is free and in no list, and both its ends are multiples of the
            // unit. The first claim established the list heads.
            unsafe { self.insert_gap(Gap::new(base, distance(base, end), true)) };
        } else if below.is_heap_base() {
            self.free_lists.heaps.remove(end);
            self.known_zero.forget(end);
            self.counters.count_deleted_heap(HEAP_OVERHEAD);
            return None;
        } else {
            // SAFETY: a chunk ends at `base`.
            unsafe { below.with(Tag::HEAP_END).write_at(base) };
        }
        Some(end)
    }

    /// Counts that a heap which ended at `old_end` now ends at `new_end`.
    pub(super) fn count_end_moved(&mut self, old_end: usize, new_end: usize) {
        self.counters.count_end_moved(old_end, new_end);
        let difference = new_end.wrapping_sub(old_end);
        self.heap_bytes = self.heap_bytes.wrapping_add(difference);
    }
}

/// Returns the gap at the top of a heap, if the heap ends with one.
///
/// # Safety
/// A heap ends at `heap_end`.
unsafe fn top_gap(heap_end: NonNull<u8>) -> Option<Gap> {
    // SAFETY: a chunk or a gap ends at a heap's end.
    let is_gap = !unsafe { Tag::ending_at(heap_end) }.is_allocated();
    // SAFETY: what ends without a tag is a gap.
    is_gap.then(|| unsafe { Gap::ending_at(heap_end) })
}
