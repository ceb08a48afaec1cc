//! Inspection of a heap: its gaps, and the regions between them.
//!
//! A chunk does not store its size, because the layout with which it is freed determines it. The
//! visible parts of a heap are therefore its gaps, and the *runs* of chunks (and slivers) between
//! them. With `hardened`, the redzone of a chunk stores the size, and each chunk is a run of its
//! own.

use core::fmt;

use super::Talc;
use super::binning::Binning;
use super::chunk::{HEAP_OVERHEAD, unit_ceil};
use super::free_lists::FreeLists;
use super::gap_header::Gap;
use super::source::Source;
use crate::span::Span;

/// A gap, or a run of chunks, as [`Talc::regions`] finds it in a heap.
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
    /// A whole free range: both its neighbours are of the other kind.
    Gap(Span),
    /// One or more chunks without a gap between them, including tags and metadata. Also slivers:
    /// free ranges of one unit, which are too small for any chunk and in no free list. With
    /// `hardened`, exactly one of these, unless it is damaged.
    Run(Span),
}

impl Region {
    /// Returns the addresses of the region.
    pub const fn span(&self) -> Span {
        match *self {
            Region::Gap(span) | Region::Run(span) => span,
        }
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Returns the gaps of all heaps, slivers excepted, in no particular order. O(1) for each.
    pub fn gaps(&self) -> impl Iterator<Item = Span> {
        self.free_lists.iter().map(gap_span)
    }

    /// Returns the gaps that begin in `range`, slivers excepted, in the order of their addresses.
    ///
    /// ```text
    ///     range          ├───────────────────────────┤
    ///     gaps       ├───────┤   ├────┤         ├──────────┤   ├────┤
    ///     found      no          first          second         no
    /// ```
    ///
    /// Let *g* be the number of gaps in all heaps, and *n* of those in the range. The first gap
    /// takes time in proportion to *g*, and all of them to *g* + *g* × *n* / 64. The iterator needs
    /// about one kibibyte of stack and no heap memory.
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

    /// Returns the gaps and runs of a heap in the order of their addresses. Together they are the
    /// whole heap, from its base tag up: see the [diagram](Region).
    ///
    /// `heap` extends from the base that was given to [`claim`](Talc::claim) to the heap's current
    /// end. With *n* regions, the first takes time in proportion to *n*, and all of them to *n* +
    /// *n*² / 64.
    #[cfg(feature = "hardened")]
    pub fn regions(&self, heap: Span) -> impl Iterator<Item = Region> {
        super::hardened::RegionsByAddress::new(&self.free_lists, allocatable(heap))
    }

    /// Returns the gaps and runs of a heap in the order of their addresses. Together they are the
    /// whole heap, from its base tag up: see the [diagram](Region).
    ///
    /// `heap` extends from the base that was given to [`claim`](Talc::claim) to the heap's current
    /// end. The cost is that of [`gaps_in`](Talc::gaps_in).
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// use heap::Span;
    /// use heap::talc::{DefaultBinning, Region, base::Talc, source::Manual};
    ///
    /// # let mut memory = [0_u64; 2048];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// let layout = Layout::new::<[u64; 10]>();
    /// // SAFETY: only `talc` uses `memory`, which outlives it. One block is freed, once.
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

pub(super) fn gap_span(gap: Gap) -> Span {
    Span::new(gap.base.as_ptr(), gap.end().as_ptr())
}

/// Returns the part of a claimed range that chunks and gaps tile.
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

/// The number of gaps that one pass over the free lists puts into order.
pub(super) const BATCH: usize = 64;

/// An iterator over gaps in the order of their addresses. Each pass over the free lists selects the
/// [`BATCH`] lowest gaps that are still to come.
pub(super) struct GapsByAddress<'a, B: Binning> {
    free_lists: &'a FreeLists<B>,
    /// Gaps that begin in this range are still to come, apart from those in the batch.
    rest: Span,
    /// The lowest gaps, in order; filled up with `None` if fewer are left.
    batch: [Option<Gap>; BATCH],
    /// The index of the next gap in the batch.
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
                // The highest gap of a full batch falls out; a later pass finds it again.
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
