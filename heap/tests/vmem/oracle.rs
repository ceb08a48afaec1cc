//! An oracle: it tries every base to find out whether a chain of arenas can serve a request.
#![allow(dead_code, reason = "the fuzzer uses a part of it")]

use super::support::{CheckedSource, TestArena, satisfies};
use heap::vmem::{Layout, Segment, SegmentKind};

/// A chain of arenas, each of which is the source of the one before it. The last borrows from
/// `lender`.
pub(crate) struct Chain<'a> {
    pub arenas: &'a [&'a TestArena<'a>],
    pub lender: &'a CheckedSource,
}

impl<'a> Chain<'a> {
    fn quantum(&self) -> usize {
        let first = self.arenas.first();
        first.map_or(self.lender.quantum, |arena| arena.quantum())
    }

    /// Returns the chain without its first arena.
    fn source(&self) -> Self {
        Self {
            arenas: &self.arenas[1..],
            lender: self.lender,
        }
    }

    /// Returns whether some base in `[low, low + space)` can serve `layout`.
    pub(crate) fn serves(&self, layout: &Layout, low: usize, space: usize) -> bool {
        let misaligned = low.wrapping_neg() & (self.quantum() - 1);
        (misaligned..space).step_by(self.quantum()).any(|offset| {
            let base = low + offset;
            satisfies(layout, base) && self.has_room(base, base + (layout.size() - 1))
        })
    }

    /// Returns whether the range can be allocated: it is free, or can be imported.
    fn has_room(&self, start: usize, last: usize) -> bool {
        let (start, last) = (start & !(self.quantum() - 1), last | (self.quantum() - 1));
        let Some(arena) = self.arenas.first() else {
            return self.lender.is_vacant(start, last);
        };
        let free = arena
            .segment_of(start)
            .is_some_and(|segment| segment.kind == SegmentKind::Free && last <= segment.last);
        free || {
            let quantum = self.quantum().max(self.source().quantum());
            let (start, last) = (start & !(quantum - 1), last | (quantum - 1));
            !overlaps(arena, start, last) && self.source().has_room(start, last)
        }
    }

    /// Returns whether the allocated segment at `base` can grow to end at `last`. This is at least
    /// its present end.
    pub(crate) fn extends(&self, base: usize, last: usize) -> bool {
        let last = last | (self.quantum() - 1);
        let Some(arena) = self.arenas.first() else {
            let size = self
                .lender
                .lent()
                .iter()
                .find(|lent| lent.0 == base)
                .unwrap()
                .1;
            return last == base + (size - 1)
                || self.lender.resizable && self.lender.is_vacant(base + size, last);
        };
        let segment = arena.segment_of(base).unwrap();
        let free = |above: &Segment| above.kind == SegmentKind::Free;
        let free_last = segment
            .last
            .checked_add(1)
            .and_then(|above| arena.segment_of(above))
            .filter(|above| free(above) && above.span == segment.span)
            .map_or(segment.last, |above| above.last);
        let span = segment.span;
        last <= free_last
            || free_last == span.last && span.borrowed && {
                let quantum = self.quantum().max(self.source().quantum());
                let last = last | (quantum - 1);
                !overlaps(arena, span.last + 1, last) && self.source().extends(span.base, last)
            }
    }
}

fn overlaps(arena: &TestArena<'_>, start: usize, last: usize) -> bool {
    arena
        .segments()
        .any(|segment| segment.base <= last && start <= segment.last)
}
