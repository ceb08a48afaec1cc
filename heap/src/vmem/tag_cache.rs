//! The tag cache of an arena: a stack of unused boundary tags.

use super::boundary_tag::TagRef;

/// A stack of unused boundary tags, linked by `right`.
#[derive(Default)]
pub(super) struct TagCache {
    first: Option<TagRef>,
    len: usize,
}

impl TagCache {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            len: 0,
        }
    }

    /// Returns the number of tags.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a tag.
    #[inline]
    pub(super) fn put(&mut self, tag: TagRef) {
        tag.right.set(self.first.replace(tag));
        self.len += 1;
    }

    /// Removes a tag, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<TagRef> {
        let tag = self.first?;
        self.first = tag.right.get();
        self.len -= 1;
        Some(tag)
    }

    /// Removes a tag, of which the operation made sure before it began.
    ///
    /// # Panics
    /// If the cache is empty: the operation did not make sure.
    #[inline]
    pub(super) fn take(&mut self) -> TagRef {
        self.pop()
            .expect("an operation makes sure of its tags before it begins")
    }

    /// Moves up to `count` tags into a new cache, and returns it.
    pub(super) fn split(&mut self, count: usize) -> Self {
        let mut taken = Self::new();
        while taken.len < count {
            let Some(tag) = self.pop() else { break };
            taken.put(tag);
        }
        taken
    }

    /// Adds all tags of another cache.
    pub(super) fn append(&mut self, mut other: Self) {
        while let Some(tag) = other.pop() {
            self.put(tag);
        }
    }
}
