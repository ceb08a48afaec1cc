//! Heaps grow in place, are claimed, and are trimmed; and are listed.

use core::alloc::Layout;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::growth::GrowthPolicy;
use super::record::{HeapRecord, RECORD_SIZE, ReleaseState};
use super::{ArenaHeap, ArenaSource};
use crate::talc::MAX_GAP;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, Footprint, Reserved, Talc};
use crate::talc::sync::TalcGuard;
use crate::vmem::{self, AllocPolicy, Arena, Lock, TagSupply};

#[cfg(doc)]
use crate::talc::TalcLock;

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Grows the heap that was claimed last in place, so that `layout` fits in at its top.
    ///
    /// Growth only ever raises a heap's end: below it lies memory that the allocator uses.
    pub(super) fn grow_in_place(
        &mut self,
        arena: &Arena<'a, 'a, A, L>,
        layout: Layout,
    ) -> GrowthResult {
        let Some(record) = self.source.heaps.first() else {
            return GrowthResult::Refused;
        };
        // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
        let Some(old) = (unsafe { HeapRecord::read(record) }) else {
            self.note_damaged_record(record.addr().get());
            return GrowthResult::Refused;
        };
        let end = record.cast::<u8>();
        if !self.validate_heap_end(end) {
            return GrowthResult::Refused;
        }
        // SAFETY: the record lies where its heap ends.
        let top = unsafe { self.reserved(end) }.up_to;
        let demanded = Footprint::new(layout)
            .end_above(top.addr().get())
            .and_then(|end| {
                end.checked_add(RECORD_SIZE)?
                    .checked_sub(old.base.addr().get())
            })
            .and_then(|retained| retained.checked_next_multiple_of(arena.quantum()));
        let Some(demanded) = demanded else {
            return GrowthResult::Refused;
        };
        let refused = if demanded <= old.retained {
            GrowthResult::Fits
        } else {
            GrowthResult::Refused
        };
        if old.state == ReleaseState::DRAINING {
            return refused;
        }
        let step = self.source.growth(arena);
        let stepped = old.retained.saturating_add(step).max(demanded);

        let resized = |retained: usize| {
            // What is queued is still mapped, and may be taken back for nothing.
            retained <= old.size || arena.resize(old.base.addr().get(), retained).is_ok()
        };
        let grown = [stepped, demanded]
            .into_iter()
            .find(|&retained| retained > old.retained && retained < MAX_GAP && resized(retained));
        let Some(retained) = grown else {
            return refused;
        };
        // SAFETY: the segment reaches to `kept` now.
        let new_end = unsafe { HeapRecord::location(old.base, retained) }.cast::<u8>();
        assert!(new_end > end, "growth must raise the end of a heap");
        // SAFETY: `end` is the end of this heap, and what follows is mapped and ours. It may
        // overwrite the record, of which there is a copy. What is taken back from the queue was in
        // use; all else that is new comes from the arena.
        let reached = unsafe {
            if !self.source.is_zeroed || retained <= old.size {
                self.extend(end, new_end.as_ptr())
            } else if old.retained < old.size {
                let zero_from = old.base.byte_add(old.size);
                self.extend_zeroed(end, new_end.as_ptr(), zero_from.as_ptr())
            } else {
                end.write_bytes(0, RECORD_SIZE);
                self.extend_zeroed(end, new_end.as_ptr(), end.as_ptr())
            }
        };
        assert_eq!(reached, new_end, "where a heap at {:p} ends", old.base);
        let size = old.size.max(retained);
        // SAFETY: the record was copied, and its new place is where Talc's heap ends.
        unsafe { self.source.set_retained(old, retained, size) };
        GrowthResult::Grown
    }

    /// Claims another heap in which `layout` fits. Returns whether it did.
    ///
    /// An alignment above the quantum takes no more pages than any other: the segment is placed so that the
    /// block lies right above what the heap needs for itself.
    pub(super) fn claim_new_heap(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> bool {
        let quantum = arena.quantum();
        let (align, overhead) = (layout.align(), self.next_heap_overhead());
        let first = overhead.next_multiple_of(align.min(quantum).max(CHUNK_UNIT));
        let footprint = Footprint::new(layout);
        let demanded = first
            .checked_add(footprint.chunk_size())
            .and_then(|end| end.checked_add(RECORD_SIZE))
            .and_then(|size| size.checked_next_multiple_of(quantum));
        let Some(demanded) = demanded else {
            return false;
        };
        let step = self.source.growth(arena);

        let taken_back = self.source.reclaim_queued_heap(|base, size| {
            footprint
                .end_above(base + overhead)
                .and_then(|end| end.checked_add(RECORD_SIZE))
                .is_some_and(|end| end - base <= size)
        });
        // What was queued was in use.
        let is_zeroed = self.source.is_zeroed && taken_back.is_none();
        let Some((base, size)) = taken_back.or_else(|| {
            [demanded.max(step), demanded]
                .into_iter()
                .filter(|&size| size < MAX_GAP)
                .find_map(|size| segment(arena, size, align, first))
        }) else {
            return false;
        };
        // SAFETY: the segment is `size` bytes, at least `demanded`.
        let record = unsafe { HeapRecord::location(base, size) };
        // SAFETY: the segment is memory that nobody else uses, as `ArenaSource::new` demands.
        let end = unsafe {
            if is_zeroed {
                self.claim_zeroed(base.as_ptr(), size - RECORD_SIZE)
            } else {
                self.claim(base.as_ptr(), size - RECORD_SIZE)
            }
        };
        assert_eq!(
            end,
            Some(record.cast()),
            "where a heap in {size} bytes at {base:p} ends"
        );
        // SAFETY: a heap was claimed, and the flag in the first stays until it is seen to be set.
        unsafe {
            let flag = self.owner_flag();
            self.source.owner.bind(&mut self.owner_token, flag);
        }
        // SAFETY: the bytes above the heap's end are ours and aligned.
        unsafe { HeapRecord::new(base, size, self.source.owner).write_to(record) };
        // SAFETY: the record was written above, and is in no list.
        unsafe { self.source.heaps.push(record) };
        self.source.update_claimed(size, 0);
        true
    }

    /// Makes every heap end where its reserved part does, up to a quantum, and deletes those that
    /// hold nothing. What becomes free waits for [`TalcLock::drain`].
    ///
    /// ```text
    ///              first heap                                another
    ///     before   ├─ in use ─┼─ free ──────────┼─ record ─┤  ├─ free ──────────┼─ record ─┤
    ///     after    ├─ in use ─┼─ record ─┼─ in the queue ──┤  ├─ all in the queue ─────────┤
    /// ```
    ///
    /// Steps begin anew, as if pages had never gone back and forth.
    ///
    /// O(heaps), and constant time for each.
    pub fn trim(&mut self) {
        let Some(arena) = self.source.arena else {
            return;
        };
        if !self.source.owner.is_bound_to(&self.owner_token) {
            return;
        }
        let mut next = self.source.heaps.first();
        while let Some(record) = next {
            // SAFETY: `record` is in the list.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
            let Some(old) = (unsafe { HeapRecord::read(record) }) else {
                self.note_damaged_record(record.addr().get());
                break;
            };
            let end = record.cast::<u8>();
            // SAFETY: the record lies where its heap ends.
            let Reserved { up_to: top, any } = unsafe { self.reserved(end) };
            let retained = (top.addr().get() - old.base.addr().get() + RECORD_SIZE)
                .next_multiple_of(arena.quantum());
            // SAFETY: `kept` covers what is reserved, which is less than what is kept, and the record.
            let new_end = unsafe { HeapRecord::location(old.base, retained) };
            if !any {
                // SAFETY: as above. Nothing is reserved, so the heap is deleted.
                let deleted = unsafe { self.truncate(end, core::ptr::null_mut()) };
                debug_assert_eq!(deleted, None);
                // SAFETY: Talc has forgotten the heap.
                unsafe { self.source.delete_heap(record) };
            } else if retained < old.retained {
                // SAFETY: as above.
                let reached = unsafe { self.truncate(end, new_end.cast().as_ptr()) };
                debug_assert_eq!(reached, Some(new_end.cast()));
                let size = old.size;
                // SAFETY: the record was copied, and its new place is where Talc's heap ends.
                unsafe { self.source.set_retained(old, retained, size) };
            }
        }
        self.source.policy = GrowthPolicy::new();
        self.source.update_claimed(0, 0);
    }

    /// The live heaps, the one that grows first in front, up to a record that is damaged. O(1) for each.
    pub fn arena_heaps(&self) -> impl Iterator<Item = ArenaHeap> + '_ {
        let mut next = self.source.heaps.first();
        core::iter::from_fn(move || {
            let record = next?;
            // SAFETY: `record` is in the list, which does not change while `self` is borrowed.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: as above.
            let HeapRecord {
                base,
                size,
                retained,
                ..
            } = unsafe { HeapRecord::read(record) }?;
            Some(ArenaHeap {
                base,
                end: record.cast(),
                retained,
                size,
            })
        })
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcGuard<'_, R, ArenaSource<'_, A, L>, B> {
    /// Queues all that is free at the tops of heaps. See [`Talc::trim`].
    pub fn trim(&mut self) {
        // SAFETY: the allocator and its source stay what they are.
        unsafe { self.as_mut() }.trim();
    }
}

/// What became of an attempt to grow a heap.
pub(super) enum GrowthResult {
    /// The heap is larger.
    Grown,
    /// It is not, but the layout fits in the free memory at its top.
    Fits,
    /// It is not, and the layout does not fit there.
    Refused,
}

/// Allocates a segment of `size` bytes whose address `first` bytes above its base, or the first multiple of
/// the quantum from there on, is a multiple of `align`.
fn segment<A: TagSupply, L: Lock>(
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
        // There is no memory at the null address.
        let _ = arena.free(base);
        return None;
    };
    Some((memory, size))
}
