//! The state that the lock of an arena protects, and the steps that change it.
//!
//! The steps that move boundaries cannot fail: their callers have checked the arguments and made
//! sure of enough tags before.

use super::boundary_tag::{Kind, TagRef};
use super::free_lists::FreeLists;
use super::idle_spans::IdleSpans;
use super::index::Index;
use super::parts::Parts;
use super::request::round_up;
use super::span_tree::SpanTree;
use super::tag_cache::TagCache;
use super::tag_refill::{SHRINK_RESERVE, TAGS_PER_OPERATION};
use super::{Error, Result};

/// The structures of an arena.
pub(super) struct State {
    pub(super) spans: SpanTree,
    pub(super) free_lists: FreeLists,
    pub(super) index: Index,
    pub(super) tag_cache: TagCache,
    pub(super) cursor: Cursor,
    /// The size of all spans.
    pub(super) total: usize,
    /// The size of all allocated segments.
    pub(super) allocated: usize,
    /// The size of all imported spans.
    pub(super) borrowed: usize,
    /// The size by which `total` may still grow through operations that wait for the source.
    reserved: usize,
    /// The imported spans that are entirely free.
    pub(super) idle: IdleSpans,
    /// The parts of allocated segments about which a call to the source is in progress.
    pub(super) parts: Parts,
    /// Whether the source has answered `shrink` with `NotSupported`.
    pub(super) source_cannot_shrink: bool,
    /// Increases whenever a tag leaves the address order. A remembered tag is still there if the
    /// generation is the same.
    pub(super) generation: u64,
}

/// The position of `NextFit`. (illumos calls it the rotor.)
#[derive(Default)]
pub(super) struct Cursor {
    /// The address at which the next search begins.
    pub(super) address: usize,
    /// A segment near this address.
    pub(super) near: Option<TagRef>,
}

impl State {
    pub(super) fn new(shift: u32) -> Self {
        Self {
            spans: SpanTree::default(),
            free_lists: FreeLists::new(shift),
            index: Index::new(),
            tag_cache: TagCache::new(),
            cursor: Cursor::default(),
            total: 0,
            allocated: 0,
            borrowed: 0,
            reserved: 0,
            idle: IdleSpans::default(),
            parts: Parts::default(),
            source_cannot_shrink: false,
            generation: 0,
        }
    }

    /// Returns whether the tag cache suffices for any operation, and the index needs no page.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.tag_cache.len() >= TAGS_PER_OPERATION + SHRINK_RESERVE && !self.index.is_growth_due()
    }

    /// Reserves `size` below the limit, until [`State::end_reservation`].
    ///
    /// # Errors
    /// [`Error::LimitReached`]; [`Error::SizeOverflow`] if the total is not representable.
    pub(super) fn reserve(&mut self, size: usize, limit: usize) -> Result<()> {
        let total = (self.total + self.reserved)
            .checked_add(size)
            .ok_or(Error::SizeOverflow { size })?;
        if total > limit {
            return Err(Error::LimitReached { limit, total });
        }
        self.reserved += size;
        Ok(())
    }

    /// Reserves `size` for a range that is offered to the source, in case the source refuses it.
    pub(super) fn reserve_for_release(&mut self, size: usize) {
        self.reserved += size;
    }

    /// Ends a reservation of `size`. The caller adds the range afterwards, or never.
    pub(super) fn end_reservation(&mut self, size: usize) {
        self.reserved -= size;
    }

    /// Adds a span, which overlaps no other, and returns its one free segment. Takes two tags.
    pub(super) fn add_span(&mut self, base: usize, last: usize, borrowed: bool) -> TagRef {
        let (span, segment) = (self.tag_cache.take(), self.tag_cache.take());
        span.set(Kind::Span { borrowed }, base, last);
        segment.set(Kind::Free, base, last);
        link(span, segment);
        link(segment, span);
        self.spans.insert(span);
        self.free_lists.insert(segment);
        self.total += span.size();
        if borrowed {
            self.borrowed += span.size();
            self.idle.push(span);
        }
        segment
    }

    /// Removes an imported span that is entirely free. Returns two tags to the cache.
    pub(super) fn remove_span(&mut self, span: TagRef) {
        let segment = span.above();
        debug_assert!(is_idle(segment) && !span.busy.get());
        self.idle.remove(span);
        self.free_lists.remove(segment);
        self.spans.remove(span);
        self.total -= span.size();
        self.borrowed -= span.size();
        self.remove_tag(segment, None);
        self.tag_cache.put(span);
    }

    /// Allocates `size` at `base` in a free segment, and returns the allocated segment. Takes up
    /// to two tags. All parts are marked as discarded if the free segment is.
    pub(super) fn carve(&mut self, free: TagRef, base: usize, size: usize) -> TagRef {
        let (start, last) = (free.start.get(), free.last.get());
        let discarded = free.discarded.get();
        if base == start {
            let list = self.free_lists.list_of(free.size());
            let allocated = self.carve_front(free, list, size);
            allocated.discarded.set(discarded);
            return allocated;
        }
        self.leave_idle_queue(free);
        let end = base + (size - 1);
        let allocated = self.tag_cache.take();
        // The larger part keeps the tag, since it most likely stays in its list.
        if base - start < last - end {
            let front = self.tag_cache.take();
            link(free.below(), front);
            link(front, allocated);
            link(allocated, free);
            front.set(Kind::Free, start, base - 1);
            front.discarded.set(discarded);
            self.free_lists.insert(front);
            free.start.set(end + 1);
            self.free_lists.relist(free, last - start + 1);
        } else {
            insert_above(free, allocated);
            free.last.set(base - 1);
            self.free_lists.relist(free, last - start + 1);
            if end != last {
                let rest = self.tag_cache.take();
                insert_above(allocated, rest);
                rest.set(Kind::Free, end + 1, last);
                rest.discarded.set(discarded);
                self.free_lists.insert(rest);
            }
        }
        self.register_allocated(allocated, base, size);
        allocated.discarded.set(discarded);
        allocated
    }

    /// Allocates the first `size` of a free segment, which is in `list`, and returns the allocated
    /// segment, not marked as discarded. Takes up to one tag.
    #[inline(always)]
    pub(super) fn carve_front(&mut self, free: TagRef, list: usize, size: usize) -> TagRef {
        self.leave_idle_queue(free);
        let (base, last) = (free.start.get(), free.last.get());
        let end = base + (size - 1);
        let allocated = if end == last {
            self.free_lists.unlink(free, list);
            free
        } else {
            let allocated = self.tag_cache.take();
            insert_above(free.below(), allocated);
            free.start.set(end + 1);
            self.free_lists.relist_from(free, last - base + 1, list);
            allocated
        };
        self.register_allocated(allocated, base, size)
    }

    /// Makes a tag that is in the address order an allocated segment, and adds it to the index.
    #[inline]
    fn register_allocated(&mut self, tag: TagRef, base: usize, size: usize) -> TagRef {
        tag.set(Kind::Allocated, base, base + (size - 1));
        self.allocated += size;
        self.index.insert(tag);
        tag
    }

    /// Removes the span of `free` from the idle spans, before the segment is divided or allocated.
    #[inline]
    fn leave_idle_queue(&mut self, free: TagRef) {
        if is_idle(free) {
            self.idle.remove(free.below());
        }
    }

    /// Frees an allocated segment, coalesces it with its neighbours, and returns the result.
    ///
    /// The segment has left the index. If the result is all of an imported span, the caller adds
    /// the span to the idle spans. Returns up to two tags to the cache.
    #[inline(always)]
    pub(super) fn free_and_coalesce(&mut self, tag: TagRef) -> TagRef {
        let (start, last) = (tag.start.get(), tag.last.get());
        self.allocated -= last - start + 1;
        let (below, above) = (tag.below(), tag.above());
        // A move to another free list comes last in each arm: few values are live then.
        match (below.is_free(), above.is_free()) {
            (false, false) => {
                tag.kind.set(Kind::Free);
                self.free_lists.insert(tag);
                tag
            }
            (true, false) => {
                below.add_discarded(tag.discarded.get());
                self.remove_tag(tag, Some(below));
                self.set_bounds(below, below.start.get(), last);
                below
            }
            (false, true) => {
                above.add_discarded(tag.discarded.get());
                self.remove_tag(tag, Some(above));
                self.set_bounds(above, start, above.last.get());
                above
            }
            (true, true) => {
                let (start, last) = (below.start.get(), above.last.get());
                // The larger one survives, since it most likely stays in its list.
                let (survivor, absorbed) = if below.size() < above.size() {
                    (above, below)
                } else {
                    (below, above)
                };
                survivor.add_discarded(tag.discarded.get() | absorbed.discarded.get());
                self.free_lists.remove(absorbed);
                self.remove_tag(tag, Some(survivor));
                self.remove_tag(absorbed, Some(survivor));
                self.set_bounds(survivor, start, last);
                survivor
            }
        }
    }

    /// Moves the end of an allocated segment up to `last`, an address of the free segment above.
    /// Returns up to one tag to the cache. The caller restores the added part if it may be
    /// discarded: the mark of the allocated segment does not change.
    pub(super) fn grow(&mut self, tag: TagRef, last: usize) {
        let above = tag.above();
        debug_assert!(tag.is_allocated() && above.is_free() && above.contains(last));
        self.allocated += last - tag.last.get();
        tag.last.set(last);
        if above.last.get() == last {
            self.free_lists.remove(above);
            self.remove_tag(above, Some(tag));
        } else {
            self.set_bounds(above, last + 1, above.last.get());
        }
    }

    /// Moves the end of an allocated segment down to `last`. The rest becomes free. Takes a tag
    /// unless a free segment lies above.
    pub(super) fn shrink(&mut self, tag: TagRef, last: usize) {
        let (above, end) = (tag.above(), tag.last.get());
        debug_assert!(tag.is_allocated() && tag.contains(last) && last != end);
        self.allocated -= end - last;
        tag.last.set(last);
        if above.is_free() {
            above.add_discarded(tag.discarded.get());
            self.set_bounds(above, last + 1, above.last.get());
        } else {
            let rest = self.tag_cache.take();
            rest.set(Kind::Free, last + 1, end);
            rest.discarded.set(tag.discarded.get());
            insert_above(tag, rest);
            self.free_lists.insert(rest);
        }
    }

    /// Moves the end of an imported span, and of the allocated segment at its end, up to `last`.
    pub(super) fn extend(&mut self, span: TagRef, last: usize) {
        let tag = span.below();
        debug_assert!(tag.is_allocated());
        let size = last - span.last.get();
        tag.last.set(last);
        span.last.set(last);
        self.allocated += size;
        self.total += size;
        self.borrowed += size;
    }

    /// Cuts the free tail off an imported span, and returns the last address of the tail.
    ///
    /// The remaining size is a multiple of `quantum`. Returns `None` if no whole quantum is free,
    /// or if no tag is cached. A tag stays in the cache, for [`restore_tail`](Self::restore_tail).
    pub(super) fn cut_tail(&mut self, span: TagRef, quantum: usize) -> Option<usize> {
        let tail = span.below();
        debug_assert!(tail.is_free() && !is_idle(tail));
        let (base, start, last) = (span.start.get(), tail.start.get(), tail.last.get());
        let kept = round_up(start - base, quantum).ok()?;
        let size = span.size().checked_sub(kept).filter(|&size| size != 0)?;
        if base + kept == start {
            self.free_lists.remove(tail);
            self.remove_tag(tail, None);
        } else if self.tag_cache.len() != 0 {
            self.set_bounds(tail, start, base + kept - 1);
        } else {
            return None;
        }
        self.total -= size;
        self.borrowed -= size;
        span.last.set(base + kept - 1);
        Some(last)
    }

    /// Adds a free tail up to `last` to an imported span, of which memory may be `discarded`. Takes
    /// up to one tag.
    pub(super) fn restore_tail(&mut self, span: TagRef, last: usize, discarded: bool) {
        let (below, end) = (span.below(), span.last.get());
        if below.is_free() {
            below.add_discarded(discarded);
            self.set_bounds(below, below.start.get(), last);
        } else {
            let tail = self.tag_cache.take();
            tail.set(Kind::Free, end + 1, last);
            tail.discarded.set(discarded);
            insert_above(below, tail);
            self.free_lists.insert(tail);
        }
        span.last.set(last);
        self.total += last - end;
        self.borrowed += last - end;
    }

    /// Changes the bounds of a free segment, and moves it to the list for its size.
    #[inline]
    fn set_bounds(&mut self, tag: TagRef, start: usize, last: usize) {
        let before = tag.size();
        tag.start.set(start);
        tag.last.set(last);
        self.free_lists.relist(tag, before);
    }

    /// Removes a tag from the address order. A cursor near it moves to `replacement`.
    #[inline]
    fn remove_tag(&mut self, tag: TagRef, replacement: Option<TagRef>) {
        link(tag.below(), tag.above());
        if self.cursor.near == Some(tag) {
            self.cursor.near = replacement;
        }
        self.generation += 1;
        self.tag_cache.put(tag);
    }
}

/// Returns whether this segment is free and fills an imported span.
#[inline]
pub(super) fn is_idle(tag: TagRef) -> bool {
    let span = tag.above();
    span.is_borrowed_span() && span == tag.below() && tag.is_free()
}

/// Links two tags as neighbours.
fn link(below: TagRef, above: TagRef) {
    below.next.set(above);
    above.prev.set(below);
}

/// Inserts `new` into the address order above `tag`.
fn insert_above(tag: TagRef, new: TagRef) {
    link(new, tag.above());
    link(tag, new);
}
