//! Looking at an arena: which segment an address lies in, and all of them in order.

use super::segment::Tag;
use super::state::State;
use super::{Allocator, Arena, Lock};

/// A segment of an arena, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first address.
    pub base: usize,
    /// The last address.
    pub last: usize,
    /// Whether it is free.
    pub kind: SegmentKind,
    /// The span in which it lies.
    pub span: SpanExtent,
}

/// Whether a segment is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// It is free.
    Free,
    /// It is allocated.
    Allocated,
}

/// A span of an arena, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanExtent {
    /// The first address.
    pub base: usize,
    /// The last address.
    pub last: usize,
    /// Whether the source has lent it.
    pub borrowed: bool,
}

impl Segment {
    fn new(tag: Tag, span: Tag) -> Self {
        Self {
            base: tag.start.get(),
            last: tag.last.get(),
            kind: if tag.is_free() {
                SegmentKind::Free
            } else {
                SegmentKind::Allocated
            },
            span: SpanExtent {
                base: span.start.get(),
                last: span.last.get(),
                borrowed: span.is_borrowed_span(),
            },
        }
    }
}

impl<'label, 'src, A: Allocator, L: Lock> Arena<'label, 'src, A, L> {
    /// Whether `address` lies in a span of this arena. O(log spans).
    pub fn contains(&self, address: usize) -> bool {
        self.lock().spans.containing(address).is_some()
    }

    /// The segment in which `address` lies. O(log spans + segments of the span).
    pub fn segment_of(&self, address: usize) -> Option<Segment> {
        self.lock().segment_of(address)
    }

    /// As [`segment_of`](Self::segment_of), for those who must not wait, such as a fault handler:
    /// `None` if the arena is locked.
    pub fn try_segment_of(&self, address: usize) -> Option<Option<Segment>> {
        Some(self.try_lock()?.segment_of(address))
    }

    /// The size of the largest free segment, or 0. Looks at the free segments of one size class.
    pub fn largest_free(&self) -> usize {
        let state = self.lock();
        state.free.largest().map(Tag::size).max().unwrap_or(0)
    }

    /// The segments in address order.
    ///
    /// The arena is locked for a few segments at a time, and may change in between: what was
    /// iterated over then is not iterated over again, and what is to come is as it is by then. Of a
    /// segment that has come to reach below that point, only the rest is told.
    pub fn segments(&self) -> Segments<'_, 'label, 'src, A, L> {
        Segments {
            arena: self,
            from: Some(0),
            near: None,
            batch: [None; BATCH],
        }
    }
}

impl State {
    fn segment_of(&self, address: usize) -> Option<Segment> {
        let span = self.spans.containing(address)?;
        Some(Segment::new(self.segment_containing(address)?, span))
    }
}

/// How many segments are taken under one lock.
const BATCH: usize = 16;

/// The segments of an arena in address order: see [`Arena::segments`].
///
/// Takes constant time for each segment while no segment of the arena merges or goes away, and
/// that of [`Arena::segment_of`] for 16 segments otherwise.
pub struct Segments<'arena, 'label, 'src, A: Allocator, L: Lock> {
    arena: &'arena Arena<'label, 'src, A, L>,
    /// The address at which to go on, if there is any left.
    from: Option<usize>,
    /// The segment and the span that contained this address, and the generation in which they did.
    near: Option<(Tag, Tag, u64)>,
    /// The segments taken and not yet handed out, in reverse.
    batch: [Option<Segment>; BATCH],
}

impl<A: Allocator, L: Lock> Segments<'_, '_, '_, A, L> {
    fn take_batch(&mut self) {
        let Some(from) = self.from else { return };
        let state = self.arena.lock();
        let mut place = match self.near {
            // Nothing has left the address order since, so the tags are still there.
            Some((segment, span, generation))
                if generation == state.generation && segment.contains(from) =>
            {
                Some((segment, span))
            }
            _ => state.place_at_or_above(from),
        };
        for slot in self.batch.iter_mut().rev() {
            let Some((segment, span)) = place else {
                break;
            };
            let mut found = Segment::new(segment, span);
            // It may have merged, or grown, into what was iterated over before.
            found.base = found.base.max(from);
            *slot = Some(found);
            let above = segment.above();
            place = if above != span {
                Some((above, span))
            } else {
                state.spans.after(span).map(|span| (span.above(), span))
            };
        }
        match place {
            Some((segment, span)) => {
                self.from = Some(segment.start.get());
                self.near = Some((segment, span, state.generation));
            }
            None => self.from = None,
        }
    }
}

impl State {
    /// The segment, and its span, that contains `address`, or else the next one.
    fn place_at_or_above(&self, address: usize) -> Option<(Tag, Tag)> {
        match self.spans.containing(address) {
            Some(span) => Some((self.segment_containing(address)?, span)),
            None => self
                .spans
                .at_or_above(address)
                .map(|span| (span.above(), span)),
        }
    }
}

impl<A: Allocator, L: Lock> Iterator for Segments<'_, '_, '_, A, L> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.batch.iter().all(Option::is_none) {
            self.take_batch();
        }
        self.batch.iter_mut().rev().find_map(Option::take)
    }
}
