//! Do the records agree with the heaps, and with the arena's segments?

use core::ptr::NonNull;

use super::ArenaSource;
use super::record::{HEAPS, RECORD, Record, State};
use crate::span::Span;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::{Corruption, Rule};
use crate::vmem::{Allocator, Arena, Lock, SegmentKind};

impl<'a, A: Allocator, L: Lock, B: Binning> Talc<ArenaSource<'a, A, L>, B> {
    /// Compares each record with Talc's end of its heap and with the arena's segment, and walks the heap.
    pub(super) fn check_records(&self) -> Result<(), Corruption> {
        let source = &self.source;
        let Some(arena) = source.arena.filter(|_| source.bond.serves(&self.tie)) else {
            return Ok(());
        };
        let (mut kept, mut count, mut previous) = (0, 0, None);
        let mut next = source.heaps.first();
        while let Some(at) = next {
            let ensure = |holds: bool, what| {
                let (address, rule) = (at.addr().get(), Rule::Record(what));
                if holds {
                    Ok(())
                } else {
                    Err(Corruption { address, rule })
                }
            };
            ensure(at.is_aligned(), "its address")?;
            // SAFETY: a record in the list is live, and nothing writes to it while the allocator is borrowed.
            let Some(record) = (unsafe { Record::sound(at) }) else {
                return Err(damaged_record(at.addr().get()));
            };
            let record = &record;
            ensure(record.previous(HEAPS) == previous, "its place in the list")?;
            ensure(record.bond == source.bond, "its owner")?;
            check_sizes(at, record, arena.quantum(), ensure)?;
            check_segment(record, arena, ensure)?;
            // SAFETY: the segment is the source's and reaches beyond the record, and the heap begins with it.
            unsafe {
                let heap = Span::new(record.base.as_ptr(), at.cast().as_ptr());
                self.check_heap(heap)?;
            }
            kept += record.kept;
            count += 1;
            ensure(count <= source.heaps.len(), "the length of the list")?;
            previous = Some(at);
            // SAFETY: the record is in the list.
            next = unsafe { source.heaps.after(at) };
        }
        if (count, kept) == (source.heaps.len(), source.claimed) {
            Ok(())
        } else {
            Err(Corruption {
                address: (&raw const source.claimed).addr(),
                rule: Rule::Record("the sum of what all heaps keep"),
            })
        }
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

/// The record lies where its sizes say, and its state is what they say.
fn check_sizes(
    at: NonNull<Record>,
    record: &Record,
    quantum: usize,
    ensure: impl Fn(bool, &'static str) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let &Record {
        base, size, kept, ..
    } = record;
    let end = base.addr().get().checked_add(kept);
    ensure(
        end.and_then(|end| end.checked_sub(RECORD)) == Some(at.addr().get()),
        "where the heap ends",
    )?;
    let is_whole = kept.is_multiple_of(quantum) && size.is_multiple_of(quantum);
    ensure(is_whole && kept <= size, "its sizes")?;
    let is_settled = match record.state {
        State::Settled => kept == size,
        State::Queued => kept < size,
        State::Draining => true,
    };
    let is_drained = matches!(record.state, State::Draining);
    ensure(
        is_settled && (is_drained || record.drainer.is_none()),
        "whether pages go back",
    )
}

/// The arena has allocated this segment. (While its end is given back, the arena is ahead.)
fn check_segment<A: Allocator, L: Lock>(
    record: &Record,
    arena: &Arena<'_, '_, A, L>,
    ensure: impl Fn(bool, &'static str) -> Result<(), Corruption>,
) -> Result<(), Corruption> {
    let base = record.base.addr().get();
    let segment = arena.segment_of(base);
    let size = segment
        .filter(|segment| segment.kind == SegmentKind::Allocated && segment.base == base)
        .map(|segment| segment.last - segment.base + 1);
    let agrees = match record.state {
        State::Draining => size.is_some_and(|size| size <= record.size && size >= record.kept),
        _ => size == Some(record.size),
    };
    ensure(agrees, "the segment of the arena")
}
