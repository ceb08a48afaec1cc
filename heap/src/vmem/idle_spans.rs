//! The borrowed spans that are entirely free, in the order in which they became so.
//!
//! The oldest is given back first, so that a span which is allocated and freed again and again stays.

use super::boundary_tag::TagRef;

/// A queue of spans, linked both ways: by the field `idle` of each span to the next, and by that of
/// its only segment to the one before.
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

    /// Returns the oldest about which the source is not being called. O(those about which it is).
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

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = TagRef> {
        core::iter::successors(self.oldest, |span| span.idle.get())
    }
}
