//! What the lock of an arena protects, and the steps by which it changes.
//!
//! No step here can fail: the tags that it takes were made sure of before, and what it may do was
//! decided by its caller.

use super::fit::round_up;
use super::freelist::FreeLists;
use super::idle::IdleSpans;
use super::index::Index;
use super::restock::{PER_OPERATION, RESERVE};
use super::segment::{Kind, Tag};
use super::spans::Spans;
use super::stash::Stash;
use super::{Error, Result};

/// The structures of an arena.
pub(super) struct State {
    pub(super) spans: Spans,
    pub(super) free: FreeLists,
    pub(super) index: Index,
    pub(super) stash: Stash,
    pub(super) cursor: Cursor,
    /// Bytes in all spans.
    pub(super) total: usize,
    /// Bytes in all allocated segments.
    pub(super) allocated: usize,
    /// Bytes in all borrowed spans.
    pub(super) borrowed: usize,
    /// How much `total` may yet grow by operations that are waiting for the source.
    pending: usize,
    /// The borrowed spans that are entirely free.
    pub(super) idle: IdleSpans,
    /// Whether the source has said that it does not take parts of spans.
    pub(super) keeps_tails: bool,
    /// Goes up whenever a tag leaves the address order, so that whoever remembers a tag knows
    /// whether it is still there.
    pub(super) generation: u64,
}

/// Where `NextFit` goes on.
#[derive(Default)]
pub(super) struct Cursor {
    /// The first address to be considered.
    pub(super) address: usize,
    /// A segment near it.
    pub(super) near: Option<Tag>,
}

impl State {
    pub(super) fn new(shift: u32) -> Self {
        Self {
            spans: Spans::default(),
            free: FreeLists::new(shift),
            index: Index::new(),
            stash: Stash::new(),
            cursor: Cursor::default(),
            total: 0,
            allocated: 0,
            borrowed: 0,
            pending: 0,
            idle: IdleSpans::default(),
            keeps_tails: false,
            generation: 0,
        }
    }

    /// Whether there are tags in hand for any operation, and the index needs nothing.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.stash.len() >= PER_OPERATION + RESERVE && !self.index.wants_page()
    }

    /// Reserves room for `size` more bytes below the limit, until [`State::settle`].
    pub(super) fn reserve(&mut self, size: usize, limit: usize) -> Result<()> {
        let total = (self.total + self.pending)
            .checked_add(size)
            .ok_or(Error::SizeOverflow { size })?;
        if total > limit {
            return Err(Error::LimitReached { limit, total });
        }
        self.pending += size;
        Ok(())
    }

    /// Reserves room for bytes that are going to the source, which may not take them.
    pub(super) fn hold(&mut self, size: usize) {
        self.pending += size;
    }

    /// Ends a reservation: the bytes are about to be added, or never will be.
    pub(super) fn settle(&mut self, size: usize) {
        self.pending -= size;
    }

    /// Adds a span with one free segment, and returns the segment. It overlaps no other span. Takes
    /// two tags.
    pub(super) fn add_span(&mut self, base: usize, last: usize, borrowed: bool) -> Tag {
        let (span, segment) = (self.stash.take(), self.stash.take());
        span.set(Kind::Span { borrowed }, base, last);
        segment.set(Kind::Free, base, last);
        link(span, segment);
        link(segment, span);
        self.spans.insert(span);
        self.free.insert(segment);
        self.total += span.size();
        if borrowed {
            self.borrowed += span.size();
            self.idle.push(span);
        }
        segment
    }

    /// Removes a borrowed span that is entirely free. Puts back two tags.
    pub(super) fn remove_span(&mut self, span: Tag) {
        let segment = span.above();
        debug_assert!(is_idle(segment) && !span.busy.get());
        self.idle.remove(span);
        self.free.remove(segment);
        self.spans.remove(span);
        self.total -= span.size();
        self.borrowed -= span.size();
        self.retire(segment, None);
        self.stash.put(span);
    }

    /// Allocates `size` bytes at `base` of a free segment, and returns the allocated segment. Takes
    /// up to two tags.
    pub(super) fn carve(&mut self, free: Tag, base: usize, size: usize) -> Tag {
        let (start, last) = (free.start.get(), free.last.get());
        if base == start {
            return self.carve_front(free, self.free.list_of(free.size()), size);
        }
        self.wake(free);
        let end = base + (size - 1);
        let allocated = self.stash.take();
        // The larger part most likely stays in its list.
        if base - start < last - end {
            let front = self.stash.take();
            link(free.below(), front);
            link(front, allocated);
            link(allocated, free);
            front.set(Kind::Free, start, base - 1);
            self.free.insert(front);
            free.start.set(end + 1);
            self.free.resized(free, last - start + 1);
        } else {
            insert_above(free, allocated);
            free.last.set(base - 1);
            self.free.resized(free, last - start + 1);
            if end != last {
                let rest = self.stash.take();
                insert_above(allocated, rest);
                rest.set(Kind::Free, end + 1, last);
                self.free.insert(rest);
            }
        }
        self.enter(allocated, base, size)
    }

    /// Allocates the first `size` bytes of a free segment in that list, and returns the allocated
    /// segment. Takes up to one tag.
    #[inline(always)]
    pub(super) fn carve_front(&mut self, free: Tag, list: usize, size: usize) -> Tag {
        self.wake(free);
        let (base, last) = (free.start.get(), free.last.get());
        let end = base + (size - 1);
        let allocated = if end == last {
            self.free.unlink(free, list);
            free
        } else {
            let allocated = self.stash.take();
            insert_above(free.below(), allocated);
            free.start.set(end + 1);
            self.free.resized_in(free, last - base + 1, list);
            allocated
        };
        self.enter(allocated, base, size)
    }

    /// Makes of a tag, which is at the right place in the address order, an allocated segment.
    #[inline]
    fn enter(&mut self, tag: Tag, base: usize, size: usize) -> Tag {
        tag.set(Kind::Allocated, base, base + (size - 1));
        self.allocated += size;
        self.index.insert(tag);
        tag
    }

    /// Takes the span of a segment that is about to be divided or allocated from the idle ones.
    #[inline]
    fn wake(&mut self, free: Tag) {
        if is_idle(free) {
            self.idle.remove(free.below());
        }
    }

    /// Frees an allocated segment, which has left the index, and returns the free segment of which
    /// it is now a part. If that is idle, the caller adds its span to the idle ones.
    #[inline(always)]
    pub(super) fn release(&mut self, tag: Tag) -> Tag {
        let (start, last) = (tag.start.get(), tag.last.get());
        self.allocated -= last - start + 1;
        let (below, above) = (tag.below(), tag.above());
        // What may move a segment to another list comes last: little is alive then.
        match (below.is_free(), above.is_free()) {
            (false, false) => {
                tag.kind.set(Kind::Free);
                self.free.insert(tag);
                tag
            }
            (true, false) => {
                self.retire(tag, Some(below));
                self.set_bounds(below, below.start.get(), last);
                below
            }
            (false, true) => {
                self.retire(tag, Some(above));
                self.set_bounds(above, start, above.last.get());
                above
            }
            (true, true) => {
                let (start, last) = (below.start.get(), above.last.get());
                // The larger one most likely stays in its list.
                let (kept, gone) = if below.size() < above.size() {
                    (above, below)
                } else {
                    (below, above)
                };
                self.free.remove(gone);
                self.retire(tag, Some(kept));
                self.retire(gone, Some(kept));
                self.set_bounds(kept, start, last);
                kept
            }
        }
    }

    /// Moves the end of an allocated segment up to `last`, which is free or the last address of the
    /// free segment above. May put back a tag.
    pub(super) fn grow(&mut self, tag: Tag, last: usize) {
        let above = tag.above();
        debug_assert!(tag.is_allocated() && above.is_free() && above.contains(last));
        self.allocated += last - tag.last.get();
        tag.last.set(last);
        if above.last.get() == last {
            self.free.remove(above);
            self.retire(above, Some(tag));
        } else {
            self.set_bounds(above, last + 1, above.last.get());
        }
    }

    /// Moves the end of an allocated segment down to `last`; what was above becomes free. Takes a
    /// tag if no free segment lies above.
    pub(super) fn shrink(&mut self, tag: Tag, last: usize) {
        let (above, end) = (tag.above(), tag.last.get());
        debug_assert!(tag.is_allocated() && tag.contains(last) && last != end);
        self.allocated -= end - last;
        tag.last.set(last);
        if above.is_free() {
            self.set_bounds(above, last + 1, above.last.get());
        } else {
            let rest = self.stash.take();
            rest.set(Kind::Free, last + 1, end);
            insert_above(tag, rest);
            self.free.insert(rest);
        }
    }

    /// Moves the end of a borrowed span, and of the allocated segment at its end, up to `last`.
    pub(super) fn extend(&mut self, span: Tag, last: usize) {
        let tag = span.below();
        debug_assert!(tag.is_allocated());
        let size = last - span.last.get();
        tag.last.set(last);
        span.last.set(last);
        self.allocated += size;
        self.total += size;
        self.borrowed += size;
    }

    /// Cuts off the end of a borrowed span what is free of it in whole multiples of `quantum`, counted
    /// from its base, and returns the last address of that. Leaves a tag in hand, by which it can be
    /// [restored](Self::restore_tail).
    pub(super) fn cut_tail(&mut self, span: Tag, quantum: usize) -> Option<usize> {
        let tail = span.below();
        debug_assert!(tail.is_free() && !is_idle(tail));
        let (base, start, last) = (span.start.get(), tail.start.get(), tail.last.get());
        let kept = round_up(start - base, quantum).ok()?;
        let size = span.size().checked_sub(kept).filter(|&size| size != 0)?;
        if base + kept == start {
            self.free.remove(tail);
            self.retire(tail, None);
        } else if self.stash.len() != 0 {
            self.set_bounds(tail, start, base + kept - 1);
        } else {
            return None;
        }
        self.total -= size;
        self.borrowed -= size;
        span.last.set(base + kept - 1);
        Some(last)
    }

    /// Adds free space up to `last` to the end of a borrowed span. May take a tag.
    pub(super) fn restore_tail(&mut self, span: Tag, last: usize) {
        let (below, end) = (span.below(), span.last.get());
        if below.is_free() {
            self.set_bounds(below, below.start.get(), last);
        } else {
            let tail = self.stash.take();
            tail.set(Kind::Free, end + 1, last);
            insert_above(below, tail);
            self.free.insert(tail);
        }
        span.last.set(last);
        self.total += last - end;
        self.borrowed += last - end;
    }

    /// Changes the bounds of a free segment.
    #[inline]
    fn set_bounds(&mut self, tag: Tag, start: usize, last: usize) {
        let before = tag.size();
        tag.start.set(start);
        tag.last.set(last);
        self.free.resized(tag, before);
    }

    /// Takes a tag out of the address order. What it described belongs to `heir` from now on.
    #[inline]
    fn retire(&mut self, tag: Tag, heir: Option<Tag>) {
        link(tag.below(), tag.above());
        if self.cursor.near == Some(tag) {
            self.cursor.near = heir;
        }
        self.generation += 1;
        self.stash.put(tag);
    }
}

/// Whether this segment is free and all of a borrowed span.
#[inline]
pub(super) fn is_idle(tag: Tag) -> bool {
    let span = tag.above();
    span.is_borrowed_span() && span == tag.below() && tag.is_free()
}

/// Makes two tags neighbours.
fn link(below: Tag, above: Tag) {
    below.next.set(above);
    above.prev.set(below);
}

/// Puts `new` into the address order above `tag`.
fn insert_above(tag: Tag, new: Tag) {
    link(new, tag.above());
    link(tag, new);
}
