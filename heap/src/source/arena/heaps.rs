//! Heaps grow in place, are claimed, and are trimmed; and are listed.

use core::alloc::Layout;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::record::{RECORD, Record, State};
use super::step::Step;
use super::{ArenaHeap, ArenaSource};
use crate::talc::MAX_GAP;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Reserved, Talc};
use crate::talc::sync::TalcGuard;
use crate::vmem::{self, AllocPolicy, Allocator, Arena, Lock};

#[cfg(doc)]
use crate::talc::TalcLock;

impl<'a, A: Allocator, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Grows the heap that was claimed last in place, so that `layout` fits in at its top.
    ///
    /// Growth only ever raises a heap's end: below it lies memory that the allocator uses.
    pub(super) fn grow_in_place(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> Growth {
        let Some(record) = self.source.heaps.first() else {
            return Growth::Refused;
        };
        // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
        let Some(old) = (unsafe { Record::sound(record) }) else {
            self.note_damaged_record(record.addr().get());
            return Growth::Refused;
        };
        let end = record.cast::<u8>();
        if !self.admits_end(end) {
            return Growth::Refused;
        }
        // SAFETY: the record lies where its heap ends.
        let top = unsafe { self.reserved(end) }.up_to;
        let demanded = end_above(top.addr().get(), layout)
            .and_then(|end| end.checked_add(RECORD)?.checked_sub(old.base.addr().get()))
            .and_then(|kept| kept.checked_next_multiple_of(arena.quantum()));
        let Some(demanded) = demanded else {
            return Growth::Refused;
        };
        let refused = if demanded <= old.kept {
            Growth::Fits
        } else {
            Growth::Refused
        };
        if old.state == State::DRAINING {
            return refused;
        }
        let step = self.source.growth(arena);
        let stepped = old.kept.saturating_add(step).max(demanded);

        let resized = |kept: usize| {
            // What is queued is still mapped, and may be taken back for nothing.
            kept <= old.size || arena.resize(old.base.addr().get(), kept).is_ok()
        };
        let grown = [stepped, demanded]
            .into_iter()
            .find(|&kept| kept > old.kept && kept < MAX_GAP && resized(kept));
        let Some(kept) = grown else {
            return refused;
        };
        // SAFETY: the segment reaches to `kept` now.
        let new_end = unsafe { Record::place(old.base, kept) }.cast::<u8>();
        assert!(new_end > end, "growth must raise the end of a heap");
        // SAFETY: `end` is the end of this heap, and the segment reaches to `kept`, so what follows is mapped
        // and ours. Nothing reads the record at `end` any more, as there is a copy. What is taken back from
        // the queue was in use and is not said to be zero; all else that is new comes from the arena, whose
        // memory is zero if `is_zeroed` says so.
        let reached = unsafe {
            if !self.source.is_zeroed || kept <= old.size {
                self.extend(end, new_end.as_ptr())
            } else if old.kept < old.size {
                let zero_from = old.base.byte_add(old.size);
                self.extend_zeroed(end, new_end.as_ptr(), zero_from.as_ptr())
            } else {
                end.write_bytes(0, RECORD);
                self.extend_zeroed(end, new_end.as_ptr(), end.as_ptr())
            }
        };
        assert_eq!(reached, new_end, "where a heap at {:p} ends", old.base);
        let size = old.size.max(kept);
        // SAFETY: the record was copied, and its new place is where Talc's heap ends.
        unsafe { self.source.rekeep(old, kept, size) };
        Growth::Grown
    }

    /// Claims another heap in which `layout` fits. Returns whether it did.
    ///
    /// An alignment above the quantum takes no more pages than any other: the segment is placed so that the
    /// block lies right above what the heap needs for itself.
    pub(super) fn claim_another(&mut self, arena: &Arena<'a, 'a, A, L>, layout: Layout) -> bool {
        let quantum = arena.quantum();
        let (align, overhead) = (layout.align(), self.lowest_allocation_in_next_heap());
        let first = overhead.next_multiple_of(align.min(quantum).max(CHUNK_UNIT));
        let demanded = chunk_size(layout.size())
            .and_then(|size| size.checked_add(RECORD)?.checked_add(first))
            .and_then(|size| size.checked_next_multiple_of(quantum));
        let Some(demanded) = demanded else {
            return false;
        };
        let step = self.source.growth(arena);

        let taken_back = self.source.take_back_heap(|base, size| {
            end_above(base + overhead, layout)
                .and_then(|end| end.checked_add(RECORD))
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
        let record = unsafe { Record::place(base, size) };
        // SAFETY: the segment is memory that nobody else uses, as `ArenaSource::new` demands.
        let end = unsafe {
            if is_zeroed {
                self.claim_zeroed(base.as_ptr(), size - RECORD)
            } else {
                self.claim(base.as_ptr(), size - RECORD)
            }
        };
        assert_eq!(
            end,
            Some(record.cast()),
            "where a heap in {size} bytes at {base:p} ends"
        );
        // SAFETY: a heap was claimed, and the flag in the first stays until it is seen to be set.
        unsafe {
            let flag = self.is_gone();
            self.source.bond.fasten(&mut self.tie, flag);
        }
        // SAFETY: the bytes above the heap's end are ours and aligned.
        unsafe { Record::new(base, size, self.source.bond).write_to(record) };
        // SAFETY: the record was written above, and is in no list.
        unsafe { self.source.heaps.push(record) };
        self.source.account(size, 0);
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
        if !self.source.bond.serves(&self.tie) {
            return;
        }
        let mut next = self.source.heaps.first();
        while let Some(record) = next {
            // SAFETY: `record` is in the list.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
            let Some(old) = (unsafe { Record::sound(record) }) else {
                self.note_damaged_record(record.addr().get());
                break;
            };
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
                unsafe { self.source.rekeep(old, kept, size) };
            }
        }
        self.source.step = Step::new();
        self.source.account(0, 0);
    }

    /// The live heaps, the one that grows first in front, up to a record that is damaged. O(1) for each.
    pub fn arena_heaps(&self) -> impl Iterator<Item = ArenaHeap> + '_ {
        let mut next = self.source.heaps.first();
        core::iter::from_fn(move || {
            let record = next?;
            // SAFETY: `record` is in the list, which does not change while `self` is borrowed.
            next = unsafe { self.source.heaps.after(record) };
            // SAFETY: a record in the list is live, and nothing writes to it while it is copied.
            let found = unsafe { Record::sound(record) }?;
            let Record {
                base, size, kept, ..
            } = found;
            Some(ArenaHeap {
                base,
                end: record.cast(),
                kept,
                size,
            })
        })
    }
}

impl<R: RawMutex, A: Allocator, L: Lock, B: Binning> TalcGuard<'_, R, ArenaSource<'_, A, L>, B> {
    /// Queues all that is free at the tops of heaps. See [`Talc::trim`].
    pub fn trim(&mut self) {
        // SAFETY: the allocator and its source stay what they are.
        unsafe { self.as_mut() }.trim();
    }
}

/// What became of an attempt to grow a heap.
pub(super) enum Growth {
    /// The heap is larger.
    Grown,
    /// It is not, but the layout fits in the free memory at its top.
    Fits,
    /// It is not, and the layout does not fit there.
    Refused,
}

/// Allocates a segment of `size` bytes whose address `first` bytes above its base, or the first multiple of
/// the quantum from there on, is a multiple of `align`.
fn segment<A: Allocator, L: Lock>(
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

/// Where a block of `layout` ends at the latest, tag included, when it is cut from the bottom of free memory
/// that begins at the address `top`. `None` when that is beyond the address space.
fn end_above(top: usize, layout: Layout) -> Option<usize> {
    let base = top.checked_next_multiple_of(layout.align().max(CHUNK_UNIT))?;
    base.checked_add(chunk_size(layout.size())?)
}

/// The most bytes that a chunk for `size` bytes takes.
fn chunk_size(size: usize) -> Option<usize> {
    let size = size
        .checked_add(CHUNK_OVERHEAD)?
        .checked_next_multiple_of(CHUNK_UNIT)?;
    Some(size.max(2 * CHUNK_UNIT))
}
