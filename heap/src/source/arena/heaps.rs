//! Heaps grow in place, are claimed and trimmed, and are listed.

use core::alloc::Layout;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::growth::GrowthPolicy;
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use super::{ArenaHeap, ArenaSource};
use crate::span::Span;
use crate::talc::MAX_GAP;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, ChunkRequirement, Reserved, Talc};
use crate::talc::sync::TalcGuard;
use crate::vmem::{self, AllocPolicy, Arena, Lock, TagSupply};

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

/// The result of an attempt to grow a heap in place.
pub(super) enum GrowthResult {
    /// The heap has grown.
    Grown,
    /// The heap has not grown, but the layout fits in the free memory at its top.
    Fits,
    /// The heap has not grown, and the layout does not fit at its top.
    Refused,
}

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Grows the heap that was claimed last in place, so that `layout` fits at its top.
    ///
    /// Growth only raises the end of a heap: below the end lies memory that the allocator uses.
    pub(super) fn grow_in_place(
        &mut self,
        arena: &Arena<'a, 'a, A, L>,
        layout: Layout,
    ) -> GrowthResult {
        let Some(record) = self.source.heaps.first() else {
            return GrowthResult::Refused;
        };
        // SAFETY: records in the list are live.
        let Some(old) = (unsafe { SegmentRecord::read(record) }) else {
            self.note_damaged_record(record.addr().get());
            return GrowthResult::Refused;
        };
        let end = record.cast::<u8>();
        if !self.validate_heap_end(end) {
            return GrowthResult::Refused;
        }
        // SAFETY: a heap ends where its record begins.
        let top = unsafe { self.reserved(end) }.up_to;
        let required = ChunkRequirement::new(layout)
            .end_above(top.addr().get())
            .and_then(|end| end.checked_add(RECORD_SIZE))
            .and_then(|end| end.checked_sub(old.base.addr().get()))
            .and_then(|retained| retained.checked_next_multiple_of(arena.quantum()));
        let Some(required) = required else {
            return GrowthResult::Refused;
        };
        let refused = if required <= old.retained {
            GrowthResult::Fits
        } else {
            GrowthResult::Refused
        };
        if old.state == ReleaseState::DRAINING {
            return refused;
        }
        let growth = self.source.growth(arena);
        let preferred = old.retained.saturating_add(growth).max(required);

        let has_holes = self.source.has_holes;
        let resized = |retained: usize| {
            let base = old.base.addr().get();
            // Pages in the release queue are still mapped, unless a hole was among them.
            let queued = retained.min(old.size) - old.retained;
            let is_memory =
                !has_holes || queued == 0 || restore(arena, base + old.retained, queued);
            is_memory && (retained <= old.size || arena.resize(base, retained).is_ok())
        };
        let grown = [preferred, required]
            .into_iter()
            .find(|&retained| retained > old.retained && retained < MAX_GAP && resized(retained));
        let Some(retained) = grown else {
            return refused;
        };
        // SAFETY: the segment now reaches to `retained`.
        let new_end = unsafe { SegmentRecord::location(old.base, retained) }.cast::<u8>();
        assert!(new_end > end, "growth must raise the end of a heap");
        // Memory from the release queue was in use, and is not declared zero. All other new memory
        // comes from the arena, and is zero if `is_zeroed`.
        let zero_from = if !self.source.is_zeroed || retained <= old.size {
            None
        } else if old.retained < old.size {
            // SAFETY: the segment reaches to `retained`, which is above `old.size` here.
            Some(unsafe { old.base.byte_add(old.size) })
        } else {
            // SAFETY: `old` is a copy of the record, whose bytes may be overwritten.
            unsafe { end.write_bytes(0, RECORD_SIZE) };
            Some(end)
        };
        let reached = match zero_from {
            // SAFETY: `end` is the end of this heap. The segment reaches to `retained`, so the
            // memory above `end` is mapped and belongs to the source.
            None => unsafe { self.extend(end, new_end.as_ptr()) },
            // SAFETY: the memory above `end` is mapped and belongs to the source. From `zero_from`
            // it came from the arena as zeros, or was cleared above.
            Some(zero_from) => unsafe {
                self.extend_zeroed(end, new_end.as_ptr(), zero_from.as_ptr())
            },
        };
        assert_eq!(reached, new_end, "where a heap at {:p} ends", old.base);
        let size = old.size.max(retained);
        // SAFETY: `old` is a copy of the record, and Talc's heap ends at the new location.
        unsafe { self.source.set_retained(old, retained, size) };
        GrowthResult::Grown
    }

    /// Claims another heap in which `layout` fits. Returns whether the arena had the memory.
    ///
    /// Alignments above the quantum cost no pages: the segment is placed so that the block lies
    /// directly above the overhead of the heap.
    pub(super) fn claim_new_heap(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> bool {
        let quantum = arena.quantum();
        let (align, overhead) = (layout.align(), self.next_heap_overhead());
        let first = overhead.next_multiple_of(align.min(quantum).max(CHUNK_UNIT));
        let requirement = ChunkRequirement::new(layout);
        let required = first
            .checked_add(requirement.chunk_size())
            .and_then(|end| end.checked_add(RECORD_SIZE))
            .and_then(|size| size.checked_next_multiple_of(quantum));
        let Some(required) = required else {
            return false;
        };
        let growth = self.source.growth(arena);

        let has_holes = self.source.has_holes;
        let reused = self.source.reuse_queued_heap(|base, size| {
            let fits = requirement
                .end_above(base + overhead)
                .and_then(|end| end.checked_add(RECORD_SIZE))
                .is_some_and(|end| end - base <= size);
            fits && (!has_holes || restore(arena, base, size))
        });
        // A segment from the release queue was in use.
        let is_zeroed = self.source.is_zeroed && reused.is_none();
        let Some((base, size)) = reused.or_else(|| {
            [required.max(growth), required]
                .into_iter()
                .filter(|&size| size < MAX_GAP)
                .find_map(|size| allocate_segment(arena, size, align, first))
        }) else {
            return false;
        };
        // SAFETY: the segment has `size` bytes, which leave room for a record.
        let record = unsafe { SegmentRecord::location(base, size) };
        let end = if is_zeroed {
            // SAFETY: the caller of `of_zeroed_memory` promised that a segment is zero when the
            // arena allocates it. Nothing else uses its memory.
            unsafe { self.claim_zeroed(base.as_ptr(), size - RECORD_SIZE) }
        } else {
            // SAFETY: the caller of `ArenaSource::new` promised that a segment is memory that
            // nothing else uses.
            unsafe { self.claim(base.as_ptr(), size - RECORD_SIZE) }
        };
        assert_eq!(
            end,
            Some(record.cast()),
            "where a heap in {size} bytes at {base:p} ends"
        );
        // SAFETY: a heap was claimed, so the flag exists.
        let flag = unsafe { self.owner_flag() };
        // SAFETY: the source keeps the first heap, which the flag lies in, until the flag is set.
        unsafe { self.source.owner.bind(&mut self.owner_token, flag) };
        // SAFETY: the bytes above the end of the heap belong to the source, and are aligned.
        unsafe { SegmentRecord::new(base, size, self.source.owner).write_to(record) };
        // SAFETY: the record was written above, and is in no list.
        unsafe { self.source.heaps.push_front(record) };
        self.source.update_claimed(size, 0);
        true
    }

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
                    self.source.holes.remove(hole);
                    // SAFETY: `retained` leaves room for a record, within the segment.
                    let new_end = unsafe { SegmentRecord::location(old.base, retained) };
                    let (from, to) = (hole.base(), hole.end());
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
            .map(|hole| Span::new(hole.base().as_ptr(), hole.record().as_ptr()))
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcGuard<'_, R, ArenaSource<'_, A, L>, B> {
    /// Enters all free memory at the tops of heaps in the release queue: see [`Talc::trim`].
    pub fn trim(&mut self) {
        // SAFETY: `trim` neither replaces nor drops the allocator or its source.
        unsafe { self.as_mut() }.trim();
    }
}

/// Makes a part of a segment memory again, as far as it is not. Returns whether all of it is.
fn restore<A: TagSupply, L: Lock>(arena: &Arena<'_, '_, A, L>, base: usize, size: usize) -> bool {
    // Holes are made in imported spans only.
    matches!(
        arena.restore(base, size),
        Ok(()) | Err(vmem::Error::NotImported { .. })
    )
}

/// Allocates a segment of `size` bytes for a block of alignment `align` that lies `first` bytes
/// above the base of the segment. If `align` exceeds the quantum, the block is at the next multiple
/// of the quantum from there.
fn allocate_segment<A: TagSupply, L: Lock>(
    arena: &Arena<'_, '_, A, L>,
    size: usize,
    align: usize,
    first: usize,
) -> Option<(NonNull<u8>, usize)> {
    let quantum = arena.quantum();
    let base = if align <= quantum {
        arena.alloc(size, AllocPolicy::InstantFit)
    } else {
        let phase = first.next_multiple_of(quantum).wrapping_neg() & (align - 1);
        let layout = vmem::Layout::from_size_align(size, align)?.with_phase(phase);
        arena.xalloc(layout, AllocPolicy::InstantFit)
    };
    let base = base.ok()?;
    let Some(memory) = NonNull::new(core::ptr::with_exposed_provenance_mut(base)) else {
        // No memory lies at the null address.
        let _ = arena.free(base);
        return None;
    };
    Some((memory, size))
}
