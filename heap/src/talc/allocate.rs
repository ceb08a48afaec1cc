//! Allocation and deallocation.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::carve::UNTAGGED_ALIGN;
use super::chunk::{CHUNK_UNIT, HEAP_OVERHEAD, chunk_size, distance};
use super::gap_header::{Gap, GapHeader, Link};
use super::hardened::{Findings, poison};
use super::requirement::ChunkRequirement;
use super::source::Source;
use super::tag::Tag;
use super::zeroed::grants_zeroed;

/// The number of gaps that may fit or not, and are probed before the source is asked for
/// memory.
const MAX_PROBES: usize = 16;

/// The number of calls in one allocation in which a source may claim success without granting
/// memory.
const MAX_IDLE_ACQUISITIONS: usize = 8;

/// Decides how long one allocation asks the source for memory.
pub(super) struct Progress {
    /// The largest sum of heap sizes. It is bounded, and a source that alternately grants and takes
    /// back does not raise it.
    largest: usize,
    idle: usize,
}

impl Progress {
    /// Begins with the sum of heap sizes before the source was asked.
    pub(super) fn from(heap_bytes: usize) -> Self {
        Self {
            largest: heap_bytes,
            idle: 0,
        }
    }

    /// Notes the sum of heap sizes after a call that claimed success. Returns whether to ask again
    /// if the request does not fit.
    pub(super) fn continues(&mut self, heap_bytes: usize) -> bool {
        if heap_bytes > self.largest {
            self.largest = heap_bytes;
        } else {
            self.idle += 1;
        }
        self.idle < MAX_IDLE_ACQUISITIONS
    }
}

/// Finds a gap for an allocation.
pub(super) type Find<S, B> = fn(&mut Talc<S, B>, &Request, Layout) -> Option<Gap>;

/// What an allocation needs of a gap, and what the search for one has found.
pub(super) struct Request {
    pub(super) requirement: ChunkRequirement,
    /// Damage to gaps that were probed.
    pub(super) findings: Findings,
}

impl Request {
    #[inline]
    pub(super) fn new(layout: Layout) -> Request {
        Request {
            requirement: ChunkRequirement::new(layout),
            findings: Findings::new(),
        }
    }

    /// Returns the bytes from `base` to the first aligned address.
    #[inline]
    fn padding_at(&self, base: NonNull<u8>) -> usize {
        base.addr().get().wrapping_neg() & (self.requirement.align() - 1)
    }

    /// Returns whether the gap has room for the chunk at an aligned address. Counts as a probe.
    pub(super) fn fits(&self, gap: Gap) -> bool {
        #[cfg(test)]
        super::probe_tests::count_probe();
        // The padding is at most `align - CHUNK_UNIT`, so the sum does not overflow.
        gap.size() >= self.padding_at(gap.base) + self.requirement.chunk_size()
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Allocates from the heaps as they are, without asking the [`Source`] for memory.
    ///
    /// ```text
    ///     0x1010         0x1040         0x1070            0x1100
    ///     ├──────────────────── gap: 240 ─────────────────┤   before
    ///     ├─ chunk: 48 ──┼──────── gap: 192 ──────────────┤   after 40 bytes
    ///     ├─ gap: 48 ────┼─ chunk: 48 ──┼─── gap: 144 ────┤   or after 40 bytes aligned to 64
    /// ```
    ///
    /// The chunk begins at the lowest aligned address of a gap. The rest of the gap on either side
    /// stays free.
    ///
    /// Constant time while a gap exists that fits wherever it lies. Otherwise every gap that might
    /// fit is probed, so that one is found if it exists. Returns `None` if none fits.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: only `talc` uses `memory`, which outlives it. The sizes are not zero.
    /// unsafe {
    ///     talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory)).expect("large enough");
    ///     let block = talc.try_allocate(Layout::from_size_align(40, 64)?).expect("there is room");
    ///     assert_eq!(block.addr().get() % 64, 0);
    ///     assert_eq!(talc.try_allocate(Layout::new::<[u64; 2048]>()), None);
    /// }
    /// # Ok::<(), core::alloc::LayoutError>(())
    /// ```
    ///
    /// # Safety
    /// `layout.size()` is not zero.
    #[inline]
    pub unsafe fn try_allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_by(layout, Self::find_any)
    }

    /// Allocates, and asks the [`Source`] for memory when the heaps have too little.
    ///
    /// The diagram of [`try_allocate`](Self::try_allocate) shows how a gap is divided. For 40 bytes
    /// aligned to 64, a chunk of 48, the lists of the [`DefaultBinning`](super::DefaultBinning) are
    /// searched in this order:
    ///
    /// ```text
    ///     list      3          4          5          6          7 …
    ///     gaps of   48         64         80         96         112 …
    ///               fit if they lie well ──────────┤ fit wherever they lie ───
    ///     1         the first 4
    ///     2                                          the first of the first list that has one
    ///     3         about 16 of all in these ──────────────┤
    ///     4         Source::acquire, and from 1 again if it claims success
    ///     5         all in these, when it fails ───────────┤
    /// ```
    ///
    /// With an alignment up to the unit, a fast path comes before all this: it takes the first gap
    /// of the lowest list from the chunk's size up that is not empty, if that gap fits. It nearly
    /// always does.
    ///
    /// Constant time, except for the source's own: before the source is asked, the number of probes
    /// is bounded. Only when the source has no more memory is every gap probed that might fit.
    /// Returns `None` if none of those fits either.
    ///
    /// The source is asked until the request fits or the source fails. A call that claims success
    /// without making the heaps larger than ever before in this allocation is idle; the eighth idle
    /// call is the last. A source that grants small adjacent pieces can thus serve a large request.
    /// A source that grants small heaps apart from each other is exhausted in vain; its heaps then
    /// serve other requests.
    ///
    /// # Safety
    /// `layout.size()` is not zero.
    #[doc(alias("malloc", "alloc"))]
    #[inline]
    pub unsafe fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_by(layout, Self::find_or_acquire)
    }

    /// Allocates on the fast path, or else from the gap that `find` returns.
    #[inline]
    pub(super) fn allocate_by(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        let block = match self.allocate_fast(layout) {
            None => self.allocate_from_larger_bin(layout, find),
            block => block,
        };
        // SAFETY: the block, if there is one, is a new chunk for this layout, and nothing uses it
        // yet.
        unsafe { self.write_redzone(block, layout) };
        self.report_pending_finding();
        block
    }

    /// Returns whether the fast path serves the layout: its alignment is at most the unit. With
    /// `hardened`, every request takes the slow path.
    #[inline]
    fn is_simple(layout: Layout) -> bool {
        layout.align() <= CHUNK_UNIT && cfg!(not(feature = "hardened"))
    }

    /// The fast path, which serves most requests: allocates from the first gap of the lowest list
    /// that is not empty and may hold a gap of this size. Requires that this gap is large enough
    /// and that `align <= CHUNK_UNIT`.
    #[inline]
    fn allocate_fast(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !Self::is_simple(layout) {
            return None;
        }
        let size = chunk_size(layout.size());
        let (head, gap) = self.free_lists.first_for(size)?;
        // SAFETY: `first_for` returns the first gap of the list at `head`, which has `size` bytes.
        unsafe { self.allocate_from_first(layout, size, head, gap) }
    }

    /// Allocates, after the [fast path](Self::allocate_fast) has failed, from the first gap of the
    /// lowest list whose gaps are all large enough, if `align <= CHUNK_UNIT`; or else on the [slow
    /// path](Self::allocate_slow).
    #[inline(never)]
    fn allocate_from_larger_bin(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        if Self::is_simple(layout) {
            let size = chunk_size(layout.size());
            if let Some((head, gap)) = self.free_lists.first_in_larger_bin(size) {
                // SAFETY: `first_in_larger_bin` returns the first gap of the list at `head`, which
                // has `size` bytes.
                return unsafe { self.allocate_from_first(layout, size, head, gap) };
            }
        }
        self.allocate_slow(layout, find)
    }

    /// Makes a chunk of `size` bytes for `layout` at the base of the first gap of a list.
    ///
    /// # Safety
    /// `gap` is the first of the list at `head`, and [has](Gap::has) `size` bytes.
    #[inline]
    unsafe fn allocate_from_first(
        &mut self,
        layout: Layout,
        size: usize,
        head: *mut Link,
        gap: Gap,
    ) -> Option<NonNull<u8>> {
        self.counters.count_allocation(layout.size());
        let rest = gap.above(size);
        if !rest.is_empty() {
            // SAFETY: the gap is the first of the list at `head`, and begins with `size` bytes.
            return Some(unsafe { self.split_first(head, rest, size) });
        }
        self.counters.uncount_gap(gap.size());
        // SAFETY: the gap is the first of the list at `head`.
        unsafe { self.free_lists.remove_first(head, gap.header()) };
        // SAFETY: the chunk ends where the gap did.
        unsafe { Tag::ending_chunk(rest.is_heap_end()).write_at(rest.base) };
        // SAFETY: a tag lies below every gap.
        unsafe { Tag::clear_below_gap(gap.base) };
        Some(gap.base)
    }

    /// Divides a gap into a chunk of its lowest `size` bytes and a gap of the rest. Returns the
    /// base of the chunk.
    ///
    /// This is a function of its own because it needs more registers than its caller. (The result
    /// is computed from the rest so that the call can be a jump. Without link-time optimisation,
    /// the caller knows only from the type that the result is not null.)
    ///
    /// # Safety
    /// `rest` and the `size` bytes below it are the first gap of the list at `head`. Neither is
    /// empty.
    #[inline(never)]
    unsafe fn split_first(&mut self, head: *mut Link, rest: Gap, size: usize) -> NonNull<u8> {
        // SAFETY: the gap begins `size` bytes below its rest.
        let base = unsafe { rest.base.byte_sub(size) };
        self.counters.uncount_gap(size + rest.size());
        // SAFETY: a tag lies below every gap.
        unsafe { Tag::clear_below_gap(base) };
        // SAFETY: the chunk ends where the rest begins.
        unsafe { Tag::ALLOCATED.with(Tag::BELOW_GAP).write_at(rest.base) };
        if rest.is_sliver() {
            // SAFETY: the gap at `base` is the first of the list at `head`.
            unsafe { self.free_lists.remove_first(head, base.cast()) };
            // SAFETY: the rest is free and not empty, and its gap was removed from the list.
            unsafe { rest.write_extent() };
        } else {
            self.counters.count_gap(rest.size());
            // SAFETY: the gap at `base` is the first of the list at `head`. Its rest remains free.
            unsafe { self.free_lists.replace_first(head, base.cast(), rest) };
        }
        base
    }

    /// The slow path: allocates from the gap that `find` returns, at any alignment.
    #[inline(never)]
    fn allocate_slow(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        let request = Request::new(layout);
        let gap = find(self, &request, layout);
        self.report_findings(&request.findings);
        // SAFETY: `find` returns a gap in its list, in which the request fits.
        Some(unsafe { self.allocate_from(gap?, &request, layout) })
    }

    /// Returns a gap in which the request fits. Asks the source until one exists, the source fails,
    /// or it grants nothing more.
    pub(super) fn find_or_acquire(&mut self, request: &Request, layout: Layout) -> Option<Gap> {
        let mut progress = Progress::from(self.heap_bytes);
        loop {
            if let Some(gap) = self.find_soon(request, layout) {
                return Some(gap);
            }
            if S::acquire(self, layout).is_err() || !progress.continues(self.heap_bytes) {
                return self.find_any(request, layout);
            }
        }
    }

    /// Returns a gap in which the request fits, if a bounded search finds one.
    pub(super) fn find_soon(&mut self, request: &Request, _: Layout) -> Option<Gap> {
        self.free_lists.find(request, MAX_PROBES)
    }

    /// Returns a gap in which the request fits, if there is one.
    pub(super) fn find_any(&mut self, request: &Request, _: Layout) -> Option<Gap> {
        self.free_lists.find(request, usize::MAX)
    }

    /// Makes a chunk at the lowest aligned address of a gap.
    ///
    /// # Safety
    /// The gap is in its list, and the request, made from `layout`, fits in it.
    pub(super) unsafe fn allocate_from(
        &mut self,
        gap: Gap,
        request: &Request,
        layout: Layout,
    ) -> NonNull<u8> {
        let padding = request.padding_at(gap.base);
        // SAFETY: the gap has room for the padding, because the request fits.
        let base = unsafe { gap.base.byte_add(padding) };
        // SAFETY: the gap has room for the chunk above the padding, because the request fits.
        let end = unsafe { base.byte_add(request.requirement.chunk_size()) };
        // SAFETY: both ends of the chunk are multiples of the unit, and so of a word's size.
        unsafe { self.validate_poison(gap, base, end) };
        // SAFETY: the gap is in its list.
        unsafe { self.remove_gap(gap) };
        if padding > 0 {
            // SAFETY: the padding was a part of the removed gap, and is a multiple of the unit. A
            // list that had a gap has a head.
            unsafe { self.insert_gap(Gap::new(gap.base, padding, false)) };
        } else {
            // SAFETY: a tag lies below every gap, and this one began at `base`.
            unsafe { Tag::clear_below_gap(base) };
        }
        // SAFETY: the chunk ends in the removed gap or at its end.
        unsafe { self.end_chunk_in(gap, end) };
        self.counters.count_allocation(layout.size());
        base
    }

    /// Ends a chunk at `end`, in a gap that was removed from its list. The rest of the gap above
    /// becomes a gap.
    ///
    /// # Safety
    /// `end` is a multiple of the unit, in or at the end of `gap`, and above the chunk's base. The
    /// gap from `end` up is free and in no list.
    pub(super) unsafe fn end_chunk_in(&mut self, gap: Gap, end: NonNull<u8>) {
        let rest = gap.above(distance(gap.base, end));
        if rest.is_empty() {
            // SAFETY: the chunk ends at `end`, which is the end of the gap.
            unsafe { Tag::ending_chunk(gap.is_heap_end()).write_at(end) };
        } else {
            // SAFETY: the chunk ends at `end`, in the gap.
            unsafe { Tag::ALLOCATED.with(Tag::BELOW_GAP).write_at(end) };
            // SAFETY: the rest is free, not empty, and in no list. The gap's list has a head.
            unsafe { self.insert_gap(rest) };
        }
    }

    /// Frees an allocation, which coalesces with the gaps that it touches.
    ///
    /// ```text
    ///     0x1000       0x1040       0x1070                0x1100
    ///     ├─ gap: 64 ──┼─ chunk: 48 ┼─ gap: 144 ──────────┤   before: two gaps, in lists 4 and 9
    ///     ├───────────────── gap: 256 ────────────────────┤   after: one, in list 16
    /// ```
    ///
    /// Constant time. (With `hardened`, in proportion to the size and to the number of heaps. If
    /// the source has made holes without a tag, O(log holes) where `ptr` is a multiple of 4,096:
    /// one may lie below.) When the free space at the top of a heap has grown, a
    /// [tracking](Source::TRACK_HEAP_END) source decides where the heap ends from now on.
    ///
    /// # Safety
    /// `ptr` is a live allocation of this allocator, made with `layout` or last resized to it.
    #[doc(alias("free", "dealloc"))]
    #[inline]
    pub unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        if !self.validate_block(ptr, layout) {
            return;
        }
        self.counters.count_deallocation(layout.size());
        // SAFETY: an allocation is not null.
        let base = unsafe { NonNull::new_unchecked(ptr) };
        let size = chunk_size(layout.size());
        if S::LEAVES_OUT_TAGS && self.has_untagged && base.addr().get() % UNTAGGED_ALIGN == 0 {
            // SAFETY: if the result is `true`, `deallocate_above_hole` writes the tag.
            match unsafe { S::takes_tag(self, base) } {
                Some(false) => {}
                // SAFETY: an allocation of this layout begins a chunk of this size.
                Some(true) => return unsafe { self.deallocate_above_hole(base, size) },
                // What is below must not be read: it may not be memory.
                None => return,
            }
        }
        // SAFETY: an allocation of this layout begins a chunk of this size, which is freed now.
        let gap = unsafe { self.coalesce(base, size) };
        if S::TRACK_HEAP_END && gap.is_heap_end() {
            // SAFETY: the heap reaches at least to the end of the chunk.
            let freed_end = unsafe { base.byte_add(size) };
            // SAFETY: the gap is free, at the end of its heap, and in no list.
            unsafe { self.offer_top(gap.base, gap.end(), freed_end) };
        } else {
            // A freed chunk is never as small as a sliver.
            self.counters.count_gap(gap.size());
            // SAFETY: the gap is free, no sliver, and in no list. The list heads are established.
            unsafe { self.free_lists.insert(gap) };
        }
        self.report_pending_finding();
    }

    /// Frees the last `size` bytes of a chunk that ended at `base + size` and now ends at `base`.
    ///
    /// # Safety
    /// Both the old and the new tag of the chunk are in place. Nothing uses the range between them.
    pub(super) unsafe fn free_end(&mut self, base: NonNull<u8>, size: usize) {
        // SAFETY: the range lies between the new and the old tag of the chunk, and is not in use.
        let gap = unsafe { self.coalesce(base, size) };
        if S::TRACK_HEAP_END && gap.is_heap_end() {
            // SAFETY: the heap reaches at least to where the chunk ended.
            let freed_end = unsafe { base.byte_add(size) };
            // SAFETY: the gap is free, at the end of its heap, and in no list.
            unsafe { self.offer_top(gap.base, gap.end(), freed_end) };
        } else {
            // SAFETY: the gap is free, not empty, and in no list. The list heads are established.
            unsafe { self.insert_gap(gap) };
        }
    }

    /// Coalesces the `size` bytes from `base`, up to the end of a chunk, with the gaps that they
    /// touch. Those gaps are removed from their lists. Returns the gap, which is in no list and has
    /// no header yet.
    ///
    /// # Safety
    /// A chunk ends at `base + size`, and nothing in the range is in use. A chunk, a gap or a
    /// heap's base tag ends at `base`.
    #[inline]
    pub(super) unsafe fn coalesce(&mut self, base: NonNull<u8>, size: usize) -> Gap {
        // SAFETY: the heap has `size` bytes above `base`.
        let end = unsafe { base.byte_add(size) };
        // SAFETY: a chunk ends at `end`.
        let tag = unsafe { Tag::ending_at(end) };
        let mut gap = if tag.is_below_gap() {
            // SAFETY: a gap begins at `end`, as the tag says.
            let above = unsafe { Gap::at(end) };
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(above) };
            // SAFETY: the gap above has at least as many bytes.
            let header_end = unsafe { end.byte_add(above.size().min(size_of::<GapHeader>())) };
            // SAFETY: nothing uses the header of a removed gap.
            unsafe { poison(end, header_end) };
            Gap::new(base, size, false).join(above)
        } else {
            Gap::new(base, size, tag.is_heap_end())
        };
        // SAFETY: a chunk, a gap or a base tag ends at `base`.
        let below = unsafe { Tag::ending_at(base) };
        if below.is_allocated() {
            // SAFETY: a chunk or a base tag ends at `base`, because a tag lies there.
            unsafe { below.with(Tag::BELOW_GAP).write_at(base) };
            // SAFETY: nothing in the range is in use.
            unsafe { poison(base, end) };
        } else {
            // SAFETY: a gap ends at `base`, because no tag lies there. Its heap ends higher.
            let below = unsafe { Gap::below(base) };
            // SAFETY: every gap of a heap, unless it is a sliver, is in its list.
            unsafe { self.remove_gap(below) };
            // SAFETY: every gap ends with a word.
            let last_word = unsafe { base.byte_sub(size_of::<usize>()) };
            // SAFETY: nothing uses the last word of a removed gap, nor the range above it.
            unsafe { poison(last_word, end) };
            gap = below.join(gap);
        }
        gap
    }

    /// Lets the source decide where a heap ends. The free range from `base` to the heap's end has
    /// grown by memory that was in use up to `freed_end`.
    ///
    /// # Safety
    /// The range is free, ends its heap at `end`, and is in no list.
    #[inline(never)]
    unsafe fn offer_top(&mut self, base: NonNull<u8>, end: NonNull<u8>, freed_end: NonNull<u8>) {
        self.used_top.note_freed(freed_end, end);
        if grants_zeroed::<S>() {
            self.known_zero.note_freed(freed_end, end);
        }
        // SAFETY: a tag lies below every free range.
        let is_heap_base = unsafe { Tag::ending_at(base) }.is_heap_base();
        if is_heap_base {
            // If the heap is deleted, its memory must not be read again.
            self.free_lists.heaps.remove(end);
        }
        // SAFETY: base and end are multiples of the unit and delimit the free top of a heap. If
        // nothing lies below `base`, returning it deletes the heap, as `resize` demands.
        let new_end = unsafe {
            self.source
                .resize(base.as_ptr(), end.as_ptr(), is_heap_base)
        };
        debug_assert!(
            new_end.addr() % CHUNK_UNIT == 0,
            "the source returned an odd heap end"
        );
        debug_assert!(
            new_end.addr() >= base.addr().get(),
            "the source cut into what is in use"
        );
        if is_heap_base && new_end == base.as_ptr() {
            // The memory of a deleted heap is not read again, not even its base tag.
            self.known_zero.forget(end);
            self.count_end_moved(end.addr().get(), base.addr().get());
            self.counters.count_deleted_heap(HEAP_OVERHEAD);
            return;
        }
        if is_heap_base {
            // SAFETY: the heap's record was in place until it was removed above.
            unsafe { self.free_lists.heaps.insert(base, base, end) };
        }
        // SAFETY: the source guarantees that the memory up to the new end stays. From here on
        // nothing above it is touched.
        unsafe { self.set_heap_end(base, end, new_end.addr()) };
    }

    /// Makes a free range a gap, and inserts it into its list unless it is a sliver.
    ///
    /// # Safety
    /// * The range is free memory of a heap, in no list, and at least one unit.
    /// * The list heads are established.
    #[inline]
    pub(super) unsafe fn insert_gap(&mut self, gap: Gap) {
        if gap.is_sliver() {
            // SAFETY: the range is free, at least one unit, and in no list.
            unsafe { gap.write_extent() };
        } else {
            self.counters.count_gap(gap.size());
            // SAFETY: the range is free, no sliver, and in no list.
            unsafe { self.free_lists.insert(gap) }
        }
    }

    /// Removes a gap from its list, unless it is a sliver.
    ///
    /// # Safety
    /// `gap` is a gap of a heap, as [`insert_gap`](Self::insert_gap) made it.
    #[inline]
    pub(super) unsafe fn remove_gap(&mut self, gap: Gap) {
        if !gap.is_sliver() {
            self.counters.uncount_gap(gap.size());
            // SAFETY: a gap that is no sliver is in its list.
            unsafe { self.free_lists.remove(gap) }
        }
    }
}
