//! Giving queued pages back to the arena, with the heap's lock released.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::record::{HeapRecord, List, ReleaseState};
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::sync::TalcLock;
use crate::vmem::{Arena, Error, Lock, TagSupply};

/// Where one call of [`TalcLock::drain`] finds the record whose pages it is giving back. It lies on the stack
/// of that call, and the record points to it:
///
/// ```text
///     drain on one CPU:      DrainSlot ──> record of a heap      drainer ──> DrainSlot
///     drain in an interrupt: DrainSlot ──> record of another     drainer ──> DrainSlot
/// ```
///
/// When the heap changes meanwhile, its record moves, and the slot follows. So any number of ranges are given
/// back at the same time. Slots are read and written with the heap's lock held only.
pub(super) struct DrainSlot {
    record: Cell<Option<NonNull<HeapRecord>>>,
}

impl DrainSlot {
    const fn new() -> Self {
        DrainSlot {
            record: Cell::new(None),
        }
    }

    /// Tells the slot that leads to a record, if there is one, that the record lies at `moved` now.
    ///
    /// # Safety
    /// `moved` must be a live record, and the heap's lock be held.
    pub(super) unsafe fn follow(moved: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for the record.
        if let Some(slot) = unsafe { HeapRecord::read(moved) }.and_then(|record| record.drainer) {
            // SAFETY: a slot outlives the record's pointer to it: `drain` clears that before it release_queue.
            unsafe { slot.as_ref() }.record.set(Some(moved));
        }
    }
}

/// Pages that were taken from the queue and are being given back.
struct PendingRelease {
    /// Where the segment begins.
    base: usize,
    /// Bytes of the segment, mapped until this is done.
    size: usize,
    /// Bytes of it that stay; zero when all of it goes.
    retained: usize,
}

/// Why [`TalcLock::drain`] could not give everything back. What was refused stays in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainError {
    /// How many bytes were given back all the same.
    pub drained: usize,
    /// What the arena said of the first range that it refused.
    pub error: Error,
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drained, error } = self;
        write!(
            f,
            "the arena does not take back a range of a heap's pages: {error} ({drained} bytes were given back)"
        )
    }
}

impl core::error::Error for DrainError {}

impl<'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcLock<R, ArenaSource<'a, A, L>, B> {
    /// Gives the pages that wait for it back to the arena, and returns how many bytes that were.
    ///
    /// ```text
    ///     in the queue                    to the arena                    returned
    ///     a heap that keeps 0x3000        resize(base, 0x3000)              0x5000
    ///       of its segment of 0x8000
    ///     a deleted heap of 0x10000       free_sized(base, 0x10000)      + 0x10000 = 0x15000
    /// ```
    ///
    /// The lock is taken for a constant time for each range; the arena and its source (which unmap, flush
    /// and free) are called without it, with interrupts as the caller has them. Several calls can be under way
    /// at once, on other CPUs or in the code that this one interrupted: each range is given back by one of them.
    /// A range that the arena refuses does not keep the others from going.
    ///
    /// # Errors
    /// What the arena said of the first range that it refused. Such ranges stay in the queue.
    pub fn drain(&self) -> Result<usize, DrainError> {
        let (mut drained, mut refused, mut error) = (0, 0, None);
        // It must stay where it is as long as a record points to it.
        let slot = DrainSlot::new();
        loop {
            let mut guard = self.lock();
            // SAFETY: allocator and source stay what they are.
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
            // Those that were refused are the last in the queue.
            if refused >= source.release_queue.len() {
                break;
            }
            let Some(next) = source.take_pending(&slot) else {
                break;
            };
            let PendingRelease {
                base,
                size,
                retained,
            } = next;
            let finish = Finish {
                heap: self,
                slot: &slot,
                given: next,
            };
            drop(guard);
            let result = match retained {
                0 => arena.free_sized(base, size),
                _ => arena.resize(base, retained),
            };
            finish.finish(result.is_ok());
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

/// Parts a slot from its record when a range was given back, or not. If the arena unwinds, it is unknown
/// what became of the range, which then stays marked as being drained for good.
struct Finish<'h, 's, 'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning> {
    heap: &'h TalcLock<R, ArenaSource<'a, A, L>, B>,
    slot: &'s DrainSlot,
    given: PendingRelease,
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> Finish<'_, '_, '_, R, A, L, B> {
    fn finish(self, done: bool) {
        // If the lock unwinds, this is dropped, which parts the slot or aborts.
        let heap = self.heap;
        let mut guard = heap.lock();
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: the source stays that of this allocator.
        let source = unsafe { &mut guard.as_mut().source };
        source.finish_release(&this.given, this.slot, done);
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> Drop for Finish<'_, '_, '_, R, A, L, B> {
    fn drop(&mut self) {
        let _guard = self.heap.lock();
        if let Some(record) = self.slot.record.take() {
            if self.given.retained != 0 {
                // SAFETY: the record of a heap that keeps something is live, and the lock is held.
                unsafe { HeapRecord::update(record, |it| it.drainer = None) };
            }
        }
    }
}

impl<A: TagSupply, L: Lock> ArenaSource<'_, A, L> {
    /// Takes the next range from the queue. [`finish_release`](Self::finish_release) must follow.
    ///
    /// The record of a heap that keeps something points to `slot`, and back. That of a deleted heap vanishes with
    /// its page, and nothing leads to it.
    fn take_pending(&mut self, slot: &DrainSlot) -> Option<PendingRelease> {
        let record = self.release_queue.first()?;
        // SAFETY: it is in the list.
        unsafe { self.release_queue.remove(record) };
        // SAFETY: a record that was in the list is live, and nobody else uses it.
        let mut fields = unsafe { HeapRecord::read(record) }?;
        fields.state = ReleaseState::DRAINING;
        slot.record.set(Some(record));
        if fields.retained != 0 {
            fields.drainer = Some(NonNull::from(slot));
        }
        // SAFETY: as above.
        unsafe { fields.write_to(record) };
        Some(PendingRelease {
            base: fields.base.addr().get(),
            size: fields.size,
            retained: fields.retained,
        })
    }

    /// Records that a range was given back, or, if not `done`, queues it again as the last.
    fn finish_release(&mut self, given: &PendingRelease, slot: &DrainSlot, done: bool) {
        let Some(record) = slot.record.take() else {
            return;
        };
        if done && given.retained == 0 {
            // The record was in the segment that went.
            return;
        }
        // SAFETY: the record of a heap that is being drained stays live (if it moved, the slot followed it), and so
        // does that of a deleted heap which the arena did not take.
        unsafe {
            HeapRecord::update(record, |it| {
                it.drainer = None;
                it.state = ReleaseState::IDLE;
                if done {
                    it.size = given.retained;
                }
            });
        }
        // SAFETY: it is live and in no queue, as its state says.
        unsafe { self.update_queue(record, done) };
    }

    /// Takes back the segment that was queued last, if all of it is there and it `fits` by base and size.
    pub(super) fn reclaim_queued_heap(
        &mut self,
        fits: impl FnOnce(usize, usize) -> bool,
    ) -> Option<(NonNull<u8>, usize)> {
        let record = self.release_queue.first()?;
        // SAFETY: a record in the list is live.
        let fields = unsafe { HeapRecord::read(record) }?;
        let found = (fields.base, fields.size);
        if fields.retained != 0 || !fits(found.0.addr().get(), found.1) {
            return None;
        }
        // SAFETY: it is in the list.
        unsafe { self.release_queue.remove(record) };
        Some(found)
    }
}

impl<A: TagSupply, L: Lock> Drop for ArenaSource<'_, A, L> {
    fn drop(&mut self) {
        let Some(arena) = self.arena else { return };
        free_segments(&self.release_queue, arena, |record| record.retained == 0);
        if !self.owner.is_owner_alive() {
            free_segments(&self.heaps, arena, |_| true);
        }
    }
}

/// Frees the segments of a list that are `gone`. Nothing is written to records: heaps among them may be in use by
/// an allocator that this source was taken from. What a damaged record would lead to stays allocated.
fn free_segments<const WHICH: usize, A: TagSupply, L: Lock>(
    list: &List<WHICH>,
    arena: &Arena<'_, '_, A, L>,
    gone: impl Fn(&HeapRecord) -> bool,
) {
    let mut next = list.first();
    // SAFETY: records in a list are live until their segments are freed, which is when they are left behind.
    while let Some(record) = next.and_then(|at| unsafe { HeapRecord::read(at) }) {
        next = record.next(WHICH);
        if gone(&record) {
            let _ = arena.free(record.base.addr().get());
        }
    }
}
