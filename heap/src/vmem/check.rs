//! The walk over all structures of an arena that finds what is wrong with them.

use core::fmt;

use super::freelist::members;
use super::segment::{Kind, Tag};
use super::spans;
use super::state::{State, is_idle};
use super::{Allocator, Arena, Lock};

/// A broken invariant: which one, and where. [`Arena::check`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The rule that does not hold.
    pub rule: Rule,
    /// The base of the span or segment for which it does not; 0 for the arena as a whole.
    pub address: usize,
}

/// What always holds in an arena while it is not locked.
///
/// ```text
///  SpanTree, SpansDisjoint            in a tree
///  Ring, SegmentsFillSpan,       ┌──▶ span ◀──▶ free ◀──▶ allocated ◀──▶ free ◀──┐
///  FreeMerged, Alignment         └───────────────────────────────────────────────┘
///  FreeLists, FreeBits                          in a list                in a list
///  Index                                                  in a bucket
///  IdleSpans                     queue of the borrowed spans that are one free segment
///  Counters, Cursor              total, allocated, borrowed; where NextFit goes on
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The tree of spans is ordered by base, and a heap by priority.
    SpanTree,
    /// Spans do not overlap.
    SpansDisjoint,
    /// Spans and segments begin and end at multiples of the quantum.
    Alignment,
    /// The segments of a span follow each other without gap and fill it.
    SegmentsFillSpan,
    /// Neighbours know each other.
    Ring,
    /// Two free segments are never neighbours.
    FreeMerged,
    /// Each free segment is in the list for its size, and nothing else is there.
    FreeLists,
    /// The bit maps say which free lists have members.
    FreeBits,
    /// Each allocated segment is in the index, in the bucket for its base, and nothing else is.
    Index,
    /// Each borrowed span that is entirely free is in the queue of such spans, and no other is.
    IdleSpans,
    /// The counters agree with the segments.
    Counters,
    /// The cursor is near a segment of the arena.
    Cursor,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::SpanTree => "the tree of spans is out of order",
            Rule::SpansDisjoint => "spans overlap",
            Rule::Alignment => "not aligned to the quantum",
            Rule::SegmentsFillSpan => "the segments do not fill the span",
            Rule::Ring => "neighbours do not know each other",
            Rule::FreeMerged => "free neighbours have not merged",
            Rule::FreeLists => "a free segment is not where it belongs",
            Rule::FreeBits => "the bit maps of the free lists are wrong",
            Rule::Index => "an allocated segment is not where it belongs",
            Rule::IdleSpans => "a free borrowed span is not where it belongs",
            Rule::Counters => "a counter is wrong",
            Rule::Cursor => "the cursor is lost",
        };
        write!(f, "{rule}, at {:#x}", self.address)
    }
}

impl core::error::Error for Fault {}

type Checked = core::result::Result<(), Fault>;

impl<A: Allocator, L: Lock> Arena<'_, '_, A, L> {
    /// Walks over everything, with the arena locked, and returns the first rule that is broken.
    /// Expected O(segments + spans · log spans).
    ///
    /// ```
    /// # use heap::vmem::{*, lock::LockApi, tags::{NoPages, TagPool}};
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// arena.alloc(0x2800, AllocPolicy::BestFit)?;
    /// assert_eq!(arena.check(), Ok(()));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// The rule, and the address.
    pub fn check(&self) -> Checked {
        self.lock().check(self.quantum)
    }
}

/// What the walk in address order found.
#[derive(Default)]
struct Census {
    total: usize,
    borrowed: usize,
    allocated: usize,
    idle_spans: usize,
    free_segments: usize,
    allocated_segments: usize,
    cursor_found: bool,
}

fn require(holds: bool, rule: Rule, address: usize) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Fault { rule, address })
    }
}

impl State {
    fn check(&self, quantum: usize) -> Checked {
        check_tree(self.spans.root(), 0, usize::MAX)?;
        let mut census = Census::default();
        let mut previous: Option<Tag> = None;
        let mut next = self.spans.at_or_above(0);
        while let Some(span) = next {
            let start = span.start.get();
            let disjoint = previous.is_none_or(|previous| previous.last.get() < start);
            require(disjoint, Rule::SpansDisjoint, start)?;
            self.check_span(span, quantum, &mut census)?;
            previous = Some(span);
            // Not from its end, which may be wrong.
            next = start
                .checked_add(1)
                .and_then(|above| self.spans.at_or_above(above));
        }
        self.check_free_lists(&census)?;
        self.check_index(&census)?;
        let mut idle_spans = 0;
        for span in self.idle.iter() {
            idle_spans += 1;
            // More than there are would be a circle.
            let right = is_idle(span.above()) && idle_spans <= census.idle_spans;
            require(right, Rule::IdleSpans, span.start.get())?;
        }
        require(idle_spans == census.idle_spans, Rule::IdleSpans, 0)?;
        let counters = census.total == self.total
            && census.borrowed == self.borrowed
            && census.allocated == self.allocated
            && census.idle_spans == self.idle.len();
        require(counters, Rule::Counters, 0)?;
        let cursor = self.cursor.near.is_none() || census.cursor_found;
        require(cursor, Rule::Cursor, self.cursor.address)
    }

    fn check_span(&self, span: Tag, quantum: usize, census: &mut Census) -> Checked {
        let mut expected = Some(span.start.get());
        let mut below = span;
        loop {
            let segment = below.above();
            require(segment.below() == below, Rule::Ring, below.start.get())?;
            if segment == span {
                break;
            }
            let (start, last) = (segment.start.get(), segment.last.get());
            require(!segment.is_span(), Rule::Ring, start)?;
            let follows = expected == Some(start) && start <= last;
            require(follows, Rule::SegmentsFillSpan, start)?;
            let aligned =
                start.is_multiple_of(quantum) && last.wrapping_add(1).is_multiple_of(quantum);
            require(aligned, Rule::Alignment, start)?;
            let merged = !(segment.is_free() && below.is_free());
            require(merged, Rule::FreeMerged, start)?;

            census.cursor_found |= self.cursor.near == Some(segment);
            if segment.is_free() {
                census.free_segments += 1;
                census.idle_spans += usize::from(is_idle(segment));
            } else {
                census.allocated_segments += 1;
                census.allocated += segment.size();
                let found = self.index.find(start) == Some(segment);
                require(found, Rule::Index, start)?;
            }
            expected = last.checked_add(1);
            below = segment;
        }
        let fills = below != span && below.last.get() == span.last.get();
        require(fills, Rule::SegmentsFillSpan, span.start.get())?;
        census.total += span.size();
        if span.kind.get() == (Kind::Span { borrowed: true }) {
            census.borrowed += span.size();
        }
        Ok(())
    }

    fn check_free_lists(&self, census: &Census) -> Checked {
        require(self.free.bits_agree(), Rule::FreeBits, 0)?;
        let mut count = 0;
        for (list, first) in self.free.lists_from(0) {
            let mut before = None;
            for segment in members(Some(first)) {
                let right = segment.is_free()
                    && self.free.list_of(segment.size()) == list
                    && segment.left.get() == before
                    && segment.below().above() == segment;
                require(right, Rule::FreeLists, segment.start.get())?;
                before = Some(segment);
                count += 1;
            }
        }
        require(count == census.free_segments, Rule::FreeLists, 0)
    }

    fn check_index(&self, census: &Census) -> Checked {
        let mut count = 0;
        for (bucket, first) in self.index.heads() {
            for segment in members(Some(first)) {
                let right = segment.is_allocated()
                    && self.index.bucket_of(segment.start.get()) == bucket
                    && count < census.allocated_segments;
                require(right, Rule::Index, segment.start.get())?;
                count += 1;
            }
        }
        let right = count == census.allocated_segments && count == self.index.len();
        require(right, Rule::Index, 0)
    }
}

/// Checks that a tree is a heap, with bases from `low` to `high`, inclusive.
fn check_tree(tree: Option<Tag>, low: usize, high: usize) -> Checked {
    let Some(top) = tree else { return Ok(()) };
    let base = top.start.get();
    let heap = [top.left.get(), top.right.get()]
        .into_iter()
        .flatten()
        .all(|child| spans::priority(child) <= spans::priority(top));
    require(top.is_span() && heap, Rule::SpanTree, base)?;
    require(low <= base && base <= high, Rule::SpanTree, base)?;
    // A span at 0 has nothing below it, one at the last address nothing above.
    match base.checked_sub(1) {
        Some(high) => check_tree(top.left.get(), low, high)?,
        None => require(top.left.get().is_none(), Rule::SpanTree, base)?,
    }
    match base.checked_add(1) {
        Some(low) => check_tree(top.right.get(), low, high),
        None => require(top.right.get().is_none(), Rule::SpanTree, base),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock::LockApi;
    use super::super::tags::{NoPages, TagPool};
    use super::super::{AllocPolicy, Layout, Result, Source};
    use super::*;

    type Lock = LockApi<spin::Mutex<()>>;
    type Pool = TagPool<Lock, NoPages, 256>;

    /// Lends from 0x10000 on, once.
    struct Lender;

    impl Source for Lender {
        fn import(&self, _layout: Layout) -> Result<usize> {
            Ok(0x1_0000)
        }

        unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
            Ok(())
        }
    }

    /// Breaks an arena with three spans, 0x1000 (two free segments, two allocated), 0x8000 (full)
    /// and 0x10000 (borrowed, free), and expects that rule to be reported.
    #[track_caller]
    fn finds(rule: Rule, damage: impl FnOnce(&mut State)) {
        let pool = Pool::new(Lock::new(), NoPages);
        let arena = Arena::<_, Lock>::create("damaged", 0x10, Some(&Lender), &pool).unwrap();
        arena.add_span(0x1000, 0x100).unwrap();
        arena.add_span(0x8000, 0x100).unwrap();
        arena.xalloc_at(0x8000, 0x100).unwrap();
        arena.xalloc_at(0x1010, 0x10).unwrap();
        arena.xalloc_at(0x1040, 0x20).unwrap();
        arena
            .import(Layout::from_size_align(0x100, 0x10).unwrap())
            .unwrap();
        assert_eq!(arena.alloc(0xa0, AllocPolicy::NextFit), Ok(0x1060));
        assert_eq!(arena.check(), Ok(()));
        damage(&mut arena.lock());
        let found = arena.check().unwrap_err();
        assert_eq!(found.rule, rule, "{found}");
        // What is damaged cannot be taken apart.
        core::mem::forget(arena);
        core::mem::forget(pool);
    }

    fn at(state: &State, address: usize) -> Tag {
        state.segment_containing(address).unwrap()
    }

    /// In a full span, and in a tree in which spans lie on both sides of the root.
    #[test]
    fn a_look_up_ends_although_links_lead_in_circles() {
        let pool = Pool::new(Lock::new(), NoPages);
        let arena = Arena::<_, Lock>::create("circles", 0x10, None, &pool).unwrap();
        for span in 1..16 {
            arena.add_span(0x1000 * span, 0x40).unwrap();
            for segment in 0..4 {
                let base = 0x1000 * span + 0x10 * segment;
                arena.xalloc_at(base, 0x10).unwrap();
            }
        }
        let low = at(&arena.lock(), 0x1010);
        let high = low.above();
        low.next.set(low);
        assert!(arena.segment_of(0x1010).is_some());
        assert_eq!(arena.segment_of(0x1020), None);
        low.next.set(high);
        high.next.set(low);
        assert_eq!(arena.segment_of(0x1030), None);

        let root = arena.lock().spans.root().unwrap();
        let (left, right) = (root.left.get().unwrap(), root.right.get().unwrap());
        for circle in [root, left, right] {
            for span in [root, left, right] {
                let links = (span.left.get(), span.right.get());
                span.left.set(Some(circle));
                span.right.set(Some(circle));
                for address in (0..0x1_1000).step_by(0x10) {
                    let found = arena.segment_of(address);
                    let is_right = found.is_none_or(|it| (it.base..=it.last).contains(&address));
                    assert!(is_right, "{address:#x} in {found:?}");
                }
                span.left.set(links.0);
                span.right.set(links.1);
            }
        }
        // What is damaged cannot be taken apart.
        core::mem::forget(arena);
        core::mem::forget(pool);
    }

    #[test]
    fn a_span_out_of_order_is_found() {
        finds(Rule::SpanTree, |state| {
            let root = state.spans.root().unwrap();
            let (left, right) = (root.left.get(), root.right.get());
            root.left.set(right);
            root.right.set(left);
        });
    }

    #[test]
    fn spans_that_overlap_are_found() {
        finds(Rule::SpansDisjoint, |state| {
            let span = state.spans.containing(0x1000).unwrap();
            let last = at(state, 0x10ff);
            span.last.set(0x8fff);
            last.last.set(0x8fff);
        });
    }

    #[test]
    fn a_segment_that_is_not_aligned_is_found() {
        finds(Rule::Alignment, |state| at(state, 0x1000).last.set(0x1007));
    }

    #[test]
    fn a_gap_between_segments_is_found() {
        finds(Rule::SegmentsFillSpan, |state| {
            at(state, 0x1040).last.set(0x104f)
        });
    }

    #[test]
    fn a_span_longer_than_its_segments_is_found() {
        finds(Rule::SegmentsFillSpan, |state| {
            state.spans.containing(0x1000).unwrap().last.set(0x110f);
        });
    }

    #[test]
    fn neighbours_that_do_not_know_each_other_are_found() {
        finds(Rule::Ring, |state| {
            let segment = at(state, 0x1040);
            segment.prev.set(segment);
        });
    }

    #[test]
    fn free_neighbours_are_found() {
        finds(Rule::FreeMerged, |state| {
            at(state, 0x1010).kind.set(Kind::Free)
        });
    }

    #[test]
    fn a_free_segment_in_no_list_is_found() {
        finds(Rule::FreeLists, |state| {
            let segment = at(state, 0x1020);
            state.free.remove(segment);
        });
    }

    #[test]
    fn a_free_segment_in_the_wrong_list_is_found() {
        finds(Rule::FreeLists, |state| {
            let segment = at(state, 0x1020);
            state.free.remove(segment);
            segment.last.set(0x102f);
            state.free.insert(segment);
            segment.last.set(0x103f);
        });
    }

    #[test]
    fn a_wrong_bit_is_found() {
        finds(Rule::FreeBits, |state| state.free.flip_bit(100));
    }

    #[test]
    fn an_allocated_segment_that_is_not_in_the_index_is_found() {
        finds(Rule::Index, |state| {
            let segment = at(state, 0x1040);
            state.index.take(segment.start.get(), |_| Ok(())).unwrap();
        });
    }

    #[test]
    fn an_idle_span_that_is_not_in_its_queue_is_found() {
        finds(Rule::IdleSpans, |state| {
            let span = state.spans.containing(0x1_0000).unwrap();
            state.idle.remove(span);
        });
    }

    #[test]
    fn wrong_counters_are_found() {
        finds(Rule::Counters, |state| state.total += 0x10);
        finds(Rule::Counters, |state| state.allocated -= 0x10);
        finds(Rule::Counters, |state| state.borrowed -= 0x10);
    }

    #[test]
    fn a_lost_cursor_is_found() {
        finds(Rule::Cursor, |state| {
            state.cursor.near = state.spans.root();
        });
    }
}
