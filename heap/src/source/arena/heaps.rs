//! Heaps are trimmed and listed.

use core::ptr::NonNull;

use lock_api::RawMutex;

use super::growth::GrowthPolicy;
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use super::{ArenaHeap, ArenaSource};
use crate::span::Span;
use crate::talc::base::binning::Binning;
use crate::talc::base::{Reserved, Talc};
use crate::talc::sync::{TalcGuard, TalcLock};
use crate::vmem::{Lock, TagSupply};

/// Up to which address the free memory at the top of one heap stays when heaps are trimmed.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    /// The base of that heap.
    heap: usize,
    up_to: usize,
}

impl Kept {
    /// Nothing stays, at the top of any heap.
    pub(super) const NOTHING: Kept = Kept { heap: 0, up_to: 0 };
}

/// The number of holes that are given up at the tops of heaps while the lock is held.
const MAX_GIVEN_UP: usize = 8;

/// How far the trimming of a heap has come.
#[derive(PartialEq, Eq)]
enum Trimmed {
    Fully,
    /// As many holes as were allowed have been given up, and there are more.
    Partly,
    /// Its record is damaged.
    NotAtAll,
}

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Lowers the end of each heap to its reserved part, up to a quantum, and deletes empty heaps.
    /// The pages above wait for [`TalcLock::drain`].
    ///
    /// ```text
    ///              first heap                                another
    ///     before   ├─ in use ─┼─ free ──────────┼─ record ─┤  ├─ free ──────────┼─ record ─┤
    ///     after    ├─ in use ─┼─ record ─┼─ in the queue ──┤  ├─ all in the queue ─────────┤
    /// ```
    ///
    /// The hysteresis of growth begins anew. O(heaps), and O(log holes) for each hole at a top.
    /// Behind a lock, [`TalcLock::trim`] does the same in steps.
    #[doc(alias("malloc_trim"))]
    pub fn trim(&mut self) {
        self.trim_to(Kept::NOTHING, usize::MAX);
        self.finish_trim();
    }

    /// Begins the hysteresis of growth anew.
    fn finish_trim(&mut self) {
        self.source.policy = GrowthPolicy::new();
        self.source.update_claimed(0, 0);
    }

    /// Lowers the end of each heap to what is in use or kept, up to a quantum, and deletes empty
    /// heaps. Holes at the top of a heap are given up with it. Returns `false` if there are more
    /// than `most` of these: then this is to be called again.
    pub(super) fn trim_to(&mut self, kept: Kept, mut most: usize) -> bool {
        let Some(arena) = self.source.arena else {
            return true;
        };
        if !self.source.owner.is_bound_to(&self.owner_token) {
            return true;
        }
        let mut next = self.source.heaps.first();
        while let Some(record) = next {
            // SAFETY: `record` is in the list.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: `record` is in the list.
            match unsafe { self.trim_heap(record, kept, arena.quantum(), &mut most) } {
                Trimmed::Fully => {}
                Trimmed::Partly => return false,
                Trimmed::NotAtAll => break,
            }
        }
        true
    }

    /// Begins another interval, and returns what the heap that grows is expected to use in it.
    pub(super) fn begin_interval(&mut self) -> Kept {
        let is_owner = self.source.owner.is_bound_to(&self.owner_token);
        let growing = self.source.heaps.first().filter(|_| is_owner);
        growing.map_or(Kept::NOTHING, |record| {
            // SAFETY: `record` is in the list.
            unsafe { self.expected_top(record) }
        })
    }

    /// Returns up to which address the next interval is expected to use the heap that grows. Begins
    /// the interval.
    ///
    /// # Safety
    /// `record` is in the list of heaps.
    unsafe fn expected_top(&mut self, record: NonNull<SegmentRecord>) -> Kept {
        let end = record.cast::<u8>();
        // SAFETY: records in the list are live.
        let Some(heap) = (unsafe { SegmentRecord::read(record) }) else {
            return Kept::NOTHING;
        };
        // SAFETY: a heap ends where its record begins.
        let top = unsafe { self.reserved(end) }.up_to.addr().get();
        let (used_end, used) = self.take_used_top();
        let used = if used_end == end.addr().get() {
            used
        } else {
            0
        };
        let (policy, base) = (&mut self.source.policy, heap.base.addr().get());
        Kept {
            heap: base,
            up_to: top.saturating_add(policy.begin_interval(base, top, used)),
        }
    }

    /// Lowers the end of a heap to what is in use, or to what is `kept` of it if that is higher, up
    /// to a quantum. Deletes the heap if it is empty. Gives up at most as many holes as `most`
    /// says, and counts them there.
    ///
    /// # Safety
    /// `record` is in the list of heaps.
    unsafe fn trim_heap(
        &mut self,
        mut record: NonNull<SegmentRecord>,
        kept: Kept,
        quantum: usize,
        most: &mut usize,
    ) -> Trimmed {
        loop {
            // SAFETY: records in the list are live.
            let Some(old) = (unsafe { SegmentRecord::read(record) }) else {
                self.note_damaged_record(record.addr().get());
                return Trimmed::NotAtAll;
            };
            if old.state == ReleaseState::GROWING {
                return Trimmed::Fully;
            }
            let kept = if kept.heap == old.base.addr().get() {
                kept.up_to
            } else {
                0
            };
            let end = record.cast::<u8>();
            // SAFETY: a heap ends where its record begins.
            let Reserved { up_to: top, any } = unsafe { self.reserved(end) };
            if !any && kept <= top.addr().get() {
                // SAFETY: a heap ends at `end`. Nothing is reserved in it, so it can be deleted.
                let deleted = unsafe { self.truncate(end, core::ptr::null_mut()) };
                debug_assert_eq!(deleted, None);
                // SAFETY: the record is in the list, and Talc has forgotten the heap.
                unsafe { self.source.delete_heap(record) };
                return Trimmed::Fully;
            }
            let retained_for = |used: usize| {
                (used - old.base.addr().get() + RECORD_SIZE).next_multiple_of(quantum)
            };
            let hole = self.source.holes.ending_at(top).filter(|it| !it.is_busy());
            if let Some(hole) = hole.filter(|_| kept <= top.addr().get()) {
                // SAFETY: a carved chunk begins at the hole's base.
                let free = unsafe { self.free_below(hole.base()) };
                let retained = retained_for(free.addr().get());
                // The new record must lie in the free memory below the hole.
                if old.base.addr().get() + retained <= hole.base().addr().get() {
                    let Some(rest) = most.checked_sub(1) else {
                        return Trimmed::Partly;
                    };
                    *most = rest;
                    let (from, to) = (hole.base(), hole.chunk_end());
                    self.source.holes.delete(hole);
                    // SAFETY: `retained` leaves room for a record, within the segment.
                    let new_end = unsafe { SegmentRecord::location(old.base, retained) };
                    let at = new_end.cast().as_ptr();
                    // SAFETY: the hole is a carved chunk, above which lies at most a gap. The new
                    // end lies in the free memory below the hole.
                    let reached = unsafe { self.truncate_through(end, from, to, at) };
                    debug_assert_eq!(reached, Some(new_end.cast()));
                    let size = old.size;
                    // SAFETY: `old` is a copy of the record, and Talc's heap ends at the new
                    // location.
                    record = unsafe { self.source.set_retained(old, retained, size) };
                    continue;
                }
            }
            let retained = retained_for(kept.max(top.addr().get()));
            if retained < old.retained {
                // SAFETY: `retained` covers the reserved part and a record, and is within the
                // segment.
                let new_end = unsafe { SegmentRecord::location(old.base, retained) };
                // SAFETY: a heap ends at `end`, and the new end is above its reserved part.
                let reached = unsafe { self.truncate(end, new_end.cast().as_ptr()) };
                debug_assert_eq!(reached, Some(new_end.cast()));
                let size = old.size;
                // SAFETY: `old` is a copy of the record, and Talc's heap ends at the new location.
                unsafe { self.source.set_retained(old, retained, size) };
            }
            return Trimmed::Fully;
        }
    }

    /// Returns an iterator over the live heaps, up to a damaged record. The heap that grows first
    /// comes first. O(1) for each.
    pub fn arena_heaps(&self) -> impl Iterator<Item = ArenaHeap> + '_ {
        let mut next = self.source.heaps.first();
        core::iter::from_fn(move || {
            let at = next?;
            // SAFETY: `at` is in the list, which does not change while `self` is borrowed.
            next = unsafe { self.source.heaps.after(at) };
            // SAFETY: records in the list are live.
            let record = unsafe { SegmentRecord::read(at) }?;
            Some(ArenaHeap {
                base: record.base,
                end: at.cast(),
                retained: record.retained,
                size: record.size,
            })
        })
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcLock<R, ArenaSource<'_, A, L>, B> {
    /// Enters all free memory at the tops of heaps in the release queue, as [`Talc::trim`] does.
    /// The lock is held for O(heaps) at a time, and released between: there may be many holes at
    /// the tops.
    pub fn trim(&self) {
        self.trim_keeping(|_| Kept::NOTHING);
        // SAFETY: neither the allocator nor its source is replaced or dropped.
        unsafe { self.run_locked(Talc::finish_trim) };
    }

    /// Trims all heaps, with the lock released between steps. The first calls `begin`.
    pub(super) fn trim_keeping(
        &self,
        begin: impl FnOnce(&mut Talc<ArenaSource<'_, A, L>, B>) -> Kept,
    ) {
        // SAFETY: neither the allocator nor its source is replaced or dropped.
        let (kept, mut is_done) = unsafe {
            self.run_locked(|talc| {
                let kept = begin(talc);
                (kept, talc.trim_to(kept, MAX_GIVEN_UP))
            })
        };
        while !is_done {
            // SAFETY: as above.
            is_done = unsafe { self.run_locked(|talc| talc.trim_to(kept, MAX_GIVEN_UP)) };
        }
    }
}

impl<A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'_, A, L>, B> {
    /// Returns the holes of all heaps in the order of their addresses: pages that were given back
    /// by [`TalcLock::punch`] or [`TalcLock::decay`]. Expected O(log holes) for each.
    ///
    /// A hole from which a call is giving pages back at this moment is listed as it will be. Its
    /// pages may still be memory, and are not in use.
    pub fn arena_holes(&self) -> impl Iterator<Item = Span> + '_ {
        self.source
            .holes
            .iter()
            .map(|hole| Span::new(hole.base().as_ptr(), hole.pages_end().as_ptr()))
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcGuard<'_, R, ArenaSource<'_, A, L>, B> {
    /// Enters all free memory at the tops of heaps in the release queue: see [`Talc::trim`].
    pub fn trim(&mut self) {
        // SAFETY: `trim` neither replaces nor drops the allocator or its source.
        unsafe { self.as_mut() }.trim();
    }
}
