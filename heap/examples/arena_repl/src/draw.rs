//! A picture of an arena, as text.

use std::fmt::Write;

use heap::vmem::{Segment, SegmentKind, SpanExtent};

use crate::session::SessionArena;

/// The number of characters for a span.
const WIDTH: u128 = 64;
/// The greatest number of segments that are also listed.
const LISTED: usize = 24;

/// Draws the totals, and a line for each span: `█` is allocated, `·` is free, `▒` is both.
pub(crate) fn arena(arena: &SessionArena) -> String {
    let segments: Vec<Segment> = arena.segments().collect();
    let mut picture = format!(
        "{}: {:#x} in spans, {:#x} of it borrowed; {:#x} allocated, {:#x} free, \
         {:#x} in the largest free segment\n",
        arena.label(),
        arena.total_space(),
        arena.borrowed_space(),
        arena.allocated_space(),
        arena.free_space(),
        arena.largest_free(),
    );
    for segments in segments.chunk_by(|one, next| one.span.base == next.span.base) {
        let span = segments[0].span;
        let borrowed = if span.borrowed { ", borrowed" } else { "" };
        let cells: String = (0..WIDTH)
            .map(|cell| symbol(span, cell, segments))
            .collect();
        let _ = writeln!(
            picture,
            "  {:#x} │{cells}│ {:#x}{borrowed}",
            span.base, span.last
        );
    }
    if segments.len() <= LISTED {
        for segment in segments {
            let symbol = match segment.kind {
                SegmentKind::Free => '·',
                SegmentKind::Allocated => '█',
            };
            let size = segment.last - segment.base + 1;
            let _ = writeln!(picture, "    {symbol} {:#x} + {size:#x}", segment.base);
        }
    }
    picture
}

/// Returns the symbol for one cell of the picture of a span.
fn symbol(span: SpanExtent, cell: u128, segments: &[Segment]) -> char {
    let len = (span.last - span.base) as u128 + 1;
    let edge = |cell: u128| span.base as u128 + cell * len / WIDTH;
    // In a span with fewer addresses than cells, several cells show one address.
    let (first, end) = (edge(cell), edge(cell + 1).max(edge(cell) + 1));
    let inside = |segment: &&Segment| (segment.base as u128) < end && first <= segment.last as u128;
    let mut kinds = segments.iter().filter(inside).map(|segment| segment.kind);
    let kind = kinds.next();
    if kinds.any(|other| Some(other) != kind) {
        return '▒';
    }
    match kind {
        Some(SegmentKind::Allocated) => '█',
        _ => '·',
    }
}
