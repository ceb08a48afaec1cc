//! Heaps are trimmed and listed.

use core::ptr::NonNull;

use lock_api::RawMutex;

use super::growth::GrowthPolicy;
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use super::{ArenaHeap, ArenaSource};
use crate::span::Span;
use crate::talc::base::binning::Binning;
use crate::talc::base::{Reserved, Talc};
use crate::talc::sync::TalcGuard;
use crate::vmem::{Lock, TagSupply};

#[cfg(doc)]
use crate::talc::TalcLock;

/// How much of the free memory at the top of a heap stays when the heap is trimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// None.
    InUse,
    /// In the heap that grows, what the next interval is expected to use.
    ForInterval,
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
    /// The hysteresis of growth begins anew. O(heaps).
    #[doc(alias("malloc_trim"))]
    pub fn trim(&mut self) {
        self.trim_to(Keep::InUse);
        self.source.policy = GrowthPolicy::new();
        self.source.update_claimed(0, 0);
    }

    /// Lowers the end of each heap to what `keep` says, up to a quantum, and deletes empty heaps.
    /// Holes at the top of a heap are given up with it.
    pub(super) fn trim_to(&mut self, keep: Keep) {
        let Some(arena) = self.source.arena else {
            return;
        };
        if !self.source.owner.is_bound_to(&self.owner_token) {
            return;
        }
        let mut next = self.source.heaps.first();
        let growing = next.filter(|_| keep == Keep::ForInterval);
        while let Some(record) = next {
            // SAFETY: `record` is in the list.
            next = unsafe { self.source.heaps.after(record) };
            let kept = if growing == Some(record) {
                // SAFETY: `record` is in the list.
                unsafe { self.expected_top(record) }
            } else {
                0
            };
            // SAFETY: `record` is in the list.
            if !unsafe { self.trim_heap(record, kept, arena.quantum()) } {
                break;
            }
        }
    }

    /// Returns up to which address the next interval is expected to use the heap that grows. Begins
    /// the interval.
    ///
    /// # Safety
    /// `record` is in the list of heaps.
    unsafe fn expected_top(&mut self, record: NonNull<SegmentRecord>) -> usize {
        let end = record.cast::<u8>();
        // SAFETY: records in the list are live.
        let Some(heap) = (unsafe { SegmentRecord::read(record) }) else {
            return 0;
        };
        // SAFETY: a heap ends where its record begins.
        let top = unsafe { self.reserved(end) }.up_to.addr().get();
        let (used_end, used) = self.take_used_top();
        let used = if used_end == end.addr().get() {
            used
        } else {
            0
        };
        let policy = &mut self.source.policy;
        top.saturating_add(policy.begin_interval(heap.base.addr().get(), top, used))
    }

    /// Lowers the end of a heap to what is in use, or to `kept` if that is higher, up to a quantum.
    /// Deletes the heap if it is empty. Returns whether its record is intact.
    ///
    /// # Safety
    /// `record` is in the list of heaps.
    unsafe fn trim_heap(
        &mut self,
        mut record: NonNull<SegmentRecord>,
        kept: usize,
        quantum: usize,
    ) -> bool {
        loop {
            // SAFETY: records in the list are live.
            let Some(old) = (unsafe { SegmentRecord::read(record) }) else {
                self.note_damaged_record(record.addr().get());
                return false;
            };
            if old.state == ReleaseState::GROWING {
                return true;
            }
            let end = record.cast::<u8>();
            // SAFETY: a heap ends where its record begins.
            let Reserved { up_to: top, any } = unsafe { self.reserved(end) };
            if !any && kept <= top.addr().get() {
                // SAFETY: a heap ends at `end`. Nothing is reserved in it, so it can be deleted.
                let deleted = unsafe { self.truncate(end, core::ptr::null_mut()) };
                debug_assert_eq!(deleted, None);
                // SAFETY: the record is in the list, and Talc has forgotten the heap.
                unsafe { self.source.delete_heap(record) };
                return true;
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
            return true;
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
