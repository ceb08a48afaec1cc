//! Inspection of an arena: the segment at an address, and all segments in address order.

use super::boundary_tag::TagRef;
use super::state::State;
use super::{Arena, Lock, TagSupply};

/// A snapshot of a segment.
///
/// ```text
///  0x1_0000                0x1_2000    0x1_3000
///  │ allocated             │ free      │ allocated             │
///  ▲                       ▲          ▲                       ▲
///  span.base               base   last                span.last
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
/// arena.add_span(0x1_0000, 0x5000)?;
/// arena.xalloc_at(0x1_0000, 0x2000)?;
/// arena.xalloc_at(0x1_3000, 0x2000)?;
/// let span = SpanExtent { base: 0x1_0000, last: 0x1_4fff, borrowed: false };
/// let segment = Segment { base: 0x1_2000, last: 0x1_2fff, kind: SegmentKind::Free, span };
/// assert_eq!(arena.segment_of(0x1_2345), Some(segment));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first address.
    pub base: usize,
    /// The last address.
    pub last: usize,
    /// Whether the segment is free or allocated.
    pub kind: SegmentKind,
    /// The span that contains the segment.
    pub span: SpanExtent,
}

/// The state of a [segment](Segment).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// The segment is free.
    Free,
    /// The segment is allocated.
    Allocated,
}

/// A snapshot of a span: see the picture at [`Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanExtent {
    /// The first address.
    pub base: usize,
    /// The last address.
    pub last: usize,
    /// Whether the span is imported from the source.
    pub borrowed: bool,
}

impl Segment {
    fn new(tag: TagRef, span: TagRef) -> Self {
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

impl<'label, 'src, A: TagSupply, L: Lock> Arena<'label, 'src, A, L> {
    /// Returns whether a span of this arena contains `address`, free or allocated. O(log spans).
    ///
    /// ```text
    ///  0x1_0000                0x1_3000                0x1_5000                0x1_7000
    ///  │ allocated             │ free                  │    no span            │ free      │
    ///  ├──────────── true ─────────────────────────────┤──────── false ────────├── true ───┤
    /// ```
    #[doc(alias = "vmem_contains")]
    pub fn contains(&self, address: usize) -> bool {
        self.lock().spans.containing(address).is_some()
    }

    /// Returns the segment that contains `address`, as in the [picture](Segment). `None` if no span
    /// contains it. O(log spans + segments of the span).
    pub fn segment_of(&self, address: usize) -> Option<Segment> {
        self.lock().segment_of(address)
    }

    /// Returns [`segment_of`](Self::segment_of) without waiting, for example in a fault handler.
    ///
    /// `None` if the arena is locked, or if its lock does not implement
    /// [`try_lock`](Lock::try_lock).
    pub fn try_segment_of(&self, address: usize) -> Option<Option<Segment>> {
        Some(self.try_lock()?.segment_of(address))
    }

    /// Returns the size of the largest free segment, or 0. O(free segments of one size class).
    ///
    /// ```text
    ///  │ free 0x3000        │ █ │ free 0x4000               │ █ │ free 0x2000   │
    ///                             └ largest
    /// ```
    pub fn largest_free(&self) -> usize {
        let state = self.lock();
        state
            .free_lists
            .largest()
            .map(TagRef::size)
            .max()
            .unwrap_or(0)
    }

    /// Returns an iterator over the segments in address order.
    ///
    /// The iterator locks the arena for 16 segments at a time. The arena may change in between. The
    /// iterator never returns an address twice, and later segments are as they are by then. If a
    /// segment has grown down across that point, the iterator returns only its upper part.
    #[doc(alias = "vmem_walk")]
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

/// The number of segments that are copied in one critical section.
const BATCH: usize = 16;

/// An iterator over the segments of an arena in address order: see [`Arena::segments`].
///
/// O(1) for each segment while no segment of the arena coalesces or leaves. Otherwise each 16
/// segments also cost one [`Arena::segment_of`].
///
/// The picture shows twenty segments of size 1. After the iterator has returned the first sixteen,
/// segments 15 and 16 are freed. The iterator does not return 15 again:
///
/// ```text
///  returned     │ 0   │ … │ 15  │
///  then         │ 0   │ … │ 15, 16    │ 17  │ … │ 19  │
///  next                         │ 16  │ 17  │ … │ 19  │
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// let arena = Arena::<_, Lock>::create("numbers", 1, None, &tags)?;
/// arena.add_span(0, 20)?;
/// for number in 0..20 {
///     arena.xalloc_at(number, 1)?;
/// }
/// let mut segments = arena.segments();
/// assert_eq!(segments.nth(15).map(|it| (it.base, it.last)), Some((15, 15)));
/// arena.free(15)?;
/// arena.free(16)?;
/// let next = segments.next().unwrap();
/// assert_eq!((next.base, next.last, next.kind), (16, 16, SegmentKind::Free));
/// # Ok::<(), Error>(())
/// ```
pub struct Segments<'arena, 'label, 'src, A: TagSupply, L: Lock> {
    arena: &'arena Arena<'label, 'src, A, L>,
    /// The address of the next batch, unless the last segment has been copied.
    from: Option<usize>,
    /// The segment and the span that contained this address, and the generation at that time.
    near: Option<(TagRef, TagRef, u64)>,
    /// The segments that are copied and not yet returned, in reverse order.
    batch: [Option<Segment>; BATCH],
}

impl<A: TagSupply, L: Lock> Segments<'_, '_, '_, A, L> {
    fn take_batch(&mut self) {
        let Some(from) = self.from else { return };
        let state = self.arena.lock();
        let mut next = match self.near {
            // No tag has left the address order since, so these two are still in it.
            Some((segment, span, generation))
                if generation == state.generation && segment.contains(from) =>
            {
                Some((segment, span))
            }
            _ => state.segment_at_or_above(from),
        };
        for slot in self.batch.iter_mut().rev() {
            let Some((segment, span)) = next else {
                break;
            };
            let mut found = Segment::new(segment, span);
            // The segment may have grown down into addresses that were returned before.
            found.base = found.base.max(from);
            *slot = Some(found);
            let above = segment.above();
            next = if above != span {
                Some((above, span))
            } else {
                state.spans.after(span).map(|span| (span.above(), span))
            };
        }
        match next {
            Some((segment, span)) => {
                self.from = Some(segment.start.get());
                self.near = Some((segment, span, state.generation));
            }
            None => self.from = None,
        }
    }
}

impl State {
    /// Returns the segment that contains `address`, else the next segment, each with its span.
    fn segment_at_or_above(&self, address: usize) -> Option<(TagRef, TagRef)> {
        match self.spans.containing(address) {
            Some(span) => Some((self.segment_containing(address)?, span)),
            None => self
                .spans
                .at_or_above(address)
                .map(|span| (span.above(), span)),
        }
    }
}

impl<A: TagSupply, L: Lock> Iterator for Segments<'_, '_, '_, A, L> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.batch.iter().all(Option::is_none) {
            self.take_batch();
        }
        self.batch.iter_mut().rev().find_map(Option::take)
    }
}
