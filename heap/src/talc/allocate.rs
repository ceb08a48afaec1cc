//! Allocation and deallocation.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::{CHUNK_UNIT, HEAP_OVERHEAD, chunk_size, distance};
use super::footprint::Footprint;
use super::gap_header::{Gap, GapHeader, Link};
use super::hardened::{Findings, poison};
use super::source::Source;
use super::tag::Tag;
use super::zeroed::grants_zeroed;

/// Gaps that may or may not fit are tried this often before the source is asked for memory.
const MAX_PROBES: usize = 16;

/// A source that says it has granted memory, when it has not, is believed this often in one
/// allocation.
const MAX_IDLE_ACQUISITIONS: usize = 8;

/// What an allocation needs of a gap.
pub(super) struct Request {
    pub(super) footprint: Footprint,
    /// What is wrong with gaps that were probed.
    pub(super) findings: Findings,
}

impl Request {
    #[inline]
    pub(super) fn new(layout: Layout) -> Request {
        Request {
            footprint: Footprint::new(layout),
            findings: Findings::new(),
        }
    }

    /// Bytes from `base` to the first aligned address.
    #[inline]
    fn padding_at(&self, base: NonNull<u8>) -> usize {
        base.addr().get().wrapping_neg() & (self.footprint.align() - 1)
    }

    /// There is room for the chunk at an aligned address in the gap.
    pub(super) fn fits(&self, gap: Gap) -> bool {
        #[cfg(test)]
        super::probe_tests::count_probe();
        // The padding is at most `align - CHUNK_UNIT`, so the sum does not overflow.
        gap.size() >= self.padding_at(gap.base) + self.footprint.chunk_size()
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Allocates from the heaps as they are, without asking the [`Source`] for more.
    ///
    /// ```text
    ///     0x1010         0x1040         0x1070            0x1100
    ///     ├──────────────────── gap: 240 ─────────────────┤   before
    ///     ├─ chunk: 48 ──┼──────── gap: 192 ──────────────┤   after 40 bytes
    ///     ├─ gap: 48 ────┼─ chunk: 48 ──┼─── gap: 144 ────┤   or after 40 bytes aligned to 64
    /// ```
    ///
    /// A chunk is taken from the lowest aligned address of a gap, and what is left on either side
    /// stays free.
    ///
    /// In constant time while there is a gap that fits wherever it lies. Otherwise every gap that
    /// might fit is looked at, so that what fits is found. `None` if none does.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: nobody else uses `memory` as long as `talc` does. The sizes are not zero.
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
        self.allocate_by(layout, |talc, request, _| {
            talc.free_lists.find(request, usize::MAX)
        })
    }

    /// Allocates, asking the [`Source`] for memory when there is not enough.
    ///
    /// The chunk is taken from a gap as in the diagram of [`try_allocate`](Self::try_allocate). For
    /// 40 bytes aligned to 64, a chunk of 48, the gap is searched for in the lists of the
    /// [`DefaultBinning`](super::DefaultBinning) in this order:
    ///
    /// ```text
    ///     list      3          4          5          6          7 …
    ///     gaps of   48         64         80         96         112 …
    ///               fit if they lie well ──────────┤ fit wherever they lie ───
    ///     1         the first 4
    ///     2                                          the first of the first list that has one
    ///     3         about 16 of all in these ──────────────┤
    ///     4         Source::acquire, and from 1 again if it says that it gave something
    ///     5         all in these, when it has no more ─────┤
    /// ```
    ///
    /// With an alignment up to the unit, the first gap of the lowest list from the chunk's size up
    /// that is not empty comes before all this, and nearly always does.
    ///
    /// In constant time, the source's own time excepted: before the source is asked, only a bounded
    /// number of gaps is looked at. All that might fit are looked at when the source has no more to
    /// give. `None` if none of them fits either.
    ///
    /// The source is asked as long as it gives something: until the request fits, it fails, or for
    /// the eighth time it claims success and the heaps have not become larger than they ever were in
    /// this allocation. So a source that grants small pieces which touch is enough for a large
    /// request. One that grants small heaps apart from each other is emptied by it in vain, in as
    /// many calls as it has heaps; they serve other requests.
    ///
    /// # Safety
    /// `layout.size()` is not zero.
    #[inline]
    pub unsafe fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_by(layout, Self::find_or_acquire)
    }

    /// Allocates from the first gap that comes to hand, or else from what `find` finds.
    #[inline]
    fn allocate_by(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        let block = match self.allocate_fast(layout) {
            None => self.allocate_from_larger_bin(layout, find),
            block => block,
        };
        // SAFETY: the block has just been made.
        unsafe { self.write_redzone(block, layout) };
        self.report_pending_finding();
        block
    }

    /// Whether the first gap of a list will do, no questions asked: those are for
    /// [`allocate_slow`](Self::allocate_slow).
    #[inline]
    fn is_simple(layout: Layout) -> bool {
        layout.align() <= CHUNK_UNIT && cfg!(not(feature = "hardened"))
    }

    /// Allocates from the first gap of the first list in which one may be large enough, if it is and the
    /// alignment is none. Most allocations are that.
    #[inline]
    fn allocate_fast(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !Self::is_simple(layout) {
            return None;
        }
        let size = chunk_size(layout.size());
        let (head, gap) = self.free_lists.first_for(size)?;
        // SAFETY: it was found there, and is large enough.
        unsafe { self.allocate_from_first(layout, size, head, gap) }
    }

    /// When [`allocate_fast`](Self::allocate_fast) finds nothing: allocates from the first gap of the
    /// first list in which all are large enough, if the alignment is none; or else from what `find` finds.
    #[inline(never)]
    fn allocate_from_larger_bin(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        if Self::is_simple(layout) {
            let size = chunk_size(layout.size());
            if let Some((head, gap)) = self.free_lists.first_beyond(size) {
                // SAFETY: it was found there, and is large enough.
                return unsafe { self.allocate_from_first(layout, size, head, gap) };
            }
        }
        self.allocate_slow(layout, find)
    }

    /// Allocates `size` bytes, which are the layout's, from the first gap of a list.
    ///
    /// # Safety
    /// `gap` is the first of the list at `head`, and [has](Gap::has) so many bytes.
    #[inline]
    unsafe fn allocate_from_first(
        &mut self,
        layout: Layout,
        size: usize,
        head: *mut Link,
        gap: Gap,
    ) -> Option<NonNull<u8>> {
        self.counters.count_allocation(layout.size());
        // SAFETY: the gap is the first of its list. Below a gap there is always a tag.
        unsafe {
            let rest = gap.above(size);
            if !rest.is_empty() {
                return Some(self.split_first(head, rest, size));
            }
            self.counters.uncount_gap(gap.size());
            self.free_lists.remove_first(head, gap.header());
            Tag::ending_chunk(rest.is_heap_end()).write_at(rest.base);
            Tag::ending_at(gap.base)
                .without(Tag::BELOW_GAP)
                .write_at(gap.base);
        }
        Some(gap.base)
    }

    /// Makes a chunk of the lowest `size` bytes of a gap, and a gap of the rest.
    ///
    /// It is not a part of its caller because it needs more registers. (Its result is computed from
    /// the rest so that the call can be a jump; and without link-time optimisation its caller only
    /// knows by the type that there always is one.)
    ///
    /// # Safety
    /// `rest` and `size` bytes below it are the first gap of the list at `head`. Neither is empty.
    #[inline(never)]
    unsafe fn split_first(&mut self, head: *mut Link, rest: Gap, size: usize) -> NonNull<u8> {
        // SAFETY: the gap is the first of its list, and the rest of it remains free. Below a gap
        // there is always a tag.
        unsafe {
            let base = rest.base.byte_sub(size);
            self.counters.uncount_gap(size + rest.size());
            Tag::ending_at(base).without(Tag::BELOW_GAP).write_at(base);
            Tag::ALLOCATED.with(Tag::BELOW_GAP).write_at(rest.base);
            if rest.is_sliver() {
                self.free_lists.remove_first(head, base.cast());
                rest.write_extent();
            } else {
                self.counters.count_gap(rest.size());
                self.free_lists.replace_first(head, base.cast(), rest);
            }
            base
        }
    }

    /// Allocates from the gap that `find` finds, after a more careful search than
    /// [`allocate_fast`](Self::allocate_fast)'s.
    #[inline(never)]
    fn allocate_slow(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<NonNull<u8>> {
        let request = Request::new(layout);
        let gap = find(self, &request, layout);
        self.report_findings(&request.findings);
        // SAFETY: the request fits in the gap.
        Some(unsafe { self.allocate_from(gap?, &request, layout) })
    }

    /// A gap in which the request fits. Asks the source until there is one, it fails, or it no longer
    /// gives anything.
    pub(super) fn find_or_acquire(&mut self, request: &Request, layout: Layout) -> Option<Gap> {
        // A source that gives and takes by turns gains nothing: so it is the most that counts, and
        // that cannot grow for ever.
        let mut most = self.heap_bytes;
        let mut idle = 0;
        while idle < MAX_IDLE_ACQUISITIONS {
            if let Some(gap) = self.free_lists.find(request, MAX_PROBES) {
                return Some(gap);
            }
            if S::acquire(self, layout).is_err() {
                break;
            }
            if self.heap_bytes > most {
                most = self.heap_bytes;
            } else {
                idle += 1;
            }
        }
        self.free_lists.find(request, usize::MAX)
    }

    /// Makes the lowest aligned part of a gap a chunk.
    ///
    /// # Safety
    /// The gap is in its list, and the request, made from `layout`, fits in it.
    pub(super) unsafe fn allocate_from(
        &mut self,
        gap: Gap,
        request: &Request,
        layout: Layout,
    ) -> NonNull<u8> {
        // SAFETY: the gap is in its list. It ends in its heap, the chunk ends in it, and what is
        // left on either side is free. Below a gap there is always a tag.
        unsafe {
            let padding = request.padding_at(gap.base);
            let base = gap.base.byte_add(padding);
            let end = base.byte_add(request.footprint.chunk_size());
            self.validate_poison(gap, base, end);
            self.remove_gap(gap);
            if padding > 0 {
                self.insert_gap(Gap::new(gap.base, padding, false));
            } else {
                Tag::ending_at(base).without(Tag::BELOW_GAP).write_at(base);
            }
            self.end_chunk_in(gap, end);
            self.counters.count_allocation(layout.size());
            base
        }
    }

    /// Ends a chunk at `end`, within a gap that was removed. What is left of the gap above is a gap
    /// again.
    ///
    /// # Safety
    /// `end` is a multiple of the unit in or at the end of `gap`, and higher than the chunk's base;
    /// from there on the gap is free and in no list.
    pub(super) unsafe fn end_chunk_in(&mut self, gap: Gap, end: NonNull<u8>) {
        let rest = gap.above(distance(gap.base, end));
        // SAFETY: by this function's contract.
        unsafe {
            if rest.is_empty() {
                Tag::ending_chunk(gap.is_heap_end()).write_at(end);
            } else {
                Tag::ALLOCATED.with(Tag::BELOW_GAP).write_at(end);
                self.insert_gap(rest);
            }
        }
    }

    /// Frees an allocation, which merges with the gaps that it touches.
    ///
    /// ```text
    ///     0x1000       0x1040       0x1070                0x1100
    ///     ├─ gap: 64 ──┼─ chunk: 48 ┼─ gap: 144 ──────────┤   before: two gaps, in lists 4 and 9
    ///     ├───────────────── gap: 256 ────────────────────┤   after: one, in list 16
    /// ```
    ///
    /// In constant time. (With `hardened`, in proportion to the size and the number of heaps.) When
    /// that leaves more free space at the top of a heap, a [tracking](Source::TRACK_HEAP_END)
    /// source decides where the heap shall end.
    ///
    /// # Safety
    /// `ptr` is an allocation of this allocator, made or last resized to `layout`, and not yet
    /// freed.
    #[inline]
    pub unsafe fn deallocate(&mut self, ptr: *mut u8, layout: Layout) {
        if !self.validate_block(ptr, layout) {
            return;
        }
        self.counters.count_deallocation(layout.size());
        // SAFETY: an allocation is not null, and begins a chunk whose size follows from the layout.
        unsafe {
            let base = NonNull::new_unchecked(ptr);
            let size = chunk_size(layout.size());
            let gap = self.merge(base, size);
            if S::TRACK_HEAP_END && gap.is_heap_end() {
                self.offer_top(gap.base, gap.end(), base.byte_add(size));
            } else {
                // No chunk is as small as a sliver.
                self.counters.count_gap(gap.size());
                self.free_lists.insert(gap);
            }
        }
        self.report_pending_finding();
    }

    /// Frees the last `size` bytes of a chunk that ended at `base + size`, and ends at `base` now.
    ///
    /// # Safety
    /// The chunk's old tag is in place as well as its new one. Nothing in the range is in use.
    pub(super) unsafe fn free_tail(&mut self, base: NonNull<u8>, size: usize) {
        // SAFETY: by this function's contract.
        unsafe {
            let gap = self.merge(base, size);
            if S::TRACK_HEAP_END && gap.is_heap_end() {
                self.offer_top(gap.base, gap.end(), base.byte_add(size));
            } else {
                self.insert_gap(gap);
            }
        }
    }

    /// The range of `size` bytes from `base` up to the end of a chunk, and with it the gaps that it
    /// touches, which are taken out of their lists.
    ///
    /// # Safety
    /// A chunk ends there and nothing in the range is in use. A chunk, a gap or a heap's base tag
    /// ends at `base`.
    #[inline]
    unsafe fn merge(&mut self, base: NonNull<u8>, size: usize) -> Gap {
        // SAFETY: tags and extents are where the caller says that chunks and gaps end, and tell the
        // truth about what is next to them.
        unsafe {
            let end = base.byte_add(size);
            let tag = Tag::ending_at(end);
            let mut gap = if tag.is_below_gap() {
                let above = Gap::at(end);
                self.remove_gap(above);
                poison(end, end.byte_add(above.size().min(size_of::<GapHeader>())));
                Gap::new(base, size, false).join(above)
            } else {
                Gap::new(base, size, tag.is_heap_end())
            };
            let below = Tag::ending_at(base);
            if below.is_allocated() {
                below.with(Tag::BELOW_GAP).write_at(base);
                poison(base, end);
            } else {
                let below = Gap::below(base);
                self.remove_gap(below);
                poison(base.byte_sub(size_of::<usize>()), end);
                gap = below.join(gap);
            }
            gap
        }
    }

    /// The free range from `base` to the end of its heap has grown, by what was in use up to
    /// `freed_end`: the source decides where the heap shall end.
    ///
    /// # Safety
    /// The range is free, ends a heap at `end` and is in no list.
    #[inline(never)]
    unsafe fn offer_top(&mut self, base: NonNull<u8>, end: NonNull<u8>, freed_end: NonNull<u8>) {
        if grants_zeroed::<S>() {
            self.known_zero.note_freed(freed_end, end);
        }
        // SAFETY: there is a tag below every free range.
        let is_heap_base = unsafe { Tag::ending_at(base) }.is_heap_base();
        if is_heap_base {
            // If it goes, nothing in it is looked at again.
            self.free_lists.heaps.remove(end);
        }
        // SAFETY: base and end are multiples of the unit, and the heap goes if `base` is returned
        // and there is nothing under it.
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
            // Nothing of the heap is looked at again, not even its base.
            self.known_zero.forget(end);
            self.count_end_moved(end.addr().get(), base.addr().get());
            self.counters.count_deleted_heap(HEAP_OVERHEAD);
            return;
        }
        if is_heap_base {
            // SAFETY: it was there before.
            unsafe { self.free_lists.heaps.insert(base, base, end) };
        }
        // SAFETY: the source vouches for the new end. From here on nothing above it is touched.
        unsafe { self.set_heap_end(base, end, new_end.addr()) };
    }

    /// Makes a free range a gap, and enters it into its list unless it is a sliver.
    ///
    /// # Safety
    /// * The range is free memory of a heap, in no list, and at least one unit.
    /// * The list heads are established.
    #[inline]
    pub(super) unsafe fn insert_gap(&mut self, gap: Gap) {
        if gap.is_sliver() {
            // SAFETY: the caller's duty.
            unsafe { gap.write_extent() };
        } else {
            self.counters.count_gap(gap.size());
            // SAFETY: the caller's duty.
            unsafe { self.free_lists.insert(gap) }
        }
    }

    /// Takes a gap out of its list, unless it is a sliver.
    ///
    /// # Safety
    /// It is a gap of a heap, as [`insert_gap`](Self::insert_gap) made it.
    #[inline]
    pub(super) unsafe fn remove_gap(&mut self, gap: Gap) {
        if !gap.is_sliver() {
            self.counters.uncount_gap(gap.size());
            // SAFETY: what is no sliver is in its list.
            unsafe { self.free_lists.remove(gap) }
        }
    }
}
