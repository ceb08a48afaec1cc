//! Do the records agree with the heaps, and with the arena's segments?

use core::ptr::NonNull;

use super::ArenaSource;
use super::record::{HeapRecord, List, RECORD_SIZE, ReleaseState};
use crate::span::Span;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::{Corruption, Rule};
use crate::vmem::{Arena, Lock, Segment, SegmentKind, TagSupply};

impl<'a, A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Compares each record with Talc's end of its heap and with the arena's segment, walks the heap, and then
    /// the queue of what is to be given back.
    ///
    /// A link is followed only to a place in a segment that the arena has allocated.
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
            ensure(at, record.retained != 0, "that it is deleted")?;
            retained += record.retained;
            // SAFETY: the segment is the source's and reaches beyond the record, and the heap begins with it.
            unsafe { self.check_heap(Span::new(record.base.as_ptr(), at.cast().as_ptr())) }
        })?;
        walk(&source.release_queue, arena, |at, record| {
            ensure(
                at,
                record.state == ReleaseState::QUEUED,
                "that it is queued",
            )?;
            ensure(at, record.owner == source.owner, "its owner")?;
            check_sizes(at, record, arena)
        })?;
        if retained == source.claimed {
            return Ok(());
        }
        Err(Corruption {
            address: (&raw const source.claimed).addr(),
            rule: Rule::Record("the sum of what all heaps keep"),
        })
    }
}

/// What is reported of a record that somebody has overwritten.
fn damaged_record(address: usize) -> Corruption {
    #[cfg(feature = "hardened")]
    let rule = Rule::Misuse(crate::talc::hardened::Misuse::DamagedSourceRecord);
    #[cfg(not(feature = "hardened"))]
    let rule = Rule::Record("its contents");
    Corruption { address, rule }
}

/// Visits each record of a list, whose links agree in both directions and with its length.
fn walk<const WHICH: usize, A: TagSupply, L: Lock>(
    list: &List<WHICH>,
    arena: &Arena<'_, '_, A, L>,
    mut visit: impl FnMut(NonNull<HeapRecord>, &HeapRecord) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let (mut count, mut previous, mut next) = (0, None, list.first());
    while let Some(at) = next {
        let address = at.addr().get();
        let end = address.saturating_add(size_of::<HeapRecord>());
        let segment = arena.segment_of(address).filter(is_allocated);
        let is_there = segment.is_some_and(|segment| end - 1 <= segment.last);
        ensure(at, at.is_aligned() && is_there, "its address")?;
        // SAFETY: the place is memory of the arena, and nothing writes to records while the allocator is borrowed.
        let Some(record) = (unsafe { HeapRecord::read(at) }) else {
            return Err(damaged_record(address));
        };
        ensure(
            at,
            record.previous(WHICH) == previous,
            "its place in the list",
        )?;
        count += 1;
        ensure(at, count <= list.len(), "the length of the list")?;
        visit(at, &record)?;
        previous = Some(at);
        // SAFETY: as above.
        next = unsafe { list.after(at) };
    }
    match list.first() {
        Some(first) => ensure(first, count == list.len(), "the length of the list"),
        None => Ok(()),
    }
}

/// The record lies where its sizes say, its state is what they say, and the arena has allocated the segment.
/// (While the end of that is given back, the arena is ahead.)
fn check_sizes<A: TagSupply, L: Lock>(
    at: NonNull<HeapRecord>,
    record: &HeapRecord,
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
    let is_settled = match record.state {
        ReleaseState::IDLE => retained == size,
        ReleaseState::QUEUED => retained < size,
        ReleaseState::DRAINING => true,
        _ => false,
    };
    let is_drained = record.state == ReleaseState::DRAINING;
    let is_consistent = is_settled && (is_drained || record.drainer.is_none());
    ensure(at, is_consistent, "whether pages go back")?;

    let segment = arena.segment_of(base).filter(is_allocated);
    let found = segment
        .filter(|segment| segment.base == base)
        .map(|segment| segment.last - segment.base + 1);
    let agrees = if is_drained {
        found.is_some_and(|found| found <= size && found >= retained)
    } else {
        found == Some(size)
    };
    ensure(at, agrees, "the segment of the arena")
}

fn is_allocated(segment: &Segment) -> bool {
    segment.kind == SegmentKind::Allocated
}

fn ensure(at: NonNull<HeapRecord>, holds: bool, what: &'static str) -> Result<(), Corruption> {
    let (address, rule) = (at.addr().get(), Rule::Record(what));
    if holds {
        Ok(())
    } else {
        Err(Corruption { address, rule })
    }
}
