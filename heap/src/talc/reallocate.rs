//! Resizing in place.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::{checked_chunk_size, chunk_size};
use super::gap_header::Gap;
use super::source::Source;
use super::tag::Tag;

impl<S: Source, B: Binning> Talc<S, B> {
    /// Grows an allocation to `new_size` bytes without moving it. Returns `false`, and changes
    /// nothing, if the memory above is in use or too small.
    ///
    /// ```text
    ///     0x1040       0x1070           0x10b0            0x1100
    ///     ├─ chunk: 48 ┼──────── gap: 144 ────────────────┤   40 bytes, before
    ///     ├─ chunk: 112 ────────────────┼─── gap: 80 ─────┤   100 bytes, after
    /// ```
    ///
    /// Growing to at most 47 bytes needs no gap: a chunk of 48 has room for them.
    ///
    /// Constant time.
    ///
    /// # Safety
    /// * `ptr` is a live allocation of this allocator, made with `layout` or last resized to it.
    /// * `new_size` is at least `layout.size()`.
    #[doc(alias = "grow_in_place")]
    pub unsafe fn try_grow_in_place(
        &mut self,
        ptr: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> bool {
        debug_assert!(new_size >= layout.size());
        let Some(new_chunk) = checked_chunk_size(new_size) else {
            return false;
        };
        if !self.validate_block(ptr, layout) {
            return false;
        }
        let old_chunk = chunk_size(layout.size());
        if new_chunk != old_chunk {
            // SAFETY: an allocation is not null.
            let base = unsafe { NonNull::new_unchecked(ptr) };
            // SAFETY: an allocation of this layout begins a chunk of `old_chunk` bytes.
            let end = unsafe { base.byte_add(old_chunk) };
            // SAFETY: the chunk ends at `end`.
            if !unsafe { Tag::ending_at(end) }.is_below_gap() {
                return false;
            }
            // SAFETY: a gap begins at `end`, as the tag says.
            let above = unsafe { Gap::at(end) };
            if above.size() < new_chunk - old_chunk {
                return false;
            }
            // SAFETY: the gap has the bytes by which the chunk grows.
            let new_end = unsafe { base.byte_add(new_chunk) };
            // SAFETY: both ends of the chunk are multiples of the unit, and so of a word's size.
            unsafe { self.validate_poison(above, end, new_end) };
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(above) };
            // SAFETY: the chunk ends in the removed gap or at its end.
            unsafe { self.end_chunk_in(above, new_end) };
            // SAFETY: the chunk, which ended at `end`, is larger now.
            unsafe { self.clear_redzone(end) };
        }
        // (A caller that has no layout for the new size has none to free the block with.)
        if let Ok(new) = Layout::from_size_align(new_size, layout.align()) {
            // SAFETY: the chunk has the size for this layout now.
            unsafe { self.write_redzone(NonNull::new(ptr), new) };
        }
        self.counters.count_growth(new_size - layout.size());
        self.report_pending_finding();
        true
    }

    /// Shrinks an allocation to `new_size` bytes without moving it. The rest is freed, in whole
    /// units.
    ///
    /// ```text
    ///     0x1040       0x1070           0x10b0            0x1100
    ///     ├─ chunk: 112 ────────────────┼─ chunk: 80 ─────┤   100 bytes, before
    ///     ├─ chunk: 48 ┼─── gap: 64 ────┼─ chunk: 80 ─────┤   40 bytes, after
    ///     ├─ chunk: 96 ────────────┼────┼─ chunk: 80 ─────┤   or 90 bytes: a sliver is left
    /// ```
    ///
    /// A gap above coalesces with the rest. A *sliver*, a free unit between two chunks, is in no
    /// free list: it is used again when a neighbour is freed or grows.
    ///
    /// Constant time. When the free space at the top of a heap has grown, a
    /// [tracking](Source::TRACK_HEAP_END) source decides where the heap ends from now on.
    ///
    /// # Safety
    /// * `ptr` is a live allocation of this allocator, made with `layout` or last resized to it.
    /// * `new_size` is at most `layout.size()` and not zero.
    pub unsafe fn shrink(&mut self, ptr: *mut u8, layout: Layout, new_size: usize) {
        debug_assert!(new_size != 0 && new_size <= layout.size());
        if !self.validate_block(ptr, layout) {
            return;
        }
        let new_chunk = chunk_size(new_size);
        let old_chunk = chunk_size(layout.size());
        if new_chunk != old_chunk {
            // SAFETY: an allocation is not null.
            let base = unsafe { NonNull::new_unchecked(ptr) };
            // SAFETY: the chunk at `base` is larger than `new_chunk` bytes.
            let new_end = unsafe { base.byte_add(new_chunk) };
            // SAFETY: the chunk ends at `new_end` from now on.
            unsafe { Tag::ALLOCATED.write_at(new_end) };
            // SAFETY: the chunk ended `old_chunk` bytes above its base, where its old tag is. The
            // allocation no longer reaches beyond the new end.
            unsafe { self.free_end(new_end, old_chunk - new_chunk) };
        }
        // SAFETY: the size is at most that of a valid layout of the same alignment.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the chunk has the size for this layout now.
        unsafe { self.write_redzone(NonNull::new(ptr), new) };
        self.counters.count_shrinkage(layout.size() - new_size);
        self.report_pending_finding();
    }

    /// [Grows](Talc::try_grow_in_place) or [shrinks](Talc::shrink) an allocation without moving it.
    /// Returns `false`, and changes nothing, if it cannot grow. Shrinking always succeeds.
    ///
    /// Constant time.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// let layout = |size| Layout::from_size_align(size, 1).expect("it is little");
    /// // SAFETY: only `talc` uses `memory`, which outlives it. The blocks are freed once.
    /// unsafe {
    ///     talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory)).expect("large enough");
    ///     let block = talc.allocate(layout(40)).expect("there is room").as_ptr();
    ///     assert!(talc.try_realloc_in_place(block, layout(40), 100));
    ///     // Now another block lies above.
    ///     let other = talc.allocate(layout(40)).expect("there is room").as_ptr();
    ///     assert!(!talc.try_realloc_in_place(block, layout(100), 200));
    ///     assert!(talc.try_realloc_in_place(block, layout(100), 40));
    ///     talc.deallocate(block, layout(40));
    ///     talc.deallocate(other, layout(40));
    /// }
    /// assert!(talc.check().is_ok());
    /// ```
    ///
    /// # Safety
    /// * `ptr` is a live allocation of this allocator, made with `layout` or last resized to it.
    /// * `new_size` is not zero.
    #[doc(alias = "realloc")]
    #[inline]
    pub unsafe fn try_realloc_in_place(
        &mut self,
        ptr: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> bool {
        if new_size > layout.size() {
            // SAFETY: the allocation is live, and the new size is larger.
            unsafe { self.try_grow_in_place(ptr, layout, new_size) }
        } else {
            // SAFETY: the allocation is live, and the new size is neither larger nor zero.
            unsafe { self.shrink(ptr, layout, new_size) };
            true
        }
    }
}
