//! Pages inside heaps go back to the source of the arena, and leave holes.

use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::hole::{Extent, HOLE_OVERHEAD, HoleRef};
use crate::patience;
use crate::span::Span;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::carve::{GapCursor, MAKES_HOLES, UNTAGGED_ALIGN};
use crate::talc::sync::TalcLock;
use crate::vmem::{Lock, TagSupply};

/// The number of gaps that are examined while the lock is held.
const MAX_EXAMINED: usize = 8;

/// The smallest quantum of an arena in whose heaps holes are made, in bytes: a record of a heap
/// must fit below the lowest.
const MIN_QUANTUM: usize = 256;

/// Which gaps give pages back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those that the last pass has seen with the same bounds.
    Idle,
}

/// A hole that is being made, or enlarged.
///
/// ```text
///     the hole below: lower               gap                    the hole above: upper
///     ├─ not memory ─┼─ record ─┼─────────────────────┼─ not memory ──────┼─ record ─┤
///                    ├─ from ──────────────────── to ─┤
///     ├─ afterwards: one hole ────────────────────────────────────────────┼─ record ─┤
/// ```
///
/// `lower` and `upper` may be absent. Without `upper` the record lies in the gap, or in the table.
struct PendingHole {
    from: NonNull<u8>,
    to: NonNull<u8>,
    /// The hole as it will be, marked as busy.
    hole: HoleRef,
    /// The base of the chunk that was carved from the gap.
    carved_base: NonNull<u8>,
    /// The hole below, and the extent that it had.
    lower: Option<(HoleRef, Extent)>,
    /// The base of the hole above.
    upper: Option<NonNull<u8>>,
}

impl PendingHole {
    /// Returns the hole below, if its record is in the table, and is not that of the whole. (Any
    /// other record may lie in pages that were given back.)
    fn lower_in_table(&self) -> Option<HoleRef> {
        let (lower, extent) = self.lower?;
        let is_in_table = lower.record() != extent.pages_end;
        (is_in_table && lower != self.hole).then_some(lower)
    }
}

/// What was found while the lock was held.
enum Step {
    Found(PendingHole),
    /// Nothing yet.
    GoOn,
    Finished,
}

/// Why pages of a gap cannot become a hole.
enum Refused {
    /// No whole page is free.
    NoPage,
    /// The hole beside the gap is being changed.
    Busy,
}

/// How often a call that wants all pages begins anew because holes beside gaps were busy. (It may
/// have interrupted the code that has them: then it would wait for ever.)
const MAX_WAITS: usize = 64;

impl<'a, R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcLock<R, ArenaSource<'a, A, L>, B> {
    /// Gives back all whole pages inside the heaps that hold no block, if the source of the arena
    /// [supports](crate::vmem::Source::discard) it, and has no coarser quantum than the arena.
    /// Returns their bytes.
    ///
    /// ```text
    ///     page boundaries     ┊          ┊          ┊          ┊          ┊
    ///     before    ├─ block ─┼────┬─ free ─────────────────────────┬─ block ─┤
    ///     after     ├─ block ─┼─ free ───┼─ hole ───┴──────────┼─ free ─ block ─┤
    /// ```
    ///
    /// The addresses of a hole stay the heap's. An allocation for which nothing else has room
    /// restores as much of a hole as it needs.
    ///
    /// For each hole the lock is held for a bounded time, twice. (So, of each free list at most 256
    /// gaps without a whole page are passed.) The source is called without the lock, with
    /// interrupts as the caller has them. Does not change the tops of heaps: [`trim`](Talc::trim)
    /// does.
    ///
    /// Holes on both sides of a gap join with it only when it gives its pages back too. So when an
    /// allocation fails, trim, punch and drain the heap, and try once more.
    ///
    /// With the feature `hardened`, this does nothing: free memory is filled with a pattern, which
    /// is checked.
    #[doc(alias("madvise", "purge", "scavenge"))]
    pub fn punch(&self) -> usize {
        self.punch_gaps(Which::All, MAX_WAITS)
    }

    /// Does what [`punch`](Self::punch) does, but never waits for others that change holes: they
    /// may wait for the code that calls this function.
    pub(crate) fn punch_without_waiting(&self) -> usize {
        self.punch_gaps(Which::All, 0)
    }

    /// Gives back what has been free since the last call: pages inside the heaps, as
    /// [`punch`](Self::punch) does, and free memory at the tops of heaps, which waits for
    /// [`drain`](Self::drain). Returns the bytes of the former.
    ///
    /// To be called at intervals: a quarter of a second, for instance, or 2,000 operations. Memory
    /// that is freed and allocated again within an interval then stays mapped. Of a gap that has
    /// changed nothing goes back. The heap that grows keeps as much of its top as was in use in the
    /// interval, and as much more as its use has grown by. A bounded number of gaps are remembered:
    /// if there are more, the rest follows after later calls.
    pub fn decay(&self) -> usize {
        self.trim_keeping(|talc| {
            talc.source.idle.begin_pass();
            talc.begin_interval()
        });
        self.punch_gaps(Which::Idle, 0)
    }

    fn punch_gaps(&self, which: Which, mut waits: usize) -> usize {
        let mut bytes = 0;
        let mut cursor = None;
        let mut is_beside_busy = false;
        loop {
            let mut guard = self.lock();
            // SAFETY: neither the allocator nor its source is replaced or dropped.
            let talc = unsafe { guard.as_mut() };
            let is_owner = talc.source.owner.is_bound_to(&talc.owner_token);
            let arena = talc.source.arena.filter(|arena| {
                let has_pages = arena.imports_by_quantum() && arena.quantum() >= MIN_QUANTUM;
                is_owner && MAKES_HOLES && has_pages
            });
            let Some(arena) = arena else {
                return bytes;
            };
            let step = talc.begin_hole(&mut cursor, which, arena.quantum(), &mut is_beside_busy);
            drop(guard);
            let pending = match step {
                Step::Found(pending) => pending,
                Step::GoOn => continue,
                Step::Finished if is_beside_busy && waits > 0 => {
                    patience::pause();
                    (cursor, is_beside_busy) = (None, false);
                    waits -= 1;
                    continue;
                }
                Step::Finished => return bytes,
            };
            let size = pending.to.addr().get() - pending.from.addr().get();
            // If the arena unwinds, the hole stays busy: nothing uses its range any more.
            let result = arena.discard(pending.from.addr().get(), size);
            let mut guard = self.lock();
            // SAFETY: neither the allocator nor its source is replaced or dropped.
            let talc = unsafe { guard.as_mut() };
            talc.finish_hole(&pending, result.is_ok());
            match result {
                Ok(()) => bytes += size,
                Err(crate::vmem::Error::NotSupported) => return bytes,
                // The gap is the first of its list again. Others may give pages back.
                Err(_) => cursor = cursor.map(|at| at.after_one().bounded()),
            }
        }
    }
}

impl<A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'_, A, L>, B> {
    /// Looks for a gap with pages to give back, from the cursor on, and makes these pages a part of
    /// a hole that is busy.
    ///
    /// `is_beside_busy` becomes true if a gap was passed whose neighbour is busy.
    fn begin_hole(
        &mut self,
        cursor: &mut Option<GapCursor>,
        which: Which,
        quantum: usize,
        is_beside_busy: &mut bool,
    ) -> Step {
        // The rest of a page whose lowest bytes are the tag of a hole, or also its record, can go
        // back with them.
        let smallest = quantum - HOLE_OVERHEAD;
        let start = *cursor.get_or_insert_with(|| self.gap_cursor(smallest));
        let mut examined = 0;
        let mut found = None;
        for (gap, at) in self.large_gaps_from(start).take(MAX_EXAMINED) {
            examined += 1;
            let plan = gap.and_then(|gap| match self.plan_hole(gap, quantum) {
                Ok(plan) => Some((gap, plan)),
                Err(Refused::NoPage) => None,
                Err(Refused::Busy) => {
                    *is_beside_busy = true;
                    None
                }
            });
            if let Some((gap, plan)) = plan {
                if which == Which::All || self.source.idle.is_idle(gap) {
                    // The gap leaves its list.
                    *cursor = Some(at.before_one());
                    found = Some((gap, plan));
                    break;
                }
            }
            *cursor = Some(at.bounded());
        }
        match found {
            Some((gap, plan)) => {
                self.source.transit.begin();
                Step::Found(self.carve_hole(gap, plan))
            }
            None if examined < MAX_EXAMINED => Step::Finished,
            None => Step::GoOn,
        }
    }

    /// Returns how pages of a gap can become a hole, if at least one can.
    ///
    /// # Errors
    /// Returns why none can.
    fn plan_hole(&self, gap: Span, quantum: usize) -> Result<Plan, Refused> {
        let base = NonNull::new(gap.base()).ok_or(Refused::NoPage)?;
        let end = NonNull::new(gap.end()).ok_or(Refused::NoPage)?;
        let holes = &self.source.holes;
        let (lower, upper) = (holes.ending_at(base), holes.beginning_at(end));
        if lower.into_iter().chain(upper).any(HoleRef::is_busy) {
            return Err(Refused::Busy);
        }
        let from = match lower {
            Some(lower) => lower.pages_end(),
            None => {
                let from = base.addr().get().checked_next_multiple_of(quantum);
                with_address(base, from.ok_or(Refused::NoPage)?)
            }
        };
        let is_untagged = upper.is_none()
            && end.addr().get() % quantum == 0
            && quantum % UNTAGGED_ALIGN == 0
            && (holes.has_spare() || lower.is_some_and(HoleRef::is_in_table));
        let to = if upper.is_some() || is_untagged {
            end
        } else {
            let highest = end.addr().get().checked_sub(HOLE_OVERHEAD);
            let highest = highest.ok_or(Refused::NoPage)?;
            with_address(end, highest / quantum * quantum)
        };
        if from >= to {
            return Err(Refused::NoPage);
        }
        Ok(Plan {
            from,
            to,
            lower,
            upper,
            is_untagged,
        })
    }

    /// Carves the chunk for a plan, and enters the hole as busy.
    fn carve_hole(&mut self, gap: Span, plan: Plan) -> PendingHole {
        let Plan {
            from,
            to,
            lower,
            upper,
            is_untagged,
        } = plan;
        // SAFETY: a gap is not null.
        let gap_base = unsafe { NonNull::new_unchecked(gap.base()) };
        let carved_base = if lower.is_some() { gap_base } else { from };
        let carved_end = if upper.is_some() || is_untagged {
            to
        } else {
            // SAFETY: the plan leaves room for the record in the gap.
            unsafe { to.byte_add(HOLE_OVERHEAD) }
        };
        // SAFETY: the gap is in its list. Both ends of the chunk lie in it, at least a page apart
        // or, above a lower hole, as far apart as the gap is large.
        unsafe { self.carve(gap_base, carved_base, carved_end) };
        let holes = &mut self.source.holes;
        for hole in lower.into_iter().chain(upper) {
            holes.remove(hole);
        }
        if is_untagged {
            self.note_untagged();
        }
        let holes = &mut self.source.holes;
        let in_table = match lower.filter(|lower| lower.is_in_table()) {
            _ if !is_untagged => None,
            Some(lower) => Some(lower.record()),
            None => holes.take_spare(),
        };
        let extent = Extent {
            base: lower.map_or(from, HoleRef::base),
            pages_end: upper.map_or(to, HoleRef::pages_end),
            chunk_end: upper.map_or(carved_end, HoleRef::chunk_end),
        };
        let upper_base = upper.map(HoleRef::base);
        let record = upper.map(HoleRef::record).or(in_table).unwrap_or(to);
        let pending = PendingHole {
            from,
            to,
            carved_base,
            lower: lower.map(|lower| (lower, lower.extent())),
            upper: upper_base,
            // SAFETY: the record is that of the upper hole, or one of the table, or lies in the
            // carved chunk.
            hole: unsafe { HoleRef::new(record, extent, true) },
        };
        holes.insert(pending.hole);
        pending
    }

    /// Ends what [`carve_hole`](Self::carve_hole) has begun. Unless the pages went back, all is as
    /// before.
    fn finish_hole(&mut self, pending: &PendingHole, is_discarded: bool) {
        let &PendingHole {
            to,
            hole,
            carved_base,
            lower,
            upper,
            ..
        } = pending;
        self.source.transit.end(is_discarded);
        let holes = &mut self.source.holes;
        if is_discarded {
            self.source.has_holes = true;
            holes.update(hole, hole.base(), false);
            if let Some(lower) = pending.lower_in_table() {
                holes.forget(lower);
            }
            return;
        }
        holes.remove(hole);
        // The chunk above may have been freed meanwhile, and have given a unit.
        let Extent { chunk_end, .. } = hole.extent();
        if let Some((lower, extent)) = lower {
            // SAFETY: the record is in the table, or in pages that were not given back.
            holes.insert(unsafe { HoleRef::new(lower.record(), extent, false) });
        }
        let carved_end = if let Some(base) = upper {
            let extent = Extent {
                base,
                ..hole.extent()
            };
            // SAFETY: the record of the upper hole is where it was.
            holes.insert(unsafe { HoleRef::new(hole.record(), extent, false) });
            to
        } else {
            // The hole below is in the tree again, with this record if it was used for the whole.
            if lower.is_none_or(|(lower, _)| lower != hole) {
                holes.forget(hole);
            }
            chunk_end
        };
        // SAFETY: the chunk was carved for this hole, and all of it is still memory.
        unsafe { self.uncarve(carved_base, carved_end) };
    }
}

/// The pages of a gap that can become a hole: see [`PendingHole`].
struct Plan {
    from: NonNull<u8>,
    to: NonNull<u8>,
    lower: Option<HoleRef>,
    upper: Option<HoleRef>,
    /// Whether the hole ends where the gap does, at a page boundary.
    is_untagged: bool,
}

/// Returns a pointer with the provenance of `pointer`, at a higher or lower address of the same
/// gap.
fn with_address(pointer: NonNull<u8>, address: usize) -> NonNull<u8> {
    let moved = pointer.as_ptr().with_addr(address);
    NonNull::new(moved).unwrap_or(pointer)
}
