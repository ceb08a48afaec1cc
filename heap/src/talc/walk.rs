//! Gaps, and what lies between them, for whoever wants to look.
//!
//! A chunk does not store its size, the layout with which it is freed gives that. So what is seen
//! of a heap are its gaps and the *runs* of chunks (and slivers) between them. With `hardened`,
//! chunks have tails that store it, and each is a run of its own.

use core::fmt;

use super::Talc;
use super::binning::Binning;
use super::chunk::{HEAP_OVERHEAD, unit_ceil};
use super::free_lists::FreeLists;
use super::gap_header::Gap;
use super::source::Source;
use crate::span::Span;

/// A part of a heap, as [`Talc::regions`] finds it.
///
/// ```text
///     ┌─┬────────────┬───────┬───────┬───────┬───────┬────────┬───────┬───────┐
///     │t│ list heads │ chunk │ chunk │  gap  │ chunk │ sliver │ chunk │  gap  │   a heap
///     └─┴────────────┴───────┴───────┴───────┴───────┴────────┴───────┴───────┘
///       ├─ Run ──────────────────────┼─ Gap ─┼─ Run ──────────────────┼─ Gap ─┤   by default
///       ├─ Run ──────┼─ Run ─┼─ Run ─┼─ Gap ─┼─ Run ─┼─ Run ──┼─ Run ─┼─ Gap ─┤   with `hardened`
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// A free range, and all of it: there is another kind of region on either side.
    Gap(Span),
    /// One or more chunks without a gap between them, tags and metadata included; also slivers, free
    /// ranges of one unit, which are too small for any chunk and in no list. With `hardened`, exactly
    /// one of these, unless it is damaged.
    Run(Span),
}

impl Region {
    /// Where it is.
    pub const fn span(&self) -> Span {
        match *self {
            Region::Gap(span) | Region::Run(span) => span,
        }
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// The gaps of all heaps, in no particular order, without slivers. O(1) for each.
    pub fn gaps(&self) -> impl Iterator<Item = Span> {
        self.free_lists.iter().map(gap_span)
    }

    /// The gaps that begin in `range`, in the order of their addresses, without slivers.
    ///
    /// ```text
    ///     range          ├───────────────────────────┤
    ///     gaps       ├───────┤   ├────┤         ├──────────┤   ├────┤
    ///     found      no          first          second         no
    /// ```
    ///
    /// With *g* gaps in all heaps and *n* in the range, the first takes time in proportion to *g*,
    /// and all of them to *g* + *g* × *n* / 64. It needs about a kibibyte of stack, and no memory.
    pub fn gaps_in(&self, range: Span) -> impl Iterator<Item = Span> {
        self.gaps_by_address(range).map(gap_span)
    }

    pub(super) fn gaps_by_address(&self, range: Span) -> GapsByAddress<'_, B> {
        GapsByAddress {
            free_lists: &self.free_lists,
            rest: range,
            batch: [None; BATCH],
            next: BATCH,
        }
    }

    /// The gaps and runs of a heap in the order of their addresses: together they are the heap,
    /// from its base tag up. See the [diagram](Region).
    ///
    /// `heap` reaches from the base that was given to [`claim`](Talc::claim) up to the heap's
    /// current end. With *n* parts, the first takes time in proportion to *n*, and
    /// all of them to *n* + *n*² / 64.
    #[cfg(feature = "hardened")]
    pub fn regions(&self, heap: Span) -> impl Iterator<Item = Region> {
        super::hardened::Parts::new(&self.free_lists, allocatable(heap))
    }

    /// The gaps and runs of a heap in the order of their addresses: together they are the heap,
    /// from its base tag up. See the [diagram](Region).
    ///
    /// `heap` reaches from the base that was given to [`claim`](Talc::claim) up to the heap's
    /// current end. Its cost is that of [`gaps_in`](Talc::gaps_in).
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// use heap::Span;
    /// use heap::talc::{DefaultBinning, Region, base::Talc, source::Manual};
    ///
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// let layout = Layout::new::<[u64; 10]>();
    /// // SAFETY: nobody else uses `memory` as long as `talc` does. One block is freed, once.
    /// let heap = unsafe {
    ///     let base = memory.as_mut_ptr().cast();
    ///     let end = talc.claim(base, size_of_val(&memory)).expect("large enough");
    ///     let blocks = [(); 4].map(|()| talc.allocate(layout).expect("there is room"));
    ///     talc.deallocate(blocks[1].as_ptr(), layout);
    ///     Span::new(base, end.as_ptr())
    /// };
    /// let is_gap = |region| matches!(region, Region::Gap(_));
    /// // The list heads and a block, what was freed, two blocks, what was never allocated.
    /// assert!(talc.regions(heap).map(is_gap).eq([false, true, false, true]));
    /// ```
    #[cfg(not(feature = "hardened"))]
    pub fn regions(&self, heap: Span) -> impl Iterator<Item = Region> {
        let mut rest = allocatable(heap);
        let mut gaps = self.gaps_in(rest).peekable();
        core::iter::from_fn(move || {
            let region = match gaps.next_if(|gap| gap.base() == rest.base()) {
                Some(gap) => Region::Gap(gap),
                None if rest.is_empty() => return None,
                None => Region::Run(gaps.peek().map_or(rest, |gap| rest.below(gap.base()))),
            };
            rest = rest.above(region.span().end());
            Some(region)
        })
    }
}

fn gap_span(gap: Gap) -> Span {
    Span::new(gap.base.as_ptr(), gap.end().as_ptr())
}

/// The part of a claimed range that chunks and gaps tile.
pub(super) fn allocatable(heap: Span) -> Span {
    let first = heap
        .base()
        .addr()
        .checked_add(HEAP_OVERHEAD)
        .and_then(unit_ceil);
    first.map_or(Span::empty(), |first| {
        heap.above(heap.base().with_addr(first))
    })
}

/// How many gaps one pass over the lists puts into order.
pub(super) const BATCH: usize = 64;

/// An iterator that selects, in each pass over the lists, the [`BATCH`] lowest gaps that are still
/// to come.
pub(super) struct GapsByAddress<'a, B: Binning> {
    free_lists: &'a FreeLists<B>,
    /// Gaps that begin here are still to come, apart from those in the batch.
    rest: Span,
    /// The lowest gaps, in order. `None` in the end if there are fewer.
    batch: [Option<Gap>; BATCH],
    /// The first of the batch that is still to come.
    next: usize,
}

impl<B: Binning> GapsByAddress<'_, B> {
    fn select(&mut self) {
        self.batch = [None; BATCH];
        self.next = 0;
        for gap in self
            .free_lists
            .iter()
            .filter(|gap| self.rest.contains(gap.base.as_ptr()))
        {
            let place = self
                .batch
                .partition_point(|it| it.is_some_and(|it| it.base < gap.base));
            if place < BATCH {
                // The highest of a full batch falls out, for a later pass.
                self.batch[place..].rotate_right(1);
                self.batch[place] = Some(gap);
            }
        }
        let last = self.batch[BATCH - 1];
        self.rest = last.map_or(Span::empty(), |last| self.rest.above(last.end().as_ptr()));
    }
}

impl<B: Binning> Iterator for GapsByAddress<'_, B> {
    type Item = Gap;

    fn next(&mut self) -> Option<Gap> {
        if self.next == BATCH {
            self.select();
        }
        let gap = self.batch[self.next]?;
        self.next += 1;
        Some(gap)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Region::Gap(_) => "gap",
            Region::Run(_) => "run",
        };
        write!(f, "{kind} {}", self.span())
    }
}
