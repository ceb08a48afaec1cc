//! What a heap retains of its segment: pages above it enter the release queue, or leave it.

use core::ptr::NonNull;

use super::ArenaSource;
use super::drain::DrainSlot;
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use crate::vmem::{Lock, TagSupply};

#[cfg(doc)]
use super::list::{HEAPS, RELEASE_QUEUE};
#[cfg(doc)]
use crate::talc::source::Source;

impl<A: TagSupply, L: Lock> ArenaSource<'_, A, L> {
    /// Implements [`Source::resize`]: lowers the end of a heap, or deletes an empty heap. Returns
    /// the new end.
    ///
    /// # Safety
    /// As for [`Source::resize`].
    #[cold]
    pub(super) unsafe fn lower_end(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let Some(arena) = self.arena else {
            return heap_end;
        };
        // SAFETY: the end of a heap is above its base, and so not null.
        let record = unsafe { NonNull::new_unchecked(heap_end) }.cast::<SegmentRecord>();
        // SAFETY: a live record begins where each heap ends.
        let Some(old) = (unsafe { SegmentRecord::read(record) }) else {
            return heap_end;
        };
        if old.owner != self.owner || old.state == ReleaseState::GROWING {
            return heap_end;
        }
        if is_heap_base {
            self.policy.record_release();
            // SAFETY: the record is live, and Talc forgets the heap when `chunk_base` is returned.
            unsafe { self.delete_heap(record) };
            return chunk_base;
        }
        let used = chunk_base.addr() - old.base.addr().get();
        let free = heap_end.addr() - chunk_base.addr();
        let retained = (used + self.policy.headroom(self.claimed - free) + RECORD_SIZE)
            .next_multiple_of(arena.quantum());
        if retained >= old.retained {
            return heap_end;
        }
        self.policy.record_release();
        let size = old.size;
        // SAFETY: `old` is a copy of the record. The new record lies above `chunk_base`, in free
        // memory that belongs to this source once the address of the record is returned.
        let moved = unsafe { self.set_retained(old, retained, size) };
        moved.cast().as_ptr()
    }

    /// Sets how much of its segment a heap retains, and the size of the segment. Writes the record
    /// to the new end of the heap, and returns where it lies.
    ///
    /// # Safety
    /// * `old` must be a copy of a live record in [`HEAPS`].
    /// * `retained` must be a multiple of the quantum and at most `size`. The segment must be
    ///   mapped up to `size`.
    /// * The bytes of the new record must belong to this source.
    pub(super) unsafe fn set_retained(
        &mut self,
        mut old: SegmentRecord,
        retained: usize,
        size: usize,
    ) -> NonNull<SegmentRecord> {
        let is_queued = old.state == ReleaseState::QUEUED;
        let before = old.retained;
        (old.retained, old.size) = (retained, size);
        // SAFETY: the segment begins at `old.base`, and `retained` is within it.
        let moved = unsafe { SegmentRecord::location(old.base, retained) };
        // SAFETY: the caller vouches for these bytes, which are aligned because all sizes are.
        unsafe { old.write_to(moved) };
        // SAFETY: `moved` is a copy of the record, and replaces it.
        unsafe { self.heaps.moved(moved) };
        if is_queued {
            // SAFETY: a queued record is in the queue. `moved` is a copy of it, and replaces it.
            unsafe { self.release_queue.moved(moved) };
        }
        // SAFETY: `moved` is live, and exclusive access to the source requires the lock.
        unsafe { DrainSlot::follow(moved) };
        // SAFETY: `moved` is live, and its state was copied with it.
        unsafe { self.update_queue(moved, true) };
        self.update_claimed(retained, before);
        moved
    }

    /// Enters `record` in the release queue, as the `first` or the last, or takes it out, so that
    /// it is there exactly if `retained` is less than `size`. Does nothing while the pages are
    /// drained, or the heap grows.
    ///
    /// # Safety
    /// `record` must be live, and in [`RELEASE_QUEUE`] exactly if its state is
    /// [`QUEUED`](ReleaseState::QUEUED).
    pub(super) unsafe fn update_queue(&mut self, record: NonNull<SegmentRecord>, first: bool) {
        // SAFETY: the caller vouches that the record is live.
        let Some(found) = (unsafe { SegmentRecord::read(record) }) else {
            return;
        };
        let has_excess = found.retained < found.size;
        let state = match (found.state, has_excess) {
            (ReleaseState::IDLE, true) => {
                if first {
                    // SAFETY: a live record in the state `IDLE` is not in the queue.
                    unsafe { self.release_queue.push_front(record) };
                } else {
                    // SAFETY: a live record in the state `IDLE` is not in the queue.
                    unsafe { self.release_queue.push_back(record) };
                }
                ReleaseState::QUEUED
            }
            (ReleaseState::QUEUED, false) => {
                // SAFETY: a record in the state `QUEUED` is in the queue.
                unsafe { self.release_queue.remove(record) };
                ReleaseState::IDLE
            }
            (state, _) => state,
        };
        // SAFETY: the caller vouches that the record is live, and no reference to it exists.
        unsafe { SegmentRecord::update(record, |it| it.state = state) };
    }

    /// Removes a heap from the list of live heaps, and enters all of its segment in the release
    /// queue.
    ///
    /// # Safety
    /// `record` must be live and in [`HEAPS`], and Talc must not use its heap any more.
    pub(super) unsafe fn delete_heap(&mut self, record: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches that the record is in the list.
        unsafe { self.heaps.remove(record) };
        let mut retained = 0;
        // SAFETY: the caller vouches that the record is live, and no reference to it exists.
        unsafe { SegmentRecord::update(record, |it| retained = core::mem::take(&mut it.retained)) };
        // SAFETY: the record is live, and its state has not changed.
        unsafe { self.update_queue(record, true) };
        self.update_claimed(0, retained);
    }

    /// Records that the heaps retain `added` bytes more and `removed` bytes less.
    pub(super) fn update_claimed(&mut self, added: usize, removed: usize) {
        self.claimed = self.claimed + added - removed;
        self.trim_threshold = 2 * self.policy.headroom(self.claimed);
    }

    /// Returns how many bytes a heap grows by, a multiple of the quantum.
    pub(super) fn growth(&self, quantum: usize) -> usize {
        self.policy.growth(self.claimed).next_multiple_of(quantum)
    }
}
