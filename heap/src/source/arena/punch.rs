//! Pages inside heaps go back to the source of the arena, and leave holes.

use core::ptr::NonNull;

use lock_api::RawMutex;

use super::ArenaSource;
use super::heaps::Keep;
use super::hole::{HOLE_OVERHEAD, HoleRef};
use crate::span::Span;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::carve::{GapCursor, MAKES_HOLES};
use crate::talc::sync::TalcLock;
use crate::vmem::{Lock, TagSupply};

/// The number of gaps that are examined while the lock is held.
const MAX_EXAMINED: usize = 32;

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
/// `lower` and `upper` may be absent. Without `upper` the record lies in the gap.
struct PendingHole {
    from: NonNull<u8>,
    to: NonNull<u8>,
    /// The hole as it will be, marked as busy.
    hole: HoleRef,
    /// The chunk that was carved from the gap.
    carved: (NonNull<u8>, NonNull<u8>),
    /// The base and the record of the hole below.
    lower: Option<(NonNull<u8>, NonNull<u8>)>,
    /// The base of the hole above.
    upper: Option<NonNull<u8>>,
}

/// What was found while the lock was held.
enum Step {
    Found(PendingHole),
    /// Nothing yet.
    GoOn,
    Finished,
}

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
        self.punch_gaps(Which::All)
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
        {
            let mut guard = self.lock();
            // SAFETY: neither the allocator nor its source is replaced or dropped.
            let talc = unsafe { guard.as_mut() };
            talc.trim_to(Keep::ForInterval);
            talc.source.idle.begin_pass();
        }
        self.punch_gaps(Which::Idle)
    }

    fn punch_gaps(&self, which: Which) -> usize {
        let mut bytes = 0;
        let mut cursor = None;
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
            let step = talc.begin_hole(&mut cursor, which, arena.quantum());
            drop(guard);
            let pending = match step {
                Step::Found(pending) => pending,
                Step::GoOn => continue,
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
    fn begin_hole(&mut self, cursor: &mut Option<GapCursor>, which: Which, quantum: usize) -> Step {
        let start = *cursor.get_or_insert_with(|| self.gap_cursor(quantum));
        let mut examined = 0;
        let mut found = None;
        for (gap, at) in self.large_gaps_from(start).take(MAX_EXAMINED) {
            examined += 1;
            let plan = gap.and_then(|gap| Some((gap, self.plan_hole(gap, quantum)?)));
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
            Some((gap, plan)) => Step::Found(self.carve_hole(gap, plan)),
            None if examined < MAX_EXAMINED => Step::Finished,
            None => Step::GoOn,
        }
    }

    /// Returns how pages of a gap can become a hole, if at least one can.
    fn plan_hole(&self, gap: Span, quantum: usize) -> Option<Plan> {
        let base = NonNull::new(gap.base())?;
        let end = NonNull::new(gap.end())?;
        let holes = &self.source.holes;
        let (lower, upper) = (holes.ending_at(base), holes.beginning_at(end));
        if lower.into_iter().chain(upper).any(HoleRef::is_busy) {
            return None;
        }
        let from = match lower {
            Some(lower) => lower.record(),
            None => with_address(base, base.addr().get().checked_next_multiple_of(quantum)?),
        };
        let to = match upper {
            Some(_) => end,
            None => {
                let highest = end.addr().get().checked_sub(HOLE_OVERHEAD)?;
                with_address(end, highest / quantum * quantum)
            }
        };
        (from < to).then_some(Plan {
            from,
            to,
            lower,
            upper,
        })
    }

    /// Carves the chunk for a plan, and enters the hole as busy.
    fn carve_hole(&mut self, gap: Span, plan: Plan) -> PendingHole {
        let Plan {
            from,
            to,
            lower,
            upper,
        } = plan;
        // SAFETY: a gap is not null.
        let gap_base = unsafe { NonNull::new_unchecked(gap.base()) };
        let carved_base = if lower.is_some() { gap_base } else { from };
        let carved_end = match upper {
            Some(_) => to,
            // SAFETY: the plan leaves room for the record in the gap.
            None => unsafe { to.byte_add(HOLE_OVERHEAD) },
        };
        // SAFETY: the gap is in its list. Both ends of the chunk lie in it, at least a page apart
        // or, above a lower hole, as far apart as the gap is large.
        unsafe { self.carve(gap_base, carved_base, carved_end) };
        let holes = &mut self.source.holes;
        for hole in lower.into_iter().chain(upper) {
            holes.remove(hole);
        }
        let pending = PendingHole {
            from,
            to,
            carved: (carved_base, carved_end),
            lower: lower.map(|lower| (lower.base(), lower.record())),
            upper: upper.map(HoleRef::base),
            // SAFETY: the record is that of the upper hole, or lies in the carved chunk.
            hole: unsafe {
                HoleRef::new(
                    lower.map_or(from, HoleRef::base),
                    upper.map_or(to, HoleRef::record),
                    true,
                )
            },
        };
        holes.insert(pending.hole);
        pending
    }

    /// Ends what [`carve_hole`](Self::carve_hole) has begun. Unless the pages went back, all is as
    /// before.
    fn finish_hole(&mut self, pending: &PendingHole, is_discarded: bool) {
        let holes = &mut self.source.holes;
        if is_discarded {
            self.source.has_holes = true;
            holes.update(pending.hole, pending.hole.base(), false);
            return;
        }
        holes.remove(pending.hole);
        if let Some((base, record)) = pending.lower {
            // SAFETY: the pages with the record of the lower hole were not given back.
            holes.insert(unsafe { HoleRef::new(base, record, false) });
        }
        if let Some(base) = pending.upper {
            // SAFETY: the record of the upper hole is where it was.
            holes.insert(unsafe { HoleRef::new(base, pending.hole.record(), false) });
        }
        let (base, end) = pending.carved;
        // SAFETY: the chunk was carved for this hole, and all of it is still memory.
        unsafe { self.uncarve(base, end) };
    }
}

/// The pages of a gap that can become a hole: see [`PendingHole`].
struct Plan {
    from: NonNull<u8>,
    to: NonNull<u8>,
    lower: Option<HoleRef>,
    upper: Option<HoleRef>,
}

/// Returns a pointer with the provenance of `pointer`, at a higher or lower address of the same
/// gap.
fn with_address(pointer: NonNull<u8>, address: usize) -> NonNull<u8> {
    let moved = pointer.as_ptr().with_addr(address);
    NonNull::new(moved).unwrap_or(pointer)
}
