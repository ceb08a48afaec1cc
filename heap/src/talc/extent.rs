//! Heaps: where they begin and where they end.

use core::ptr::NonNull;

use super::binning::Binning;
use super::chunk::{HEAP_OVERHEAD, chunk_size, distance, unit_ceil, unit_floor};
use super::fresh::grants_zeroed;
use super::hardening::poison;
use super::node::Gap;
use super::tag::{MAX_GAP, Tag};
use super::{Talc, metadata_chunk_size};
use crate::source::Source;

/// How much of a heap is in use. See [`Talc::reserved`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The end of the highest allocation (or of the allocator's metadata), or, if there is none, the
    /// base of the heap's lowest possible allocation.
    pub up_to: NonNull<u8>,
    /// Whether there is an allocation or metadata in this heap.
    ///
    /// If not, a [`Talc::truncate`] to `up_to` deletes the heap.
    pub any: bool,
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Makes a range of memory a heap and returns the heap's end, at most `CHUNK_UNIT - 1` bytes
    /// below the range's. What lies in the range but outside the heap is not touched.
    ///
    /// `None`, and nothing is touched, if the range is null, wraps around or is too small. The first
    /// heap must have room for the list heads: [`min_first_heap_size`](super::min_first_heap_size).
    /// Others must hold a few bytes and the smallest chunk.
    ///
    /// Heaps never merge, even if they touch.
    ///
    /// In constant time.
    ///
    /// # Safety
    /// * The range is valid for reads and writes, and up to the returned end it belongs to this
    ///   allocator until it is [truncated](Talc::truncate) away, or no one uses the allocator and
    ///   its allocations any more. What is allocated from it belongs to whoever allocated it.
    /// * The [`Source`] allows heaps that it did not make.
    pub unsafe fn claim(&mut self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        let base = NonNull::new(base)?;
        let limit = base.addr().get().checked_add(size)?;
        let first = unit_ceil(base.addr().get().checked_add(HEAP_OVERHEAD)?)?;
        let end = unit_floor(limit);
        let metadata_size = if self.is_metadata_established() {
            0
        } else {
            metadata_chunk_size::<B>()
        };
        let heap_size = end.checked_sub(first)?;
        if heap_size < metadata_size + chunk_size(1) || heap_size >= MAX_GAP {
            return None;
        }

        // SAFETY: the caller gives the range; `first` and `end` are multiples of the unit in it,
        // with room for what is below `first`, and for metadata and a gap between them.
        unsafe {
            let first = base.byte_add(first - base.addr().get());
            let end = first.byte_add(heap_size);
            Tag::ALLOCATED.with(Tag::HEAP_BASE).write_at(first);
            let free = first.byte_add(metadata_size);
            if metadata_size != 0 {
                self.gaps.establish(first);
                Tag::ALLOCATED.write_at(free);
            }
            self.gaps.heaps.insert(first, end);
            poison(free, end);
            self.counters.count_heap(heap_size + HEAP_OVERHEAD);
            self.set_heap_end(free, end, end.addr().get());
            Some(end)
        }
    }

    /// How much of a heap is in use, and so how far [`truncate`](Talc::truncate) can go.
    ///
    /// ```text
    ///     ├─ heap ──────────────────────────────────────────┤
    ///     ┌─────┬───────────┬─────┬───────────┬─────────────┐
    ///     │ gap │ allocated │ gap │ allocated │ gap         │
    ///     └─────┴───────────┴─────┴───────────┴─────────────┘
    ///     ├─ reserved ────────────────────────┤
    /// ```
    ///
    /// In constant time.
    ///
    /// # Safety
    /// `heap_end` is the current end of a heap of this allocator.
    pub unsafe fn reserved(&self, heap_end: NonNull<u8>) -> Reserved {
        // SAFETY: a chunk or a gap ends at a heap's end, and a tag below each gap.
        unsafe {
            if Tag::ending_at(heap_end).is_allocated() {
                return Reserved {
                    up_to: heap_end,
                    any: true,
                };
            }
            let up_to = Gap::ending_at(heap_end).base;
            Reserved {
                up_to,
                any: !Tag::ending_at(up_to).is_heap_base(),
            }
        }
    }

    /// Moves a heap's end up to `new_end`, rounded down to a multiple of the unit, and returns the
    /// end. If that is not above `heap_end`, nothing happens.
    ///
    /// In constant time.
    ///
    /// # Safety
    /// * `heap_end` is the current end of a heap of this allocator.
    /// * The memory from there to the returned end is given as by [`claim`](Talc::claim), and both
    ///   ranges are parts of one allocated object, for all of which `heap_end` is valid.
    pub unsafe fn extend(&mut self, heap_end: NonNull<u8>, new_end: *mut u8) -> NonNull<u8> {
        let new_end = unit_floor(new_end.addr());
        if new_end <= heap_end.addr().get() || !self.admits_end(heap_end) {
            return heap_end;
        }
        // SAFETY: a chunk or a gap ends at a heap's end.
        let gap = unsafe { top_gap(heap_end) };
        let base = gap.map_or(heap_end, |gap| gap.base);
        if new_end - base.addr().get() >= MAX_GAP {
            return heap_end;
        }
        // SAFETY: the gap, if there is one, is in its list, and then free up to the heap's end; what
        // lies above is the caller's gift.
        unsafe {
            if let Some(gap) = gap {
                self.remove_gap(gap);
            }
            self.set_heap_end(base, heap_end, new_end);
            heap_end.byte_add(new_end - heap_end.addr().get())
        }
    }

    /// Moves a heap's end down to `new_end`, rounded down to a multiple of the unit, but never into
    /// what is [reserved](Talc::reserved), and returns the end. Null means: as far as possible.
    /// `None` if nothing was left of the heap and it is deleted.
    ///
    /// What lies above the returned end is the caller's again, and is not touched any more. If
    /// `new_end` is not below `heap_end`, nothing happens.
    ///
    /// In constant time.
    ///
    /// # Safety
    /// * `heap_end` is the current end of a heap of this allocator.
    /// * The [`Source`] allows heaps that it did not make.
    pub unsafe fn truncate(
        &mut self,
        heap_end: NonNull<u8>,
        new_end: *mut u8,
    ) -> Option<NonNull<u8>> {
        let new_end = unit_floor(new_end.addr());
        if new_end >= heap_end.addr().get() || !self.admits_end(heap_end) {
            return Some(heap_end);
        }
        // SAFETY: a chunk or a gap ends at a heap's end. A gap is in its list.
        unsafe {
            let Some(gap) = top_gap(heap_end) else {
                return Some(heap_end);
            };
            self.remove_gap(gap);
            self.set_heap_end(gap.base, heap_end, new_end.max(gap.base.addr().get()))
        }
    }

    /// [Extends](Talc::extend) or [truncates](Talc::truncate) a heap, whichever `new_end` asks for.
    ///
    /// # Safety
    /// As for both.
    pub unsafe fn resize(
        &mut self,
        heap_end: NonNull<u8>,
        new_end: *mut u8,
    ) -> Option<NonNull<u8>> {
        if new_end > heap_end.as_ptr() {
            // SAFETY: the caller's duty.
            Some(unsafe { self.extend(heap_end, new_end) })
        } else {
            // SAFETY: the caller's duty.
            unsafe { self.truncate(heap_end, new_end) }
        }
    }

    /// Ends a heap, which ended at `old_end` and is free from `base` up, at the address `new_end`.
    /// `None` if nothing is left of it. Nothing above `new_end` is read or written.
    ///
    /// # Safety
    /// * `base` is a multiple of the unit with the tag of a chunk or of the heap's base below it.
    /// * `new_end` is a multiple of the unit and not below `base`.
    /// * The range between them is the allocator's, in no list, and not in use.
    pub(super) unsafe fn set_heap_end(
        &mut self,
        base: NonNull<u8>,
        old_end: NonNull<u8>,
        new_end: usize,
    ) -> Option<NonNull<u8>> {
        self.counters.count_end_moved(old_end.addr().get(), new_end);
        if grants_zeroed::<S>() {
            self.fresh.note_end(old_end, new_end);
        }
        // SAFETY: by this function's contract.
        unsafe {
            let below = Tag::ending_at(base)
                .without(Tag::BELOW_GAP)
                .without(Tag::HEAP_END);
            let end = base.byte_add(new_end - base.addr().get());
            if end > old_end {
                // A gap's last word was there, if it was not a tag.
                let last_word = old_end.byte_sub(size_of::<usize>());
                poison(base.max(last_word), end);
            }
            self.gaps.heaps.move_end(old_end, end);
            if end > base {
                below.with(Tag::BELOW_GAP).write_at(base);
                self.insert_gap(Gap::new(base, distance(base, end), true));
            } else if below.is_heap_base() {
                self.gaps.heaps.remove(end);
                self.fresh.forget(end);
                self.counters.count_deleted_heap(HEAP_OVERHEAD);
                return None;
            } else {
                below.with(Tag::HEAP_END).write_at(base);
            }
            Some(end)
        }
    }
}

/// The gap at the top of a heap.
///
/// # Safety
/// A heap ends at `heap_end`.
unsafe fn top_gap(heap_end: NonNull<u8>) -> Option<Gap> {
    // SAFETY: a chunk or a gap ends at a heap's end.
    unsafe { (!Tag::ending_at(heap_end).is_allocated()).then(|| Gap::ending_at(heap_end)) }
}
