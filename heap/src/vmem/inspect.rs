//! Looking at an arena: which segment an address lies in, and all of them in order.

use super::boundary_tag::TagRef;
use super::state::State;
use super::{Arena, Lock, TagSupply};

/// A segment of an arena, as it was when it was looked at.
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
    /// Whether it is free.
    pub kind: SegmentKind,
    /// The span in which it lies.
    pub span: SpanExtent,
}

/// Whether a [segment](Segment) is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// It is free.
    Free,
    /// It is allocated.
    Allocated,
}

/// A span of an arena, as it was when it was looked at: see the diagram of [`Segment`].
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
    /// Whether `address` lies in a span of this arena, free or allocated. O(log spans).
    ///
    /// ```text
    ///  0x1_0000                0x1_3000                0x1_5000                0x1_7000
    ///  │ allocated             │ free                  │    no span            │ free      │
    ///  ├──────────── true ─────────────────────────────┤──────── false ────────├── true ───┤
    /// ```
    pub fn contains(&self, address: usize) -> bool {
        self.lock().spans.containing(address).is_some()
    }

    /// The segment in which `address` lies, as the [diagram](Segment) shows it; `None` if it lies
    /// in no span. O(log spans + segments of the span).
    pub fn segment_of(&self, address: usize) -> Option<Segment> {
        self.lock().segment_of(address)
    }

    /// As [`segment_of`](Self::segment_of), for those who must not wait, such as a fault handler:
    /// `None` if the arena is locked, and always with a lock whose
    /// [`try_lock`](Lock::try_lock) cannot tell.
    pub fn try_segment_of(&self, address: usize) -> Option<Option<Segment>> {
        Some(self.try_lock()?.segment_of(address))
    }

    /// The size of the largest free segment, or 0. Looks at the free segments of one size class.
    ///
    /// ```text
    ///  │ free 0x3000        │ █ │ free 0x4000               │ █ │ free 0x2000   │
    ///                             └ the answer
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
///
/// Here there are twenty segments, of one each, and segments 15 and 16 are freed when the first
/// sixteen have been taken. Nobody is told of 15 twice:
///
/// ```text
///  taken        │ 0   │ … │ 15  │
///  meanwhile    │ 0   │ … │ 15, 16    │ 17  │ … │ 19  │
///  told next                    │ 16  │ 17  │ … │ 19  │
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
    /// The address at which to go on, if there is any left.
    from: Option<usize>,
    /// The segment and the span that contained this address, and the generation in which they did.
    near: Option<(TagRef, TagRef, u64)>,
    /// The segments taken and not yet handed out, in reverse.
    batch: [Option<Segment>; BATCH],
}

impl<A: TagSupply, L: Lock> Segments<'_, '_, '_, A, L> {
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
            _ => state.segment_at_or_above(from),
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
