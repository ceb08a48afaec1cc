//! The check of an arena: a walk over all its structures that finds corruption.

use core::fmt;

use super::boundary_tag::{Kind, TagRef};
use super::free_lists::members;
use super::span_tree;
use super::state::{State, is_idle};
use super::{Arena, Lock, TagSupply};

/// A broken invariant of an arena, found by [`Arena::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    /// The broken rule.
    pub rule: Rule,
    /// The base of the span or segment that breaks the rule; 0 for the arena as a whole.
    pub address: usize,
}

/// An invariant of an arena, which holds whenever the arena is not locked.
///
/// ```text
///  SpanTree, SpansDisjoint            in a tree
///  Ring, SegmentsFillSpan,       ┌──▶ span ◀──▶ free ◀──▶ allocated ◀──▶ free ◀──┐
///  Coalesced, Alignment         └───────────────────────────────────────────────┘
///  FreeLists, FreeBitmap                          in a list                in a list
///  Index                                                  in a bucket
///  IdleSpans                     queue of the imported spans that are entirely free
///  Discarded, Parts              marks of segments; calls to the source in progress
///  Counters, Cursor              total, allocated, borrowed; position of NextFit
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The tree of spans is ordered by base, and is a heap by priority.
    SpanTree,
    /// Spans do not overlap.
    SpansDisjoint,
    /// Spans and segments begin and end at multiples of the quantum.
    Alignment,
    /// The segments of a span follow each other without a gap, and fill the span.
    SegmentsFillSpan,
    /// The links between neighbours agree in both directions.
    Ring,
    /// No two free segments are neighbours.
    Coalesced,
    /// The free list for a size class contains exactly the free segments of that class.
    FreeLists,
    /// The bitmap marks exactly the nonempty free lists.
    FreeBitmap,
    /// The hash table contains exactly the allocated segments, each in the bucket for its base.
    Index,
    /// The queue of idle spans contains exactly the imported spans that are entirely free.
    IdleSpans,
    /// Only segments of imported spans are marked as discarded.
    Discarded,
    /// Parts about which a call is in progress lie in allocated segments. These segments, and those
    /// that are allocated or resized, are busy.
    Parts,
    /// The counters agree with the segments.
    Counters,
    /// The cursor of `NextFit` refers to a segment of the arena.
    Cursor,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match self.rule {
            Rule::SpanTree => "the tree of spans is out of order",
            Rule::SpansDisjoint => "spans overlap",
            Rule::Alignment => "a segment is not aligned to the quantum",
            Rule::SegmentsFillSpan => "the segments do not fill the span",
            Rule::Ring => "the links between neighbours disagree",
            Rule::Coalesced => "two free neighbours have not coalesced",
            Rule::FreeLists => "a free list is wrong",
            Rule::FreeBitmap => "the bitmap of the free lists is wrong",
            Rule::Index => "the hash table of allocated segments is wrong",
            Rule::IdleSpans => "the queue of idle spans is wrong",
            Rule::Discarded => "a segment that is not imported is marked as discarded",
            Rule::Parts => "a call about a part of a segment is recorded wrongly",
            Rule::Counters => "a counter is wrong",
            Rule::Cursor => "the cursor refers to no segment",
        };
        write!(f, "{rule}, at {:#x}", self.address)
    }
}

impl core::error::Error for Corruption {}

type Checked = core::result::Result<(), Corruption>;

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Checks all structures of the arena, and returns the first broken rule. Holds the lock for
    /// expected O(segments + spans · log spans).
    ///
    /// ```
    /// # use heap::vmem::*;
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
    /// The broken rule, and the address.
    pub fn check(&self) -> Checked {
        self.lock().check(self.quantum)
    }
}

/// The totals of the walk in address order.
#[derive(Default)]
struct Totals {
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
        Err(Corruption { rule, address })
    }
}

impl State {
    fn check(&self, quantum: usize) -> Checked {
        check_tree(self.spans.root(), 0, usize::MAX)?;
        let mut totals = Totals::default();
        let mut previous: Option<TagRef> = None;
        let mut next = self.spans.at_or_above(0);
        while let Some(span) = next {
            let start = span.start.get();
            let disjoint = previous.is_none_or(|previous| previous.last.get() < start);
            require(disjoint, Rule::SpansDisjoint, start)?;
            self.check_span(span, quantum, &mut totals)?;
            previous = Some(span);
            // Not from the end of the span, which may be wrong.
            next = start
                .checked_add(1)
                .and_then(|above| self.spans.at_or_above(above));
        }
        self.check_free_lists(&totals)?;
        self.check_index(&totals)?;
        self.check_parts()?;
        let mut idle_spans = 0;
        for span in self.idle.iter() {
            idle_spans += 1;
            // A longer queue would be a cycle.
            let right = is_idle(span.above()) && idle_spans <= totals.idle_spans;
            require(right, Rule::IdleSpans, span.start.get())?;
        }
        require(idle_spans == totals.idle_spans, Rule::IdleSpans, 0)?;
        let counters = totals.total == self.total
            && totals.borrowed == self.borrowed
            && totals.allocated == self.allocated
            && totals.idle_spans == self.idle.len();
        require(counters, Rule::Counters, 0)?;
        let cursor = self.cursor.near.is_none() || totals.cursor_found;
        require(cursor, Rule::Cursor, self.cursor.address)
    }

    fn check_span(&self, span: TagRef, quantum: usize, totals: &mut Totals) -> Checked {
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
            let aligned = start % quantum == 0 && last.wrapping_add(1) % quantum == 0;
            require(aligned, Rule::Alignment, start)?;
            let merged = !(segment.is_free() && below.is_free());
            require(merged, Rule::Coalesced, start)?;

            let discarded = segment.discarded.get() && !span.is_borrowed_span();
            require(!discarded, Rule::Discarded, start)?;

            totals.cursor_found |= self.cursor.near == Some(segment);
            if segment.is_free() {
                totals.free_segments += 1;
                totals.idle_spans += usize::from(is_idle(segment));
            } else {
                totals.allocated_segments += 1;
                totals.allocated += segment.size();
                let found = self.index.find(start) == Some(segment);
                require(found, Rule::Index, start)?;
                let busy = segment.busy.get() == self.is_in_use_by_calls(segment);
                require(busy, Rule::Parts, start)?;
            }
            expected = last.checked_add(1);
            below = segment;
        }
        let fills = below != span && below.last.get() == span.last.get();
        require(fills, Rule::SegmentsFillSpan, span.start.get())?;
        totals.total += span.size();
        if span.kind.get() == (Kind::Span { borrowed: true }) {
            totals.borrowed += span.size();
        }
        Ok(())
    }

    fn check_free_lists(&self, totals: &Totals) -> Checked {
        require(self.free_lists.bitmap_agrees(), Rule::FreeBitmap, 0)?;
        let mut count = 0;
        for (list, first) in self.free_lists.nonempty_lists_from(0) {
            let mut before = None;
            for segment in members(Some(first)) {
                let right = segment.is_free()
                    && self.free_lists.list_of(segment.size()) == list
                    && segment.left.get() == before
                    && segment.below().above() == segment;
                require(right, Rule::FreeLists, segment.start.get())?;
                before = Some(segment);
                count += 1;
            }
        }
        require(count == totals.free_segments, Rule::FreeLists, 0)
    }

    fn check_parts(&self) -> Checked {
        for part in self.parts.iter() {
            let (start, last) = (part.start.get(), part.last.get());
            let inside = self
                .segment_containing(start)
                .is_some_and(|segment| segment.is_allocated() && segment.contains(last));
            // Itself, and no other.
            let overlaps = self
                .parts
                .iter()
                .filter(|other| other.start.get() <= last && start <= other.last.get())
                .count();
            require(inside && overlaps == 1, Rule::Parts, start)?;
        }
        Ok(())
    }

    fn check_index(&self, totals: &Totals) -> Checked {
        let mut count = 0;
        for (bucket, first) in self.index.heads() {
            for segment in members(Some(first)) {
                let right = segment.is_allocated()
                    && self.index.bucket_of(segment.start.get()) == bucket
                    && count < totals.allocated_segments;
                require(right, Rule::Index, segment.start.get())?;
                count += 1;
            }
        }
        let right = count == totals.allocated_segments && count == self.index.len();
        require(right, Rule::Index, 0)
    }
}

/// Checks that a tree is ordered and a heap, with bases from `low` to `high`, inclusive.
fn check_tree(tree: Option<TagRef>, low: usize, high: usize) -> Checked {
    let Some(top) = tree else { return Ok(()) };
    let base = top.start.get();
    let heap = [top.left.get(), top.right.get()]
        .into_iter()
        .flatten()
        .all(|child| span_tree::priority(child) <= span_tree::priority(top));
    require(top.is_span() && heap, Rule::SpanTree, base)?;
    require(low <= base && base <= high, Rule::SpanTree, base)?;
    // A span at 0 has no left child, and one at the last address no right child.
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
    use super::super::{AllocPolicy, Layout, LockApi, NoPages, Result, Source, TagPool};
    use super::*;

    type Lock = LockApi<spin::Mutex<()>>;
    type Pool = TagPool<Lock, NoPages, 256>;

    /// A source that lends the range at 0x10000 once.
    struct Lender;

    impl Source for Lender {
        fn import(&self, _layout: Layout) -> Result<usize> {
            Ok(0x1_0000)
        }

        unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
            Ok(())
        }
    }

    /// Damages an arena, and expects `check` to report `rule`.
    ///
    /// The arena has three spans: 0x1000 with free and allocated segments, 0x8000 fully allocated,
    /// and 0x10000 imported and free.
    #[track_caller]
    fn assert_reports(rule: Rule, damage: impl FnOnce(&mut State)) {
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
        // A damaged arena cannot be dropped.
        core::mem::forget(arena);
        core::mem::forget(pool);
    }

    fn at(state: &State, address: usize) -> TagRef {
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
    fn a_tree_of_spans_out_of_order_is_reported() {
        assert_reports(Rule::SpanTree, |state| {
            let root = state.spans.root().unwrap();
            let (left, right) = (root.left.get(), root.right.get());
            root.left.set(right);
            root.right.set(left);
        });
    }

    #[test]
    fn overlapping_spans_are_reported() {
        assert_reports(Rule::SpansDisjoint, |state| {
            let span = state.spans.containing(0x1000).unwrap();
            let last = at(state, 0x10ff);
            span.last.set(0x8fff);
            last.last.set(0x8fff);
        });
    }

    #[test]
    fn a_mark_outside_imported_spans_is_reported() {
        assert_reports(Rule::Discarded, |state| {
            at(state, 0x1040).discarded.set(true);
        });
        assert_reports(Rule::Discarded, |state| {
            at(state, 0x1000).discarded.set(true);
        });
    }

    #[test]
    fn a_wrong_part_is_reported() {
        // The segment is not busy.
        assert_reports(Rule::Parts, |state| {
            let segment = at(state, 0x1040);
            state.begin_part(segment, 0x1050, 0x105f);
            segment.busy.set(false);
        });
        // No call is in progress.
        assert_reports(Rule::Parts, |state| at(state, 0x1040).busy.set(true));
        // The part is free, or ends in another segment.
        for (start, last) in [(0x1000, 0x1fff), (0x1050, 0x106f)] {
            assert_reports(Rule::Parts, |state| {
                let segment = at(state, 0x1040);
                let part = state.begin_part(segment, 0x1050, 0x105f);
                part.start.set(start);
                part.last.set(last);
                segment.busy.set(state.parts.overlap(0x1040, 0x105f));
                let above = at(state, 0x1060);
                above.busy.set(state.parts.overlap(0x1060, 0x10ff));
                at(state, 0x1010).busy.set(start == 0x1000);
            });
        }
        // Two parts overlap.
        assert_reports(Rule::Parts, |state| {
            let segment = at(state, 0x1040);
            state.begin_part(segment, 0x1040, 0x104f);
            let part = state.begin_part(segment, 0x1050, 0x105f);
            part.start.set(0x1040);
        });
    }

    #[test]
    fn a_misaligned_segment_is_reported() {
        assert_reports(Rule::Alignment, |state| at(state, 0x1000).last.set(0x1007));
    }

    #[test]
    fn a_gap_between_segments_is_reported() {
        assert_reports(Rule::SegmentsFillSpan, |state| {
            at(state, 0x1040).last.set(0x104f)
        });
    }

    #[test]
    fn a_span_longer_than_its_segments_is_reported() {
        assert_reports(Rule::SegmentsFillSpan, |state| {
            state.spans.containing(0x1000).unwrap().last.set(0x110f);
        });
    }

    #[test]
    fn inconsistent_links_between_neighbours_are_reported() {
        assert_reports(Rule::Ring, |state| {
            let segment = at(state, 0x1040);
            segment.prev.set(segment);
        });
    }

    #[test]
    fn free_neighbours_that_did_not_coalesce_are_reported() {
        assert_reports(Rule::Coalesced, |state| {
            at(state, 0x1010).kind.set(Kind::Free)
        });
    }

    #[test]
    fn a_free_segment_in_no_list_is_reported() {
        assert_reports(Rule::FreeLists, |state| {
            let segment = at(state, 0x1020);
            state.free_lists.remove(segment);
        });
    }

    #[test]
    fn a_free_segment_in_the_wrong_list_is_reported() {
        assert_reports(Rule::FreeLists, |state| {
            let segment = at(state, 0x1020);
            state.free_lists.remove(segment);
            segment.last.set(0x102f);
            state.free_lists.insert(segment);
            segment.last.set(0x103f);
        });
    }

    #[test]
    fn a_wrong_bit_in_the_bitmap_is_reported() {
        assert_reports(Rule::FreeBitmap, |state| state.free_lists.flip_bit(100));
    }

    #[test]
    fn an_allocated_segment_missing_in_the_index_is_reported() {
        assert_reports(Rule::Index, |state| {
            let segment = at(state, 0x1040);
            state.index.take(segment.start.get(), |_| Ok(())).unwrap();
        });
    }

    #[test]
    fn an_idle_span_missing_in_its_queue_is_reported() {
        assert_reports(Rule::IdleSpans, |state| {
            let span = state.spans.containing(0x1_0000).unwrap();
            state.idle.remove(span);
        });
    }

    #[test]
    fn wrong_counters_are_reported() {
        assert_reports(Rule::Counters, |state| state.total += 0x10);
        assert_reports(Rule::Counters, |state| state.allocated -= 0x10);
        assert_reports(Rule::Counters, |state| state.borrowed -= 0x10);
    }

    #[test]
    fn a_cursor_without_a_segment_is_reported() {
        assert_reports(Rule::Cursor, |state| {
            state.cursor.near = state.spans.root();
        });
    }
}
