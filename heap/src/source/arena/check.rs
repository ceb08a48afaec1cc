//! Checks that the records agree with the heaps and with the arena's segments.

use core::ptr::NonNull;

use super::ArenaSource;
use super::list::RecordList;
use super::record::{RECORD_SIZE, ReleaseState, SegmentRecord};
use crate::span::Span;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::{Corruption, Rule};
use crate::vmem::{Arena, Lock, Segment, SegmentKind, TagSupply};

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Compares each record with Talc's heap and with the arena's segment, and checks the heap.
    /// Then checks the release queue and the sum of the retained bytes.
    ///
    /// A link is followed only to an address in a segment that the arena has allocated.
    pub(super) fn check_records(&self) -> Result<(), Corruption> {
        let source = &self.source;
        let Some(arena) = source
            .arena
            .filter(|_| source.owner.is_bound_to(&self.owner_token))
        else {
            return Ok(());
        };
        let mut retained = 0;
        walk(&source.heaps, arena, |at, record| {
            ensure(at, record.owner == source.owner, "its owner")?;
            check_sizes(at, record, arena)?;
            ensure(at, record.retained != 0, "a live heap retains nothing")?;
            retained += record.retained;
            // SAFETY: the heap begins with the segment and ends where the record begins.
            unsafe { self.check_heap(Span::new(record.base.as_ptr(), at.cast().as_ptr())) }
        })?;
        walk(&source.release_queue, arena, |at, record| {
            let is_queued = record.state == ReleaseState::QUEUED;
            ensure(at, is_queued, "its release state is not that of the queue")?;
            ensure(at, record.owner == source.owner, "its owner")?;
            check_sizes(at, record, arena)
        })?;
        self.check_holes(arena)?;
        if retained == source.claimed {
            return Ok(());
        }
        Err(Corruption {
            address: (&raw const source.claimed).addr(),
            rule: Rule::Record("the sum of what all heaps retain"),
        })
    }

    /// Checks that the holes are ordered, do not overlap, consist of pages, lie in one segment
    /// each, and that a chunk ends above each. Then checks the sum of their bytes.
    fn check_holes(&self, arena: &Arena<'_, '_, A, L>) -> Result<(), Corruption> {
        let holes = &self.source.holes;
        let broken = |at: NonNull<u8>, what| {
            Err(Corruption {
                address: at.addr().get(),
                rule: Rule::Record(what),
            })
        };
        if let Some(hole) = holes.first_misplaced() {
            return broken(hole.record(), "a hole's place in the tree");
        }
        let (mut bytes, mut below) = (0, 0);
        for hole in holes.iter() {
            let (base, end) = (hole.base().addr().get(), hole.pages_end().addr().get());
            let quantum = arena.quantum();
            if base % quantum != 0 || end % quantum != 0 || base >= end {
                return broken(hole.record(), "the pages of a hole");
            }
            let segment = arena.segment_of(base).filter(is_allocated);
            let is_inside = segment.is_some_and(|it| it.base <= base && end < it.last);
            if base < below || !is_inside {
                return broken(hole.record(), "where a hole lies");
            }
            // SAFETY: the chunk ends there, in memory unless it is untagged.
            if !hole.is_untagged() && !unsafe { self.ends_chunk(hole.chunk_end()) } {
                return broken(hole.record(), "the chunk of a hole");
            }
            bytes += end - base;
            below = hole.chunk_end().addr().get();
        }
        if bytes != holes.bytes() {
            let address = NonNull::from(holes).cast();
            return broken(address, "the sum of the bytes in holes");
        }
        Ok(())
    }
}

/// Returns the corruption that is reported for a damaged record.
fn damaged_record(address: usize) -> Corruption {
    #[cfg(feature = "hardened")]
    let rule = Rule::Misuse(crate::talc::hardened::Misuse::DamagedSourceRecord);
    #[cfg(not(feature = "hardened"))]
    let rule = Rule::Record("its contents");
    Corruption { address, rule }
}

/// Visits each record of a list. Checks that the links agree in both directions, and with the
/// length.
fn walk<const WHICH: usize, A: TagSupply, L: Lock>(
    list: &RecordList<WHICH>,
    arena: &Arena<'_, '_, A, L>,
    mut visit: impl FnMut(NonNull<SegmentRecord>, &SegmentRecord) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let (mut count, mut previous, mut next) = (0, None, list.first());
    while let Some(at) = next {
        let address = at.addr().get();
        let end = address.saturating_add(size_of::<SegmentRecord>());
        let segment = arena.segment_of(address).filter(is_allocated);
        let is_mapped = segment.is_some_and(|segment| end - 1 <= segment.last);
        ensure(at, at.is_aligned() && is_mapped, "its address")?;
        // SAFETY: the address is aligned and lies in memory of the arena. Nothing writes to records
        // while the allocator is borrowed.
        let Some(record) = (unsafe { SegmentRecord::read(at) }) else {
            return Err(damaged_record(address));
        };
        let links = record.links[WHICH];
        ensure(at, links.previous == previous, "its place in the list")?;
        count += 1;
        ensure(at, count <= list.len(), "the length of the list")?;
        visit(at, &record)?;
        previous = Some(at);
        next = links.next;
    }
    match list.first() {
        Some(first) => ensure(first, count == list.len(), "the length of the list"),
        None => Ok(()),
    }
}

/// Checks that a record lies where its sizes put it, that its state agrees with them, and that the
/// arena has allocated the segment. (During a drain the arena's segment may already be smaller, and
/// during growth larger.)
fn check_sizes<A: TagSupply, L: Lock>(
    at: NonNull<SegmentRecord>,
    record: &SegmentRecord,
    arena: &Arena<'_, '_, A, L>,
) -> Result<(), Corruption> {
    let (base, size, retained) = (record.base.addr().get(), record.size, record.retained);
    let quantum = arena.quantum();
    let is_whole = retained % quantum == 0 && size % quantum == 0;
    ensure(at, is_whole && retained <= size, "its sizes")?;
    // The record of a deleted heap stays where it was.
    let end = base
        .checked_add(retained)
        .and_then(|end| end.checked_sub(RECORD_SIZE));
    let is_at_end = retained == 0 || end == Some(at.addr().get());
    ensure(at, is_at_end, "where the heap ends")?;
    let agrees_with_sizes = match record.state {
        ReleaseState::IDLE => retained == size,
        ReleaseState::QUEUED => retained < size,
        ReleaseState::DRAINING | ReleaseState::GROWING => true,
        _ => false,
    };
    let is_draining = record.state == ReleaseState::DRAINING;
    let agrees_with_drainer = is_draining || record.drainer.is_none();
    let is_consistent = agrees_with_sizes && agrees_with_drainer;
    ensure(at, is_consistent, "its release state")?;

    let segment = arena.segment_of(base).filter(is_allocated);
    let found = segment
        .filter(|segment| segment.base == base)
        .map(|segment| segment.last - segment.base + 1);
    let has_segment = found.is_some_and(|found| match record.state {
        ReleaseState::DRAINING => found <= size && found >= retained,
        ReleaseState::GROWING => found >= size,
        _ => found == size,
    });
    ensure(at, has_segment, "the segment of the arena")
}

fn is_allocated(segment: &Segment) -> bool {
    segment.kind == SegmentKind::Allocated
}

/// Returns the corruption of the record at `at` that `what` names, unless the check `holds`.
fn ensure(at: NonNull<SegmentRecord>, holds: bool, what: &'static str) -> Result<(), Corruption> {
    let (address, rule) = (at.addr().get(), Rule::Record(what));
    if holds {
        Ok(())
    } else {
        Err(Corruption { address, rule })
    }
}
