//! Giving queued pages back to the arena, with the heap's lock released.

use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::record::{Record, State};
use crate::talc::base::binning::Binning;
use crate::talc::sync::TalcLock;
use crate::vmem::{Allocator, Error, Lock};

/// Pages that were taken from the queue and are being given back.
struct Return {
    /// Where the record was when it was taken.
    record: NonNull<Record>,
    /// Where the segment begins.
    base: usize,
    /// Bytes of the segment, mapped until this is done.
    size: usize,
    /// Bytes of it that stay; zero when all of it goes.
    kept: usize,
}

impl<R: RawMutex, A: Allocator, L: Lock, B: Binning> TalcLock<R, ArenaSource<'_, A, L>, B> {
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
    /// and free) are called without it, with interrupts as the caller has them. When somebody else is at it
    /// already, on another CPU or in the code that this interrupted, what they are busy with is left
    /// to them.
    ///
    /// # Errors
    /// What the arena said; the range stays in the queue, as do those that come after it.
    pub fn drain(&self) -> Result<usize, Error> {
        let mut given = 0;
        loop {
            let mut guard = self.lock();
            let Some(arena) = guard.source.arena else {
                return Ok(given);
            };
            let Some(next) = guard.source.take_return() else {
                return Ok(given);
            };
            drop(guard);
            let result = match next.kept {
                0 => arena.free_sized(next.base, next.size),
                kept => arena.resize(next.base, kept),
            };
            if next.kept != 0 || result.is_err() {
                self.lock().source.finish_return(&next, result.is_ok());
            }
            result?;
            given += next.size - next.kept;
        }
    }
}

impl<A: Allocator, L: Lock> ArenaSource<'_, A, L> {
    /// Takes the next range from the queue. [`finish_return`](Self::finish_return) must follow, unless a
    /// whole segment went.
    fn take_return(&mut self) -> Option<Return> {
        if self.draining.is_some() {
            return None;
        }
        let record = self.returns.first()?;
        // SAFETY: it is in the list.
        unsafe { self.returns.remove(record) };
        // SAFETY: a record that was in the list is live, and this is the only reference to it.
        let Record {
            base,
            size,
            kept,
            state,
            ..
        } = unsafe { &mut *record.as_ptr() };
        *state = State::Draining;
        // The record of a deleted heap is reached by nobody: it may vanish with its page.
        if *kept != 0 {
            self.draining = Some(record);
        }
        Some(Return {
            record,
            base: base.addr().get(),
            size: *size,
            kept: *kept,
        })
    }

    /// Records that a range was given back, or, if not `done`, queues it again.
    fn finish_return(&mut self, given: &Return, done: bool) {
        let record = if given.kept == 0 {
            given.record
        } else {
            self.draining.take().unwrap_or(given.record)
        };
        // SAFETY: the record of a heap that is being drained stays live (if moved, `draining` followed
        // it), and so does that of a deleted heap which the arena did not take.
        let fields = unsafe { &mut *record.as_ptr() };
        fields.state = State::Settled;
        if done {
            fields.size = given.kept;
        }
        // SAFETY: it is in no queue, as its state says.
        unsafe { self.requeue(record) };
    }

    /// Takes back the segment that was queued last, if all of it is there and it has at least `size` bytes.
    pub(super) fn take_back_heap(&mut self, size: usize) -> Option<(NonNull<u8>, usize)> {
        let record = self.returns.first()?;
        // SAFETY: a record in the list is live.
        let fields = unsafe { record.as_ref() };
        let found = (fields.base, fields.size);
        if fields.kept != 0 || found.1 < size {
            return None;
        }
        // SAFETY: it is in the list.
        unsafe { self.returns.remove(record) };
        Some(found)
    }
}

impl<A: Allocator, L: Lock> Drop for ArenaSource<'_, A, L> {
    fn drop(&mut self) {
        let Some(arena) = self.arena else { return };
        while let Some(record) = self.returns.first() {
            // SAFETY: it is in the list, and live.
            let deleted = unsafe {
                self.returns.remove(record);
                record.as_ref().kept == 0
            };
            if deleted {
                // SAFETY: as above; nothing leads to the record any more.
                let _ = unsafe { arena.free(record.as_ref().base.addr().get()) };
            }
        }
        if self.bond.is_in_use() {
            return;
        }
        while let Some(record) = self.heaps.first() {
            // SAFETY: it is in the list, and live.
            let base = unsafe {
                self.heaps.remove(record);
                record.as_ref().base
            };
            let _ = arena.free(base.addr().get());
        }
    }
}
