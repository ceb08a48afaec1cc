//! The idle spans of an arena: imported spans that are entirely free, the oldest first.
//!
//! The arena releases the oldest first. A span that is allocated and freed repeatedly is young, and
//! stays.
//!
//! ```text
//!  oldest ─▶ span A ──idle─▶ span B ──idle─▶ span C ◀─ newest
//!               ▲               ▲
//!               └─idle─ segment └─idle─ segment
//!                       of B            of C
//! ```

use super::boundary_tag::TagRef;

/// A doubly linked queue of spans. The field `idle` of a span leads to the next span, and the one
/// of its only segment to the previous span.
#[derive(Default)]
pub(super) struct IdleSpans {
    oldest: Option<TagRef>,
    newest: Option<TagRef>,
    len: usize,
}

impl IdleSpans {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the oldest span that is not busy. O(busy spans).
    pub(super) fn oldest_not_busy(&self) -> Option<TagRef> {
        self.iter().find(|span| !span.busy.get())
    }

    /// Adds a span that has become free.
    #[inline(never)]
    pub(super) fn push(&mut self, span: TagRef) {
        let before = self.newest.replace(span);
        span.idle.set(None);
        span.above().idle.set(before);
        match before {
            Some(before) => before.idle.set(Some(span)),
            None => self.oldest = Some(span),
        }
        self.len += 1;
    }

    /// Removes a span while it is still entirely free.
    #[inline(never)]
    pub(super) fn remove(&mut self, span: TagRef) {
        let (before, after) = (span.above().idle.get(), span.idle.get());
        match before {
            Some(before) => before.idle.set(after),
            None => self.oldest = after,
        }
        match after {
            Some(after) => after.above().idle.set(before),
            None => self.newest = before,
        }
        self.len -= 1;
    }

    /// Returns all spans in the queue, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = TagRef> {
        core::iter::successors(self.oldest, |span| span.idle.get())
    }
}
