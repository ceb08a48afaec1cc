//! Lists of slabs, linked through their headers.

use super::slab::Slab;

/// The links of lists of partial slabs: a CPU's, or the shared ones.
pub(super) const PARTIAL: usize = 0;

/// The links of the list of all slabs.
pub(super) const ALL: usize = 1;

/// A list of slabs, the latest first, which uses the links `LINKS`. Every operation takes constant
/// time.
pub(super) struct SlabList<const LINKS: usize = PARTIAL> {
    first: Option<Slab>,
    last: Option<Slab>,
    len: u32,
}

impl<const LINKS: usize> SlabList<LINKS> {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            last: None,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Adds a slab, which is in no list.
    pub(super) fn push(&mut self, slab: Slab) {
        slab.links(LINKS).prev.set(None);
        slab.links(LINKS).next.set(self.first);
        match self.first {
            Some(first) => first.links(LINKS).prev.set(Some(slab)),
            None => self.last = Some(slab),
        }
        self.first = Some(slab);
        self.len += 1;
    }

    /// Removes a slab, which is in this list.
    pub(super) fn remove(&mut self, slab: Slab) {
        match slab.links(LINKS).prev.get() {
            Some(prev) => prev.links(LINKS).next.set(slab.links(LINKS).next.get()),
            None => self.first = slab.links(LINKS).next.get(),
        }
        match slab.links(LINKS).next.get() {
            Some(next) => next.links(LINKS).prev.set(slab.links(LINKS).prev.get()),
            None => self.last = slab.links(LINKS).prev.get(),
        }
        self.len -= 1;
    }

    /// Removes the latest slab.
    pub(super) fn pop(&mut self) -> Option<Slab> {
        let slab = self.first?;
        self.remove(slab);
        Some(slab)
    }

    /// Removes the oldest slab.
    pub(super) fn pop_last(&mut self) -> Option<Slab> {
        let slab = self.last?;
        self.remove(slab);
        Some(slab)
    }

    /// Returns the slabs, the latest first. Each is read before it is returned, so it may be
    /// removed then.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slab> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let slab = next?;
            next = slab.links(LINKS).next.get();
            Some(slab)
        })
    }
}
