//! How the source gets memory: in three steps, of which the long one needs no lock.
//!
//! ```text
//!     begin_growth    under the lock    chooses what to get, and reserves it
//!     perform         without it        the arena maps pages
//!     finish_growth   under the lock    the allocator gets them, or all is as before
//! ```
//!
//! Other calls come between the steps, from other CPUs and from interrupt handlers. What is
//! reserved is marked, and they leave it alone:
//!
//! | reserved | mark |
//! |---|---|
//! | a hole | it is busy |
//! | the end of a heap | its record is in the state [`ReleaseState::GROWING`] |
//! | a segment from the release queue | it is in no list |
//! | another segment | only this call knows it |

use core::alloc::Layout;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::hole::{HoleRef, TABLE_SIZE};
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use crate::talc::MAX_GAP;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, ChunkRequirement, Talc};
use crate::talc::carve::{MAKES_HOLES, UNTAGGED_ALIGN};
use crate::talc::sync::TalcLock;
use crate::vmem::{self, AllocPolicy, Arena, Lock, TagSupply};

/// Where memory is looked for, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In a hole, a part of which becomes memory again.
    Hole,
    /// Above the heap that was claimed last, which grows in place.
    Above,
    /// In the segment of a heap that was deleted, and whose pages have not gone back yet.
    Queue,
    /// In another segment of the arena.
    Arena,
}

/// What a call does whose layout fits at the top of the heap that was claimed last, if that heap
/// cannot grow. (The allocator has searched only some gaps so far.)
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFits {
    /// It refuses, and the allocator searches all gaps.
    Refuse,
    /// It gets memory elsewhere: others have taken that gap before the allocator found it.
    GoOn,
}

/// Memory that is being got. The two `sizes` are what is preferred, and what the layout requires.
enum Growth {
    Hole {
        hole: HoleRef,
        /// The base of the hole. (Its record must be read under the lock only.)
        base: NonNull<u8>,
        sizes: [usize; 2],
    },
    Above(GrowthAbove),
    Queue {
        record: NonNull<SegmentRecord>,
        base: NonNull<u8>,
        size: usize,
        has_holes: bool,
    },
    Arena {
        sizes: [usize; 2],
        align: usize,
        /// How far above the base of the segment the block lies.
        first: usize,
    },
}

/// Growth of a heap in place.
struct GrowthAbove {
    record: NonNull<SegmentRecord>,
    /// The record as it was: its sizes do not change meanwhile.
    old: SegmentRecord,
    /// What the heap is to retain.
    sizes: [usize; 2],
    /// Whether to refuse if the heap cannot grow, because the layout fits in it as it is.
    refuses: bool,
    /// Whether there may be holes among the pages of the release queue.
    has_holes: bool,
}

/// What the arena has given: a base and a size in bytes.
type Granted = (NonNull<u8>, usize);

impl Growth {
    /// Gets the memory from the arena. Returns `None` if it has too little.
    fn perform<A: TagSupply, L: Lock>(&self, arena: &Arena<'_, '_, A, L>) -> Option<Granted> {
        match *self {
            Growth::Hole { base, sizes, .. } => sizes
                .into_iter()
                .find(|&size| arena.restore(base.addr().get(), size).is_ok())
                .map(|size| (base, size)),
            Growth::Above(GrowthAbove {
                old,
                sizes,
                has_holes,
                ..
            }) => {
                let base = old.base.addr().get();
                let is_grown = |retained: usize| {
                    // Pages in the release queue are still mapped, unless a hole was among them.
                    let queued = retained.min(old.size) - old.retained;
                    let may_be_hole = has_holes && queued != 0;
                    if may_be_hole && !restore(arena, base + old.retained, queued) {
                        return false;
                    }
                    let is_grown = retained <= old.size || arena.resize(base, retained).is_ok();
                    if may_be_hole && !is_grown {
                        // Another heap may need this memory. The pages are in no use, and
                        // `has_holes` says that they may not be memory.
                        let _ = arena.discard(base + old.retained, queued);
                    }
                    is_grown
                };
                sizes
                    .into_iter()
                    .filter(|&retained| retained > old.retained && retained < MAX_GAP)
                    .find(|&retained| is_grown(retained))
                    .map(|retained| (old.base, retained))
            }
            Growth::Queue {
                base,
                size,
                has_holes,
                ..
            } => (!has_holes || restore(arena, base.addr().get(), size)).then_some((base, size)),
            Growth::Arena {
                sizes,
                align,
                first,
            } => sizes
                .into_iter()
                .filter(|&size| size < MAX_GAP)
                .find_map(|size| allocate_segment(arena, size, align, first)),
        }
    }
}

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Implements [`Source::acquire`](crate::talc::source::Source::acquire).
    pub(super) fn acquire_locked(&mut self, layout: Layout) -> Result<(), ()> {
        let mut place = Some(Place::Hole);
        while let Some(from) = place {
            let begun = self.begin_growth(from, layout, WhenFits::Refuse);
            let (arena, growth) = begun.ok_or(())?;
            let granted = growth.perform(arena);
            match self.finish_growth(&growth, granted, arena) {
                Ok(()) => return Ok(()),
                Err(next) => place = next,
            }
        }
        Err(())
    }

    /// Chooses a place where memory for `layout` may be had, and reserves it: the first from `from`
    /// on.
    fn begin_growth(
        &mut self,
        from: Place,
        layout: Layout,
        when_fits: WhenFits,
    ) -> Option<(&'a Arena<'a, 'a, A, L>, Growth)> {
        let arena = self.source.arena?;
        if !self.source.owner.is_bound_to(&self.owner_token) {
            return None;
        }
        let growth = self.reserve_growth(from, layout, when_fits, arena)?;
        self.source.transit.begin();
        Some((arena, growth))
    }

    /// Chooses a place and reserves it, for [`begin_growth`](Self::begin_growth).
    fn reserve_growth(
        &mut self,
        from: Place,
        layout: Layout,
        when_fits: WhenFits,
        arena: &Arena<'a, 'a, A, L>,
    ) -> Option<Growth> {
        let quantum = arena.quantum();
        if from <= Place::Hole {
            if let Some((hole, sizes)) = self.choose_hole(layout, quantum) {
                self.source.holes.update(hole, hole.base(), true);
                let base = hole.base();
                return Some(Growth::Hole { hole, base, sizes });
            }
        }
        if from <= Place::Above {
            if let Some(growth) = self.plan_growth_above(layout, quantum, when_fits) {
                // SAFETY: records in the list are live.
                if unsafe { self.source.begin_growing(growth.record) } {
                    return Some(Growth::Above(growth));
                }
                if growth.refuses {
                    // The allocator then searches all gaps, and finds the one at the top.
                    return None;
                }
            }
        }
        self.plan_heap(from, layout, arena)
    }

    /// Plans to grow the heap that was claimed last in place, so that `layout` fits at its top.
    ///
    /// Growth only raises the end of a heap: below the end lies memory that the allocator uses.
    fn plan_growth_above(
        &mut self,
        layout: Layout,
        quantum: usize,
        when_fits: WhenFits,
    ) -> Option<GrowthAbove> {
        let record = self.source.heaps.first()?;
        // SAFETY: records in the list are live.
        let Some(old) = (unsafe { SegmentRecord::read(record) }) else {
            self.note_damaged_record(record.addr().get());
            return None;
        };
        let end = record.cast::<u8>();
        if !self.validate_heap_end(end) {
            return None;
        }
        // SAFETY: a heap ends where its record begins.
        let top = unsafe { self.reserved(end) }.up_to;
        let required = ChunkRequirement::new(layout)
            .end_above(top.addr().get())?
            .checked_add(RECORD_SIZE)?
            .checked_sub(old.base.addr().get())?
            .checked_next_multiple_of(quantum)?;
        let growth = self.source.growth(quantum);
        let preferred = old.retained.saturating_add(growth).max(required);
        Some(GrowthAbove {
            record,
            old,
            sizes: [preferred, required],
            refuses: required <= old.retained && when_fits == WhenFits::Refuse,
            has_holes: self.source.has_holes,
        })
    }

    /// Plans another heap in which `layout` fits.
    ///
    /// Alignments above the quantum cost no pages: the segment is placed so that the block lies
    /// directly above the overhead of the heap.
    fn plan_heap(
        &mut self,
        from: Place,
        layout: Layout,
        arena: &Arena<'a, 'a, A, L>,
    ) -> Option<Growth> {
        let quantum = arena.quantum();
        let (align, overhead) = (layout.align(), self.next_overhead(arena));
        let first = overhead.next_multiple_of(align.min(quantum).max(CHUNK_UNIT));
        let requirement = ChunkRequirement::new(layout);
        let required = first
            .checked_add(requirement.chunk_size())?
            .checked_add(RECORD_SIZE)?
            .checked_next_multiple_of(quantum)?;
        let growth = self.source.growth(quantum);
        if from <= Place::Queue {
            let reused = self.source.reuse_queued_heap(|base, size| {
                requirement
                    .end_above(base + overhead)
                    .and_then(|end| end.checked_add(RECORD_SIZE))
                    .is_some_and(|end| end - base <= size)
            });
            if let Some((record, base, size)) = reused {
                let has_holes = self.source.has_holes;
                return Some(Growth::Queue {
                    record,
                    base,
                    size,
                    has_holes,
                });
            }
        }
        Some(Growth::Arena {
            sizes: [required.max(growth), required],
            align,
            first,
        })
    }

    /// Gives the allocator what the arena has given. If that is nothing, leaves all as it was
    /// before [`begin_growth`](Self::begin_growth), and returns where to look next.
    fn finish_growth(
        &mut self,
        growth: &Growth,
        granted: Option<Granted>,
        arena: &Arena<'a, 'a, A, L>,
    ) -> Result<(), Option<Place>> {
        self.source.transit.end(granted.is_some());
        self.forget_restored();
        match *growth {
            Growth::Hole { hole, .. } => {
                let Some((_, size)) = granted else {
                    self.source.holes.update(hole, hole.base(), false);
                    return Err(Some(Place::Above));
                };
                self.fill_hole(hole, size);
                return Ok(());
            }
            Growth::Above(GrowthAbove {
                record, refuses, ..
            }) => {
                // SAFETY: the record stays where it is while its heap grows.
                let is_grown = unsafe { self.raise_end(record, granted.map(|(_, size)| size)) };
                if !is_grown {
                    return Err((!refuses).then_some(Place::Queue));
                }
            }
            Growth::Queue { record, .. } => {
                let Some((base, size)) = granted else {
                    // SAFETY: the record was in the queue, and its state still says so.
                    unsafe { self.source.release_queue.push_front(record) };
                    return Err(Some(Place::Arena));
                };
                // The segment was in use, and is not zero.
                // SAFETY: the segment belongs to the source, and nothing uses it.
                unsafe { self.claim_segment(base, size, false, arena) };
            }
            Growth::Arena { .. } => {
                let (base, size) = granted.ok_or(None)?;
                // SAFETY: the segment was just allocated. It is zero if the source is of zeroed
                // memory, as its caller has promised.
                unsafe { self.claim_segment(base, size, self.source.is_zeroed, arena) };
            }
        }
        self.source.policy.record_growth();
        self.source.update_claimed(0, 0);
        Ok(())
    }

    /// Extends the allocator's heap to a segment that was extended so that the heap can retain
    /// `retained` bytes, or to none. Returns whether the heap has grown.
    ///
    /// # Safety
    /// `record` is that of a heap that [grows](ReleaseState::GROWING).
    unsafe fn raise_end(
        &mut self,
        record: NonNull<SegmentRecord>,
        retained: Option<usize>,
    ) -> bool {
        let end = record.cast::<u8>();
        let is_valid = self.validate_heap_end(end);
        // SAFETY: the record is live, and in the state `GROWING`.
        let Some(old) = (unsafe { self.source.finish_growing(record) }) else {
            self.note_damaged_record(record.addr().get());
            return false;
        };
        let Some(retained) = retained.filter(|_| is_valid) else {
            return false;
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
        true
    }

    /// Returns what the next heap takes below its first block: the first heap has the table of
    /// holes, if it fits into its first page.
    fn next_overhead(&self, arena: &Arena<'a, 'a, A, L>) -> usize {
        let (overhead, quantum) = (self.next_heap_overhead(), arena.quantum());
        let with_table = overhead.next_multiple_of(CHUNK_UNIT) + TABLE_SIZE;
        let may_have_holes = MAKES_HOLES && arena.imports_by_quantum();
        let is_first = !self.is_metadata_established() && may_have_holes;
        let fits =
            quantum % UNTAGGED_ALIGN == 0 && with_table + CHUNK_UNIT + RECORD_SIZE <= quantum;
        if is_first && fits {
            with_table
        } else {
            overhead
        }
    }

    /// Claims a heap that takes a whole segment.
    ///
    /// # Safety
    /// The segment belongs to the source, and nothing uses it. If `is_zeroed`, it is zero.
    unsafe fn claim_segment(
        &mut self,
        base: NonNull<u8>,
        size: usize,
        is_zeroed: bool,
        arena: &Arena<'a, 'a, A, L>,
    ) {
        // SAFETY: the segment has `size` bytes, which leave room for a record.
        let record = unsafe { SegmentRecord::location(base, size) };
        let overhead = self.next_heap_overhead().next_multiple_of(CHUNK_UNIT);
        let has_table = self.next_overhead(arena) > overhead;
        let end = if is_zeroed {
            // SAFETY: the caller guarantees that the segment is zero, and that nothing uses it.
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
        if has_table {
            // SAFETY: the heap's gap begins above the overhead, in the segment.
            let gap = unsafe { base.byte_add(overhead) };
            // SAFETY: the heap's gap begins there, and is larger: `next_overhead` has seen to that.
            unsafe { self.reserve_bottom(gap, TABLE_SIZE) };
            // SAFETY: the chunk was made for the table, in the heap that stays.
            unsafe { self.source.holes.set_table(gap) };
        }
        // SAFETY: a heap was claimed, so the flag exists.
        let flag = unsafe { self.owner_flag() };
        // SAFETY: the source keeps the first heap, which the flag lies in, until the flag is set.
        unsafe { self.source.owner.bind(&mut self.owner_token, flag) };
        // SAFETY: the bytes above the end of the heap belong to the source, and are aligned.
        unsafe { SegmentRecord::new(base, size, self.source.owner).write_to(record) };
        // SAFETY: the record was written above, and is in no list.
        unsafe { self.source.heaps.push_front(record) };
        self.source.update_claimed(size, 0);
    }
}

/// Implements [`Source::acquire_unlocked`](crate::talc::source::Source::acquire_unlocked), and what
/// follows a refusal.
pub(super) fn acquire_unlocked<'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning, T>(
    lock: &TalcLock<R, ArenaSource<'a, A, L>, B>,
    layout: Layout,
    when_fits: WhenFits,
    retry: impl FnOnce(&mut Talc<ArenaSource<'a, A, L>, B>) -> T,
) -> Result<T, ()> {
    let mut retry = Some(retry);
    let mut place = Some(Place::Hole);
    while let Some(from) = place {
        // SAFETY: neither the allocator nor its source is replaced or dropped.
        let begun = unsafe { lock.run_locked(|talc| talc.begin_growth(from, layout, when_fits)) };
        let (arena, growth) = begun.ok_or(())?;
        // If the arena unwinds, what is reserved stays so.
        let granted = growth.perform(arena);
        // SAFETY: as above, and `retry` does not do so either.
        let finished = unsafe {
            lock.run_locked(|talc| {
                talc.finish_growth(&growth, granted, arena)?;
                Ok(retry.take().map(|retry| retry(talc)))
            })
        };
        match finished {
            Ok(result) => return result.ok_or(()),
            Err(next) => place = next,
        }
    }
    Err(())
}

impl<A: TagSupply, L: Lock> ArenaSource<'_, A, L> {
    /// Marks a heap as growing, and takes its record out of the release queue. Returns `false`, and
    /// changes nothing, if another call is changing the segment.
    ///
    /// # Safety
    /// `record` is that of a heap.
    unsafe fn begin_growing(&mut self, record: NonNull<SegmentRecord>) -> bool {
        // SAFETY: the record of a heap is live.
        let state = unsafe { SegmentRecord::read(record) }.map(|record| record.state);
        match state {
            Some(ReleaseState::IDLE) => {}
            // SAFETY: a record in the state `QUEUED` is in the queue.
            Some(ReleaseState::QUEUED) => unsafe { self.release_queue.remove(record) },
            _ => return false,
        }
        // SAFETY: the record is live, and no reference to it exists.
        unsafe { SegmentRecord::update(record, |it| it.state = ReleaseState::GROWING) };
        true
    }

    /// Ends what [`begin_growing`](Self::begin_growing) has begun. Returns a copy of the record,
    /// unless it is damaged.
    ///
    /// # Safety
    /// `record` is that of a heap in the state [`ReleaseState::GROWING`].
    unsafe fn finish_growing(&mut self, record: NonNull<SegmentRecord>) -> Option<SegmentRecord> {
        // SAFETY: the record is live, and no reference to it exists.
        unsafe { SegmentRecord::update(record, |it| it.state = ReleaseState::IDLE) };
        // SAFETY: the record is live, and in no queue.
        unsafe { self.update_queue(record, true) };
        // SAFETY: the record is live.
        unsafe { SegmentRecord::read(record) }
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
) -> Option<Granted> {
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
