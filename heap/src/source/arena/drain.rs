//! Pages from the release queue go back to the arena, while the lock of the heap is released.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::list::RecordList;
use super::record::{ReleaseState, SegmentRecord};
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::sync::TalcLock;
use crate::vmem::{Arena, Error, Lock, TagSupply};

/// How one call of [`TalcLock::drain`] finds the record whose pages it gives back. The slot lies on
/// the stack of that call, and the record points to it:
///
/// ```text
///     drain on one CPU:      DrainSlot ──> record of a heap      drainer ──> DrainSlot
///     drain in an interrupt: DrainSlot ──> record of another     drainer ──> DrainSlot
/// ```
///
/// When the heap changes meanwhile, its record moves, and the slot follows it. So several calls can
/// give ranges back at the same time. A slot is accessed only while the lock of the heap is held.
pub(super) struct DrainSlot {
    record: Cell<Option<NonNull<SegmentRecord>>>,
}

impl DrainSlot {
    const fn new() -> Self {
        DrainSlot {
            record: Cell::new(None),
        }
    }

    /// Makes the slot that leads to a record, if there is one, lead to its new address `moved`.
    ///
    /// # Safety
    /// `moved` must be a live record, and the caller must hold the lock of the heap.
    pub(super) unsafe fn follow(moved: NonNull<SegmentRecord>) {
        // SAFETY: the caller vouches that the record is live.
        if let Some(slot) = unsafe { SegmentRecord::read(moved) }.and_then(|record| record.drainer)
        {
            // SAFETY: `drain` clears the pointer in the record before the slot goes out of scope.
            unsafe { slot.as_ref() }.record.set(Some(moved));
        }
    }
}

/// Pages that were taken from the release queue and are being given back.
struct PendingRelease {
    /// The base of the segment.
    base: usize,
    /// Bytes of the segment, which stay mapped until the release is finished.
    size: usize,
    /// Bytes of the segment that the heap retains; zero if all of it goes back.
    retained: usize,
}

/// The error of [`TalcLock::drain`]: the arena refused a range. Refused ranges stay in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainError {
    /// Bytes that were given back nevertheless.
    pub drained: usize,
    /// The arena's error for the first range that it refused.
    pub error: Error,
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drained, error } = self;
        write!(
            f,
            "the arena refused to take back pages of a heap: {error} \
             ({drained} bytes were given back)"
        )
    }
}

impl core::error::Error for DrainError {}

impl<'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcLock<R, ArenaSource<'a, A, L>, B> {
    /// Gives the pages in the release queue back to the arena, and returns how many bytes went
    /// back.
    ///
    /// ```text
    ///     in the release queue            to the arena                    returned
    ///     a heap that retains 0x3000      resize(base, 0x3000)              0x5000
    ///       of its segment of 0x8000
    ///     a deleted heap of 0x10000       free_sized(base, 0x10000)      + 0x10000 = 0x15000
    /// ```
    ///
    /// For each range the lock is held for a constant time, twice. The arena and its source (which
    /// unmap, flush and free) are called without the lock, and with interrupts as the caller has
    /// them. Several calls can run at once, on other CPUs or in an interrupt: each range is given
    /// back by one of them.
    ///
    /// # Errors
    /// Returns the arena's error for the first range that it refused. All other ranges go back.
    /// Refused ranges stay in the queue.
    pub fn drain(&self) -> Result<usize, DrainError> {
        let (mut drained, mut refused, mut error) = (0, 0, None);
        // Records point to the slot, so it does not move until they no longer do.
        let slot = DrainSlot::new();
        loop {
            let mut guard = self.lock();
            // SAFETY: neither the allocator nor its source is replaced or dropped.
            let Talc {
                source,
                owner_token,
                ..
            } = unsafe { guard.as_mut() };
            let Some(arena) = source
                .arena
                .filter(|_| source.owner.is_bound_to(owner_token))
            else {
                break;
            };
            // Refused ranges are at the end of the queue.
            if refused >= source.release_queue.len() {
                break;
            }
            let Some(pending) = source.take_pending(&slot) else {
                break;
            };
            let PendingRelease {
                base,
                size,
                retained,
            } = pending;
            let release_guard = ReleaseGuard {
                heap: self,
                slot: &slot,
                pending,
            };
            drop(guard);
            let result = match retained {
                0 => arena.free_sized(base, size),
                _ => arena.resize(base, retained),
            };
            release_guard.finish(result.is_ok());
            match result {
                Ok(()) => drained += size - retained,
                Err(why) => {
                    refused += 1;
                    error.get_or_insert(why);
                }
            }
        }
        match error {
            None => Ok(drained),
            Some(error) => Err(DrainError { drained, error }),
        }
    }
}

/// Separates a slot from its record at the end of a release. If the arena unwinds, the state of the
/// range is unknown, and its record stays in the state [`ReleaseState::DRAINING`] for good.
struct ReleaseGuard<'h, 's, 'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning> {
    heap: &'h TalcLock<R, ArenaSource<'a, A, L>, B>,
    slot: &'s DrainSlot,
    pending: PendingRelease,
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> ReleaseGuard<'_, '_, '_, R, A, L, B> {
    /// Finishes the release. `is_released` tells whether the arena took the range back.
    fn finish(self, is_released: bool) {
        // If the lock unwinds, `self` is dropped, which separates the slot or aborts.
        let heap = self.heap;
        let mut guard = heap.lock();
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: neither the allocator nor its source is replaced or dropped.
        let source = unsafe { &mut guard.as_mut().source };
        source.finish_release(&this.pending, this.slot, is_released);
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> Drop for ReleaseGuard<'_, '_, '_, R, A, L, B> {
    fn drop(&mut self) {
        let mut guard = self.heap.lock();
        // SAFETY: neither the allocator nor its source is replaced or dropped.
        unsafe { guard.as_mut() }.source.transit.end(false);
        if let Some(record) = self.slot.record.take() {
            if self.pending.retained != 0 {
                // SAFETY: the record of a heap that retains pages is live, and the lock is held.
                unsafe { SegmentRecord::update(record, |it| it.drainer = None) };
            }
        }
    }
}

impl<A: TagSupply, L: Lock> ArenaSource<'_, A, L> {
    /// Takes the next range from the release queue. [`finish_release`](Self::finish_release) must
    /// follow.
    ///
    /// The slot and the record of a live heap point to each other. Nothing points to the record of
    /// a deleted heap, which vanishes with its page.
    fn take_pending(&mut self, slot: &DrainSlot) -> Option<PendingRelease> {
        let record = self.release_queue.first()?;
        // SAFETY: the record is in the list.
        unsafe { self.release_queue.remove(record) };
        // SAFETY: a record that was in the list is live.
        let mut fields = unsafe { SegmentRecord::read(record) }?;
        fields.state = ReleaseState::DRAINING;
        slot.record.set(Some(record));
        if fields.retained != 0 {
            fields.drainer = Some(NonNull::from(slot));
        }
        // SAFETY: a live record belongs to the source and is aligned.
        unsafe { fields.write_to(record) };
        self.transit.begin();
        Some(PendingRelease {
            base: fields.base.addr().get(),
            size: fields.size,
            retained: fields.retained,
        })
    }

    /// Records that a range was given back, or, unless `is_released`, enters it in the queue again
    /// as the last.
    fn finish_release(&mut self, pending: &PendingRelease, slot: &DrainSlot, is_released: bool) {
        self.transit.end(is_released);
        let Some(record) = slot.record.take() else {
            return;
        };
        if is_released && pending.retained == 0 {
            // The record was in the segment that went back.
            return;
        }
        // SAFETY: the record is live. A heap that is drained keeps its record, and the slot
        // followed it; a deleted heap keeps its record if the arena refused the segment.
        unsafe {
            SegmentRecord::update(record, |it| {
                it.drainer = None;
                it.state = ReleaseState::IDLE;
                if is_released {
                    it.size = pending.retained;
                }
            });
        }
        // SAFETY: the record is live, and not in the queue, as its state says.
        unsafe { self.update_queue(record, is_released) };
    }

    /// Takes the segment that was queued last out of the release queue, if its heap was deleted and
    /// `fits` accepts its base and size. Returns its record and both.
    pub(super) fn reuse_queued_heap(
        &mut self,
        fits: impl FnOnce(usize, usize) -> bool,
    ) -> Option<(NonNull<SegmentRecord>, NonNull<u8>, usize)> {
        let record = self.release_queue.first()?;
        // SAFETY: records in the list are live.
        let fields = unsafe { SegmentRecord::read(record) }?;
        let (base, size) = (fields.base, fields.size);
        if fields.retained != 0 || !fits(base.addr().get(), size) {
            return None;
        }
        // SAFETY: the record is in the list.
        unsafe { self.release_queue.remove(record) };
        Some((record, base, size))
    }
}

/// Frees all segments, or, while the allocator of the heaps still exists, those of deleted heaps.
impl<A: TagSupply, L: Lock> Drop for ArenaSource<'_, A, L> {
    fn drop(&mut self) {
        let Some(arena) = self.arena else { return };
        free_segments(&self.release_queue, arena, |record| record.retained == 0);
        if !self.owner.is_owner_alive() {
            free_segments(&self.heaps, arena, |_| true);
        }
    }
}

/// Frees the segments of those records in a list that `is_unused` accepts. The walk ends at a
/// damaged record, and the segments after it are leaked.
///
/// No record is written: an allocator that this source was taken from may use the other heaps.
fn free_segments<const WHICH: usize, A: TagSupply, L: Lock>(
    list: &RecordList<WHICH>,
    arena: &Arena<'_, '_, A, L>,
    is_unused: impl Fn(&SegmentRecord) -> bool,
) {
    let mut next = list.first();
    // SAFETY: records in a list are live until their segments are freed, and the walk has passed a
    // record before its segment is freed.
    while let Some(record) = next.and_then(|at| unsafe { SegmentRecord::read(at) }) {
        next = record.links[WHICH].next;
        if is_unused(&record) {
            let _ = arena.free(record.base.addr().get());
        }
    }
}
