//! The parts of allocated segments about which a call to the source is in progress.
//!
//! The arena is not locked during such a call. Until it returns, the part stays in its segment, and
//! no other call about any of it begins:
//!
//! ```text
//!               0x8_0000            0x8_4000    0x8_6000            0x8_a000
//!  segment      │ allocated, busy                                   │
//!  part                             ├───────────┤
//!  meanwhile    free: Busy          resize down to here or above: permitted
//! ```

use super::boundary_tag::{Kind, TagRef};
use super::state::State;

/// A list of parts, each with a boundary tag that no other structure contains. Linked by `right`.
#[derive(Default)]
pub(super) struct Parts {
    first: Option<TagRef>,
}

impl Parts {
    /// Returns whether any part has an address from `start` to `last`. O(parts).
    pub(super) fn overlap(&self, start: usize, last: usize) -> bool {
        self.iter()
            .any(|part| part.start.get() <= last && start <= part.last.get())
    }

    /// Returns all parts.
    pub(super) fn iter(&self) -> impl Iterator<Item = TagRef> {
        core::iter::successors(self.first, |part| part.right.get())
    }

    fn push(&mut self, part: TagRef) {
        part.right.set(self.first.replace(part));
    }

    /// Removes a part. O(parts).
    fn remove(&mut self, part: TagRef) {
        let after = part.right.get();
        let before = self.iter().find(|it| it.right.get() == Some(part));
        match before {
            Some(before) => before.right.set(after),
            None => self.first = after,
        }
    }
}

impl State {
    /// Begins a call about the part of an allocated segment from `start` to `last`, inclusive. It
    /// overlaps no other part. Takes a tag, and returns it as the handle of the part.
    pub(super) fn begin_part(&mut self, segment: TagRef, start: usize, last: usize) -> TagRef {
        debug_assert!(segment.is_allocated() && segment.contains(start) && segment.contains(last));
        debug_assert!(!self.parts.overlap(start, last));
        let part = self.tag_cache.take();
        part.set(Kind::Part, start, last);
        self.parts.push(part);
        segment.busy.set(true);
        part
    }

    /// Ends the call about a part, if there was one, and returns its tag to the cache. The segment
    /// stays busy while other calls about it are in progress.
    pub(super) fn end_part(&mut self, segment: TagRef, part: Option<TagRef>) {
        if let Some(part) = part {
            self.parts.remove(part);
            self.tag_cache.put(part);
        }
        segment.busy.set(self.is_in_use_by_calls(segment));
    }

    /// Returns whether a segment is being allocated or resized, or a call about a part of it is in
    /// progress.
    pub(super) fn is_in_use_by_calls(&self, segment: TagRef) -> bool {
        segment.resizing.get() || self.parts.overlap(segment.start.get(), segment.last.get())
    }
}
