//! [`ArenaSource`]: heaps made of an arena's segments, which grow and shrink in place.
//!
//! Each Talc heap is one allocated segment of the arena, and so one span of what the arena imports from.
//! [`acquire`](Source::acquire) extends the heap claimed last in place, else it claims another;
//! [`resize`](Source::resize) moves a heap's end down when enough is free there. It runs inside
//! `deallocate`, under the heap's lock, so it only *queues* the pages; [`TalcLock::drain`] gives them to the
//! arena with the lock released.

mod drain;
mod record;
mod step;

use core::alloc::Layout;
use core::fmt;
use core::mem::size_of;
use core::ptr::NonNull;

use self::record::{HEAPS, List, RECORD, RETURNS, Record, State};
use self::step::Step;
use super::Source;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, Reserved, Talc};
use crate::talc::min_first_heap_size;
use crate::vmem::{AllocPolicy, Allocator, Arena, Lock};

#[cfg(doc)]
use crate::talc::TalcLock;

/// Makes heaps from segments of a [`vmem::Arena`](Arena), and gives back what is free at their tops.
///
/// The arena's ranges must be memory: mapped, writable and used by nobody else while they are allocated,
/// zero or not. Its quantum must be at least twice [`CHUNK_UNIT`] and is the granularity of growing and
/// giving back (a page, in a kernel).
///
/// * **Growth** goes by steps of an eighth of what is claimed, 64 KiB to 2 MiB, or by what the layout
///   demands if that is more; when the arena cannot give the step, by what the layout demands alone.
/// * **Giving back** starts when the free top of a heap is larger than two such steps, and leaves one step of what
///   is claimed then.
///   Heaps that become empty go back whole, except for the first, which holds Talc's metadata.
///   [`Talc::trim`] gives back everything that is free at a top.
///
/// When the source is dropped, all its heaps go back to the arena: the blocks in them must not be used any more.
///
/// Manual heap management ([`Talc::claim`], [`Talc::extend`], [`Talc::truncate`], [`Talc::resize`]) is
/// forbidden with this source: it relies on a record of its own at the end of each heap.
pub struct ArenaSource<'a, A: Allocator, L: Lock> {
    arena: Option<&'a Arena<'a, 'a, A, L>>,
    heaps: List<HEAPS>,
    returns: List<RETURNS>,
    /// The record whose tail is being given back without the lock. It may move meanwhile.
    draining: Option<NonNull<Record>>,
    step: Step,
    /// Bytes that all live heaps keep.
    claimed: usize,
    /// [`resize`](Source::resize) leaves a free top alone that is not larger than this.
    threshold: usize,
}

// SAFETY: the records that the lists lead to lie in memory that the arena allocated to this source alone.
// A reference to the arena may go to another thread where the arena may be shared.
unsafe impl<'a, A: Allocator, L: Lock> Send for ArenaSource<'a, A, L> where Arena<'a, 'a, A, L>: Sync
{}

/// One heap of an [`ArenaSource`], as [`Talc::arena_heaps`] lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaHeap {
    /// Where the heap and its segment of the arena begin.
    pub base: NonNull<u8>,
    /// Where Talc's part of it ends.
    pub end: NonNull<u8>,
    /// Bytes that the heap keeps: up to `end`, and the source's record. A multiple of the arena's quantum.
    pub kept: usize,
    /// Bytes of the segment. What exceeds `kept` is on its way back to the arena.
    pub size: usize,
}

impl<'a, A: Allocator, L: Lock> ArenaSource<'a, A, L> {
    /// A source of no memory, until [`attach`](Self::attach) gives it an arena.
    pub const fn detached() -> Self {
        ArenaSource {
            arena: None,
            heaps: List::new(),
            returns: List::new(),
            draining: None,
            step: Step::new(),
            claimed: 0,
            threshold: 2 * step::MIN_STEP,
        }
    }

    /// A source of memory from `arena`.
    ///
    /// # Safety
    /// What `arena` allocates must be memory as the type's documentation demands it.
    pub const unsafe fn new(arena: &'a Arena<'a, 'a, A, L>) -> Self {
        let mut source = Self::detached();
        source.arena = Some(arena);
        source
    }

    /// Takes memory from `arena` from now on. Does nothing and returns `false` when there is an arena
    /// already.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub unsafe fn attach(&mut self, arena: &'a Arena<'a, 'a, A, L>) -> bool {
        let free = self.arena.is_none();
        self.arena.get_or_insert(arena);
        free
    }

    /// The arena that the memory comes from.
    pub fn arena(&self) -> Option<&'a Arena<'a, 'a, A, L>> {
        self.arena
    }

    /// Bytes that all heaps keep, without what is on its way back. O(1).
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Whether pages wait to be given back by [`TalcLock::drain`]. O(1).
    #[inline]
    pub fn has_returns(&self) -> bool {
        self.returns.first().is_some() && self.draining.is_none()
    }

    /// Records that the heaps keep `added` more bytes and `removed` fewer.
    fn account(&mut self, added: usize, removed: usize) {
        self.claimed = self.claimed + added - removed;
        self.threshold = 2 * self.step.slack(self.claimed);
    }

    /// Changes how much the heap of `record` keeps. Its record moves to the new end, and the segment is
    /// as large as `size` from now on. Returns where the record is.
    ///
    /// # Safety
    /// `record` must be live, in [`HEAPS`], and a valid copy of it be `old`; `kept` must be a multiple of
    /// the quantum, at most `size`, and everything up to `size` be mapped. The bytes of the new record must
    /// belong to this source.
    unsafe fn rekeep(
        &mut self,
        record: NonNull<Record>,
        mut old: Record,
        kept: usize,
        size: usize,
    ) -> NonNull<Record> {
        let queued = old.state == State::Queued;
        let before = old.kept;
        (old.kept, old.size) = (kept, size);
        // SAFETY: `kept` is within the segment, whose base `old.base` is.
        let moved = unsafe { Record::place(old.base, kept) };
        // SAFETY: the caller vouches that the place is ours; it is aligned since all sizes are.
        unsafe { moved.write(old) };
        // SAFETY: `moved` replaces `record` in the lists that it is in.
        unsafe { self.heaps.moved(moved) };
        if queued {
            // SAFETY: as above.
            unsafe { self.returns.moved(moved) };
        }
        if self.draining == Some(record) {
            self.draining = Some(moved);
        }
        // SAFETY: `moved` was written above.
        unsafe { self.requeue(moved) };
        self.account(kept, before);
        moved
    }

    /// Puts `record` into the queue or takes it out, as `kept` and `size` say.
    ///
    /// # Safety
    /// `record` must be live, and in [`RETURNS`] exactly if its state says so.
    unsafe fn requeue(&mut self, record: NonNull<Record>) {
        // SAFETY: the caller vouches for the record; nothing else holds a reference to it.
        let (state, owes) = unsafe {
            let record = record.as_ref();
            (record.state, record.kept < record.size)
        };
        let state = match (state, owes) {
            (State::Settled, true) => {
                // SAFETY: a settled record is not in the queue.
                unsafe { self.returns.push(record) };
                State::Queued
            }
            (State::Queued, false) => {
                // SAFETY: a queued record is in the queue.
                unsafe { self.returns.remove(record) };
                State::Settled
            }
            (state, _) => state,
        };
        // SAFETY: as above.
        unsafe { (*record.as_ptr()).state = state };
    }

    /// Takes the heap of `record` out of the live heaps and queues all of its segment.
    ///
    /// # Safety
    /// `record` must be live and in [`HEAPS`], and Talc must have no use for its heap any more.
    unsafe fn delete(&mut self, record: NonNull<Record>) {
        // SAFETY: the caller vouches for the record.
        unsafe { self.heaps.remove(record) };
        // SAFETY: as above; nothing else holds a reference to it.
        let kept = unsafe { core::mem::take(&mut (*record.as_ptr()).kept) };
        // SAFETY: it is live, and its state was not touched.
        unsafe { self.requeue(record) };
        self.account(0, kept);
    }
}

/// Where a block of `layout` ends at the latest, tag included, when it is cut from the bottom of free memory
/// that begins at the address `top`. `None` when that is beyond the address space.
fn end_above(top: usize, layout: Layout) -> Option<usize> {
    let base = top.checked_next_multiple_of(layout.align().max(CHUNK_UNIT))?;
    base.checked_add(chunk_size(layout.size())?)
}

/// The most bytes that a chunk for `size` bytes takes.
fn chunk_size(size: usize) -> Option<usize> {
    let size = size
        .checked_add(size_of::<usize>())?
        .checked_next_multiple_of(CHUNK_UNIT)?;
    Some(size.max(2 * CHUNK_UNIT))
}

impl<'a, A: Allocator, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Grows the heap that was claimed last in place, so that `layout` fits in at its top.
    /// Returns whether it did.
    fn grow_in_place(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> bool {
        let Some(record) = self.source.heaps.first() else {
            return false;
        };
        // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
        let old = unsafe { record.read() };
        if old.state == State::Draining {
            return false;
        }
        let end = record.cast::<u8>();
        // SAFETY: the record lies where its heap ends.
        let top = unsafe { self.reserved(end) }.up_to;
        let demanded = end_above(top.addr().get(), layout)
            .and_then(|end| end.checked_add(RECORD)?.checked_sub(old.base.addr().get()))
            .and_then(|kept| kept.checked_next_multiple_of(arena.quantum()));
        let Some(demanded) = demanded else {
            return false;
        };
        let step = self
            .source
            .step
            .growth(self.source.claimed)
            .next_multiple_of(arena.quantum());
        let stepped = old.kept.saturating_add(step).max(demanded);

        let resized = |kept: usize| {
            // What is queued is still mapped, and may be taken back for nothing.
            kept <= old.size || arena.resize(old.base.addr().get(), kept).is_ok()
        };
        let Some(kept) = [stepped, demanded].into_iter().find(|&kept| resized(kept)) else {
            return false;
        };
        // SAFETY: the segment reaches to `kept` now.
        let new_end = unsafe { Record::place(old.base, kept) }.cast::<u8>();
        if new_end > end {
            // SAFETY: `end` is the end of this heap, and what follows is mapped and ours. It may
            // overwrite the record, of which there is a copy.
            let reached = unsafe { self.extend(end, new_end.as_ptr()) };
            debug_assert_eq!(reached, new_end);
        }
        let size = old.size.max(kept);
        // SAFETY: the record was copied, and its new place is where Talc's heap ends.
        unsafe { self.source.rekeep(record, old, kept, size) };
        true
    }

    /// Claims another heap in which `layout` fits. Returns whether it did.
    fn claim_another(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> bool {
        let overhead = if self.is_metadata_established() {
            CHUNK_UNIT
        } else {
            min_first_heap_size::<B>()
        };
        let demanded = chunk_size(layout.size())
            .and_then(|size| size.checked_add(layout.align().saturating_sub(CHUNK_UNIT)))
            .and_then(|size| size.checked_add(overhead + RECORD))
            .and_then(|size| size.checked_next_multiple_of(arena.quantum()));
        let Some(demanded) = demanded else {
            return false;
        };
        let step = self
            .source
            .step
            .growth(self.source.claimed)
            .next_multiple_of(arena.quantum());

        let Some((base, size)) = self.source.take_back_heap(demanded).or_else(|| {
            [demanded.max(step), demanded].into_iter().find_map(|size| {
                let base = arena.alloc(size, AllocPolicy::InstantFit).ok()?;
                let base = NonNull::new(core::ptr::with_exposed_provenance_mut(base))?;
                Some((base, size))
            })
        }) else {
            return false;
        };
        // SAFETY: the segment is `size` bytes, at least `demanded`.
        let record = unsafe { Record::place(base, size) };
        // SAFETY: the segment is memory that nobody else uses, as `ArenaSource::new` demands.
        let end = unsafe { self.claim(base.as_ptr(), size - RECORD) };
        if end != Some(record.cast()) {
            debug_assert!(
                false,
                "a segment of {size} bytes at {base:p} made a heap that ends at {end:?}"
            );
            return false;
        }
        // SAFETY: the bytes above the heap's end are ours and aligned.
        unsafe { record.write(Record::new(base, size)) };
        // SAFETY: the record was written above, and is in no list.
        unsafe { self.source.heaps.push(record) };
        self.source.account(size, 0);
        true
    }

    /// Makes every heap end where its reserved part does, and deletes those that hold nothing. What
    /// becomes free waits for [`TalcLock::drain`].
    ///
    /// O(heaps), and constant time for each.
    pub fn trim(&mut self) {
        let Some(arena) = self.source.arena else {
            return;
        };
        let mut next = self.source.heaps.first();
        while let Some(record) = next {
            // SAFETY: `record` is in the list.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
            let old = unsafe { record.read() };
            let end = record.cast::<u8>();
            // SAFETY: the record lies where its heap ends.
            let Reserved { up_to: top, any } = unsafe { self.reserved(end) };
            let kept = (top.addr().get() - old.base.addr().get() + RECORD)
                .next_multiple_of(arena.quantum());
            // SAFETY: `kept` covers what is reserved, which is less than what is kept, and the record.
            let new_end = unsafe { Record::place(old.base, kept) };
            if !any {
                // SAFETY: as above. Nothing is reserved, so the heap is deleted.
                let deleted = unsafe { self.truncate(end, core::ptr::null_mut()) };
                debug_assert_eq!(deleted, None);
                // SAFETY: Talc has forgotten the heap.
                unsafe { self.source.delete(record) };
            } else if kept < old.kept {
                // SAFETY: as above.
                let reached = unsafe { self.truncate(end, new_end.cast().as_ptr()) };
                debug_assert_eq!(reached, Some(new_end.cast()));
                let size = old.size;
                // SAFETY: the record was copied, and its new place is where Talc's heap ends.
                unsafe { self.source.rekeep(record, old, kept, size) };
            }
        }
        self.source.step = Step::new();
        self.source.account(0, 0);
    }

    /// The live heaps, the one that grows first in front.
    pub fn arena_heaps(&self) -> impl Iterator<Item = ArenaHeap> + '_ {
        let mut next = self.source.heaps.first();
        core::iter::from_fn(move || {
            let record = next?;
            // SAFETY: `record` is in the list, which does not change while `self` is borrowed.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: as above.
            let &Record {
                base, size, kept, ..
            } = unsafe { record.as_ref() };
            Some(ArenaHeap {
                base,
                end: record.cast(),
                kept,
                size,
            })
        })
    }
}

// SAFETY: the records are found and changed through the `Talc` alone that is passed; the arena, its source
// and its tag supply allocate nothing from it, as `ArenaSource::new` demands by "used by nobody else".
unsafe impl<A: Allocator, L: Lock> Source for ArenaSource<'_, A, L> {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let arena = talc.source.arena.ok_or(())?;
        if !talc.grow_in_place(arena, layout) && !talc.claim_another(arena, layout) {
            return Err(());
        }
        talc.source.step.grew();
        talc.source.account(0, 0);
        Ok(())
    }

    #[inline]
    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let free = heap_end.addr() - chunk_base.addr();
        let may_stay = !is_heap_base || self.step.keeps_empty_heaps();
        if may_stay && free <= self.threshold {
            return heap_end;
        }
        // SAFETY: the caller passes the end of a heap with that much free below it.
        unsafe { self.lower(chunk_base, heap_end, is_heap_base) }
    }
}

impl<A: Allocator, L: Lock> ArenaSource<'_, A, L> {
    /// Lowers the end of a heap, or deletes it, and returns the new end.
    ///
    /// # Safety
    /// As for [`Source::resize`].
    #[cold]
    unsafe fn lower(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        // SAFETY: a record lies at the end of each heap.
        let (record, arena) = unsafe {
            (
                NonNull::new_unchecked(heap_end).cast::<Record>(),
                self.arena,
            )
        };
        let Some(arena) = arena else { return heap_end };
        if is_heap_base {
            self.step.gave_back();
            // SAFETY: the record is live, and Talc forgets the heap when its base is returned.
            unsafe { self.delete(record) };
            return chunk_base;
        }
        // SAFETY: the record is live, and nothing writes to it while it is copied.
        let old = unsafe { record.read() };
        let used = chunk_base.addr() - old.base.addr().get();
        let free = heap_end.addr() - chunk_base.addr();
        let kept = (used + self.step.slack(self.claimed - free) + RECORD)
            .next_multiple_of(arena.quantum());
        if kept >= old.kept {
            return heap_end;
        }
        self.step.gave_back();
        let size = old.size;
        // SAFETY: the record was copied. Its new place is above `chunk_base`, in memory that is free and
        // that belongs to this source once its address is returned.
        unsafe { self.rekeep(record, old, kept, size) }
            .cast()
            .as_ptr()
    }
}

impl<A: Allocator, L: Lock> fmt::Debug for ArenaSource<'_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaSource")
            .field("arena", &self.arena.map(|arena| arena.label()))
            .field("claimed", &self.claimed)
            .field("step", &self.step)
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}
