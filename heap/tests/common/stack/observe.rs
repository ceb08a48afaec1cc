//! Observes from outside what an operation changed, and counts the situation.

use std::alloc::Layout;

use heap::Span;
use heap::source::{ArenaHeap, DrainError};
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};

use super::SITUATIONS;
use super::actor::{Actor, Doing};
use super::injection::Call;
use super::interrupt::Moment;
use super::situations::Situation::{self, *};
use crate::common::shadow::Block;

/// All state that an operation may change.
pub(crate) struct Snapshot {
    heaps: Vec<ArenaHeap>,
    holes: Vec<Span>,
    /// Where the free range at the top of the first heap begins.
    top: usize,
    allocated: usize,
    extended: usize,
    imported: usize,
    refused_extends: usize,
    refused_imports: usize,
    refused_shrinks: usize,
    refused_releases: usize,
    refused_tags: usize,
    refused_discards: usize,
    refused_restores: usize,
    restored: usize,
    interrupts: u64,
}

impl Snapshot {
    fn find(&self, base: usize) -> Option<&ArenaHeap> {
        self.heaps
            .iter()
            .find(|heap| heap.base.addr().get() == base)
    }
}

/// How a heap changed.
struct Change {
    base: usize,
    before: Option<ArenaHeap>,
    after: Option<ArenaHeap>,
}

impl Change {
    fn retained(&self) -> (usize, usize) {
        let retained = |heap: Option<ArenaHeap>| heap.map_or(0, |heap| heap.retained);
        (retained(self.before), retained(self.after))
    }

    fn is_growth(&self) -> bool {
        self.retained().0 < self.retained().1
    }

    fn is_lower(&self) -> bool {
        self.after.is_some() && self.retained().0 > self.retained().1
    }
}

fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let bases = before.heaps.iter().chain(&after.heaps);
    let mut bases: Vec<_> = bases.map(|heap| heap.base.addr().get()).collect();
    bases.sort_unstable();
    bases.dedup();
    let change = |base| Change {
        base,
        before: before.find(base).copied(),
        after: after.find(base).copied(),
    };
    bases.into_iter().map(change).collect()
}

/// Notes a change by an interrupt at the release of a lock.
fn note_between(interrupted: Option<(Doing, Moment)>, changes: &[Change]) {
    let changed = changes
        .iter()
        .any(|change| change.retained().0 != change.retained().1);
    let Some((doing, moment)) = interrupted else {
        return;
    };
    if moment.call == Call::Unlock && changed {
        SITUATIONS.note(if doing == Doing::Draining {
            DrainBetween
        } else {
            AllocationBetween
        });
    }
}

fn note_if(condition: bool, situation: Situation) {
    SITUATIONS.note_if(condition, situation);
}

impl Actor<'_, '_> {
    /// Takes a snapshot. Returns `None` if other threads change the state too.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        if !self.stack.alone {
            return None;
        }
        let injection = &self.stack.window.injection;
        let talc = self.stack.heap.lock();
        let heaps: Vec<_> = talc.arena_heaps().collect();
        // SAFETY: `heap.end` is the end of a heap of this allocator.
        let top = |heap: &ArenaHeap| unsafe { talc.reserved(heap.end) }.up_to.addr().get();
        Some(Snapshot {
            top: heaps.first().map_or(0, top),
            heaps,
            holes: talc.arena_holes().collect(),
            allocated: self.stack.arena.allocated_space(),
            extended: injection.granted(Call::Extend),
            imported: injection.granted(Call::Import),
            refused_extends: self.refused(Call::Extend),
            refused_imports: self.refused(Call::Import),
            refused_shrinks: self.refused(Call::Shrink),
            refused_releases: self.refused(Call::Release),
            refused_tags: self.refused(Call::Tag),
            refused_discards: self.refused(Call::Discard),
            refused_restores: self.refused(Call::Restore),
            restored: injection.granted(Call::Restore),
            interrupts: self.interrupts.get(),
        })
    }

    /// Returns whether the interrupted call is giving back pages in the range as a hole.
    fn punches_in(&self, base: usize, size: usize) -> bool {
        self.interrupted.get().is_some_and(|(doing, moment)| {
            doing == Doing::Punching
                && moment.call == Call::Discard
                && (base..base + size).contains(&moment.base)
        })
    }

    fn is_punched(&self, change: &Change) -> bool {
        self.punches_in(change.base, change.retained().0)
    }

    /// Returns the heap whose pages the interrupted call is giving back as a hole.
    fn punched_heap(&self, before: &Snapshot) -> Option<usize> {
        let bases = before
            .heaps
            .iter()
            .map(|heap| (heap.base.addr().get(), heap.size));
        bases
            .filter(|&(base, size)| self.punches_in(base, size))
            .map(|(base, _)| base)
            .next()
    }

    pub(crate) fn note_punch(&self, before: Option<Snapshot>, bytes: usize, all: bool) {
        let (Some(before), Some(after)) = (before, self.snapshot()) else {
            return;
        };
        note_if(
            self.punched_heap(&before).is_some() && bytes > 0,
            PunchedNested,
        );
        note_if(
            before.refused_discards < after.refused_discards,
            DiscardRefused,
        );
        note_if(!all && bytes > 0, HoleDecayed);
        for hole in &after.holes {
            let parts = before.holes.iter().filter(|it| hole.contains_span(**it));
            match parts.clone().count() {
                0 => SITUATIONS.note(HoleMade),
                1 => note_if(parts.clone().all(|part| part != hole), HoleGrown),
                _ => SITUATIONS.note(HolesJoined),
            }
        }
    }

    /// Returns the heap for which the interrupted allocation makes this call.
    fn growing_heap<'b>(&self, call: Call, before: &'b Snapshot) -> Option<&'b ArenaHeap> {
        let (doing, moment) = self.interrupted.get()?;
        let is_growth = matches!(doing, Doing::Allocating | Doing::Reallocating);
        let is_inside = |heap: &&ArenaHeap| {
            let base = heap.base.addr().get();
            (base..base + heap.size).contains(&moment.base)
        };
        let heap = before.heaps.iter().find(is_inside)?;
        (is_growth && moment.call == call).then_some(heap)
    }

    /// Notes what happens to a heap at `address` while it grows, or a hole in it is restored.
    fn note_in_growth(
        &self,
        before: &Snapshot,
        address: usize,
        in_growth: Situation,
        in_restore: Situation,
    ) {
        for (call, situation) in [(Call::Extend, in_growth), (Call::Restore, in_restore)] {
            if let Some(heap) = self.growing_heap(call, before) {
                let base = heap.base.addr().get();
                note_if((base..base + heap.retained).contains(&address), situation);
            }
        }
    }

    /// Returns the heap whose pages the interrupted drain is giving back.
    fn drained_heap(&self, call: Call, before: &Snapshot) -> Option<usize> {
        let (doing, moment) = self.interrupted.get()?;
        let is_heap = before.find(moment.base).is_some();
        (doing == Doing::Draining && moment.call == call && (is_heap || call == Call::Release))
            .then_some(moment.base)
    }

    fn is_drain_at_tags(&self) -> bool {
        self.interrupted
            .get()
            .is_some_and(|(doing, moment)| doing == Doing::Draining && moment.call == Call::Tag)
    }

    pub(crate) fn note_allocation(&self, before: Option<Snapshot>, layout: Layout, block: *mut u8) {
        let (Some(before), Some(after)) = (before, self.snapshot()) else {
            return;
        };
        let granted = before.imported < after.imported || before.extended < after.extended;
        let refused = before.refused_imports < after.refused_imports
            || before.refused_extends < after.refused_extends;
        let changes = changes(&before, &after);
        let grew = changes.iter().any(Change::is_growth);
        note_between(self.interrupted.get(), &changes);
        for change in &changes {
            note_growth(change, &before, &after);
        }
        let address = block.addr();
        self.note_in_growth(&before, address, GrowthAllocated, RestoreAllocated);
        let claimed = changes.iter().any(|change| change.before.is_none());
        note_if(
            self.growing_heap(Call::Extend, &before).is_some() && claimed,
            GrowthClaimed,
        );
        let is_import = self.interrupted.get().is_some_and(|(doing, moment)| {
            doing == Doing::Allocating && moment.call == Call::Import
        });
        note_if(is_import && claimed, ImportClaimed);
        let restored = before.restored < after.restored;
        note_if(
            self.growing_heap(Call::Restore, &before).is_some() && (grew || restored),
            RestoreGrew,
        );
        let was_interrupted = before.interrupts != after.interrupts;
        note_if(
            was_interrupted && before.refused_extends < after.refused_extends,
            GrowthFails,
        );
        if !was_interrupted && top_fits(&before, layout) {
            note_if(granted || refused || grew, AskedThoughTopFits);
            note_if(refused && !granted && !grew, RefusedThoughTopFits);
        }
        note_if(
            !was_interrupted && !block.is_null() && refused && !grew,
            FoundAfterRefusal,
        );
        note_if(block.is_null(), OutOfMemory);
        note_if(
            before.refused_restores < after.refused_restores,
            RestoreRefused,
        );
        for hole in before.holes.iter().filter(|_| !was_interrupted) {
            let rest = after.holes.iter().find(|it| it.end() == hole.end());
            note_if(rest.is_none(), HoleRestored);
            note_if(rest.is_some_and(|rest| rest != hole), HoleRestoredInPart);
        }
        if let Some(base) = self.punched_heap(&before) {
            let heap = before.find(base).expect("it is a heap");
            let is_in = (base..base + heap.retained).contains(&block.addr());
            note_if(is_in, PunchAllocated);
        }
        note_if(
            before.refused_extends < after.refused_extends,
            ExtendRefused,
        );
        note_if(
            before.refused_imports < after.refused_imports,
            ImportRefused,
        );
        note_if(before.refused_tags < after.refused_tags, TagsOutInGrowth);
        note_if(self.is_drain_at_tags() && !block.is_null(), TagAllocated);
        if let Some(base) = self.drained_heap(Call::Shrink, &before) {
            let heap = before.find(base).expect("it is a heap");
            let is_in = (base..base + heap.retained).contains(&block.addr());
            note_if(is_in, DrainAllocated);
            note_if(grew, DrainClaimed);
        }
        note_if(
            grew && self.drained_heap(Call::Release, &before).is_some(),
            ReleaseClaimed,
        );
    }

    pub(crate) fn note_free(&self, before: Option<Snapshot>, block: usize) {
        if let Some(before) = &before {
            self.note_in_growth(before, block, GrowthFreed, RestoreFreed);
            if before.holes.iter().any(|hole| hole.end().addr() == block) {
                SITUATIONS.note(HoleTagged);
                match self.interrupted.get() {
                    Some((Doing::Punching, _)) => SITUATIONS.note(HoleTaggedInPunch),
                    Some((Doing::Allocating | Doing::Reallocating, _)) => {
                        SITUATIONS.note(HoleTaggedInGrowth);
                    }
                    _ => {}
                }
            }
        }
        self.note_lowering(before, Lowered, Deleted, |change, is_drained| {
            let is_in = change.base <= block && block < change.base + change.retained().0;
            note_if(is_drained && is_in, DrainFreed);
            note_if(is_drained && change.is_lower(), DrainLowered);
            note_if(self.is_punched(change) && is_in, PunchFreed);
        });
    }

    pub(crate) fn note_trim(&self, before: Option<Snapshot>) {
        let after = self.snapshot();
        if let (Some(before), Some(after)) = (&before, &after) {
            for hole in before.holes.iter().filter(|it| !after.holes.contains(it)) {
                let base = before.heaps.iter().map(|heap| heap.base.addr().get());
                let heap = base.filter(|&base| base < hole.base().addr()).max();
                let is_there = heap.and_then(|heap| after.find(heap)).is_some();
                SITUATIONS.note(if is_there { HoleTrimmed } else { HoleDeleted });
            }
        }
        self.note_lowering(before, Trimmed, TrimDeleted, |change, is_drained| {
            note_if(is_drained && change.is_lower(), DrainTrimmed);
            note_if(self.is_punched(change) && change.is_lower(), PunchTrimmed);
        });
    }

    /// Notes the heaps that an operation `lowered` or `deleted`, and calls `note` with each that
    /// may have changed, and whether its pages were just being given back.
    fn note_lowering(
        &self,
        before: Option<Snapshot>,
        lowered: Situation,
        deleted: Situation,
        note: impl Fn(&Change, bool),
    ) {
        let (Some(before), Some(after)) = (before, self.snapshot()) else {
            return;
        };
        let drained = self.drained_heap(Call::Shrink, &before);
        let changes = changes(&before, &after);
        note_between(self.interrupted.get(), &changes);
        for change in &changes {
            let is_drained = drained == Some(change.base);
            note_if(change.is_lower(), lowered);
            note_if(change.after.is_none(), deleted);
            note_if(is_drained && change.after.is_none(), DrainDeleted);
            let is_less = change.retained().1 < change.retained().0;
            note_if(self.is_drain_at_tags() && is_less, TagLowered);
            note(change, is_drained);
        }
    }

    pub(crate) fn note_resize(
        &self,
        before: Option<Snapshot>,
        block: &Block,
        moved: *mut u8,
        new_size: usize,
    ) {
        let Some(before) = before else { return };
        let grown = !moved.is_null() && new_size > block.layout.size();
        note_if(grown && moved == block.ptr, ResizedInPlace);
        note_if(grown && moved != block.ptr, Moved);
        if let Some(base) = self.drained_heap(Call::Shrink, &before) {
            let heap = before.find(base).expect("it is a heap");
            let is_in = (base..base + heap.retained).contains(&moved.addr());
            note_if(grown && moved == block.ptr && is_in, DrainResized);
        }
    }

    pub(crate) fn note_drain(&self, before: Option<Snapshot>, result: Result<usize, DrainError>) {
        let (Some(before), Some(after)) = (before, self.snapshot()) else {
            return;
        };
        let is_nested = self
            .interrupted
            .get()
            .is_some_and(|(doing, _)| doing == Doing::Draining);
        note_if(is_nested, DrainedNested);
        note_if(matches!(result, Ok(1..)), Drained);
        note_if(
            self.drained_heap(Call::Release, &before).is_some() && matches!(result, Ok(1..)),
            ReleaseDrained,
        );
        note_if(
            before.refused_shrinks < after.refused_shrinks,
            ShrinkRefused,
        );
        note_if(
            before.refused_releases < after.refused_releases,
            ReleaseRefused,
        );
        note_if(before.refused_tags < after.refused_tags, TagsOutInDrain);
        if result.is_err() {
            SITUATIONS.note(Requeued);
            for change in changes(&before, &after) {
                let was_queued = change.before.is_some_and(|heap| heap.retained < heap.size);
                note_if(was_queued && change.is_lower(), RequeuedMoved);
                note_if(was_queued && change.after.is_none(), RequeuedDeleted);
            }
        }
    }

    pub(crate) fn note_rent(&self) {
        if !self.stack.alone {
            return;
        }
        match self.interrupted.get() {
            Some((Doing::Allocating | Doing::Reallocating, moment)) => {
                note_if(moment.call == Call::Extend, TenantInExtend);
                note_if(moment.call == Call::Import, TenantInImport);
            }
            Some((Doing::Draining, moment)) => {
                note_if(moment.call != Call::Tag, TenantInDrain);
            }
            _ => {}
        }
    }
}

fn note_growth(change: &Change, before: &Snapshot, after: &Snapshot) {
    match (&change.before, &change.after) {
        (Some(old), Some(new)) if new.retained > old.retained => {
            let is_larger = new.size > old.size;
            let by_demand = before.refused_extends < after.refused_extends;
            note_if(is_larger && by_demand, GrownByDemand);
            SITUATIONS.note(match (is_larger, old.retained < old.size) {
                (true, false) => Grown,
                (true, true) => GrownPastQueue,
                (false, _) => GrownFromQueue,
            });
        }
        (None, Some(_)) => {
            if before.imported == after.imported && before.allocated == after.allocated {
                SITUATIONS.note(TakenBack);
            }
            note_if(after.heaps.len() == 2, ClaimedSecond);
            note_if(after.heaps.len() > 2, ClaimedThird);
        }
        _ => {}
    }
}

/// Returns whether the layout fits in the free range at the top of the heap that would grow.
fn top_fits(before: &Snapshot, layout: Layout) -> bool {
    let Some(first) = before.heaps.first() else {
        return false;
    };
    let base = before.top.next_multiple_of(layout.align().max(CHUNK_UNIT));
    let size = (layout.size() + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT);
    base + size.max(2 * CHUNK_UNIT) <= first.end.addr().get()
}
