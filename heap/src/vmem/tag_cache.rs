//! Boundary tags in hand.

use super::boundary_tag::TagRef;

/// Boundary tags that describe nothing, linked by `right`.
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

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn put(&mut self, tag: TagRef) {
        tag.right.set(self.first.replace(tag));
        self.len += 1;
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<TagRef> {
        let tag = self.first?;
        self.first = tag.right.get();
        self.len -= 1;
        Some(tag)
    }

    /// A tag that the operation has made sure of before it began.
    #[inline]
    pub(super) fn take(&mut self) -> TagRef {
        self.pop()
            .expect("tags are secured before an operation begins")
    }

    /// Takes `count` tags, or as many as there are.
    pub(super) fn split(&mut self, count: usize) -> Self {
        let mut taken = Self::new();
        while taken.len < count {
            let Some(tag) = self.pop() else { break };
            taken.put(tag);
        }
        taken
    }

    pub(super) fn append(&mut self, mut other: Self) {
        while let Some(tag) = other.pop() {
            self.put(tag);
        }
    }
}
