//! The spans of an arena by address.
//!
//! A treap: a search tree by address that is a heap by a priority, and therefore balanced as if the
//! spans had been added in random order. The priority is a hash of the span's base, so that it need
//! not be stored. (Seidel and Aragon, "Randomized search trees", Algorithmica 1996.)

use super::boundary_tag::TagRef;

/// The spans, which do not overlap.
#[derive(Default)]
pub(super) struct SpanTree {
    root: Option<TagRef>,
}

impl SpanTree {
    /// The span with the highest base that is at most `address`.
    pub(super) fn at_or_below(&self, address: usize) -> Option<TagRef> {
        let mut found = None;
        let mut tree = self.root;
        while let Some(span) = tree {
            tree = if span.start.get() <= address {
                found = Some(span);
                span.right.get()
            } else {
                span.left.get()
            };
        }
        found
    }

    /// The span with the lowest base that is at least `address`.
    pub(super) fn at_or_above(&self, address: usize) -> Option<TagRef> {
        let mut found = None;
        let mut tree = self.root;
        while let Some(span) = tree {
            tree = if span.start.get() >= address {
                found = Some(span);
                span.left.get()
            } else {
                span.right.get()
            };
        }
        found
    }

    /// The span after this one.
    pub(super) fn after(&self, span: TagRef) -> Option<TagRef> {
        self.at_or_above(span.last.get().checked_add(1)?)
    }

    /// The span that contains `address`.
    pub(super) fn containing(&self, address: usize) -> Option<TagRef> {
        self.at_or_below(address)
            .filter(|span| span.contains(address))
    }

    /// A span that shares an address with the range from `start` to `last`.
    pub(super) fn overlapping(&self, start: usize, last: usize) -> Option<TagRef> {
        self.at_or_below(last)
            .filter(|span| span.last.get() >= start)
    }

    /// Adds a span, which overlaps none.
    pub(super) fn insert(&mut self, span: TagRef) {
        self.root = Some(insert(self.root, span));
    }

    /// Removes a span.
    pub(super) fn remove(&mut self, span: TagRef) {
        self.root = remove(self.root, span);
    }

    /// The highest span of the tree, for `check`.
    pub(super) fn root(&self) -> Option<TagRef> {
        self.root
    }
}

/// The tree with `span` in it. Recursive, like what follows: the depth is logarithmic.
fn insert(tree: Option<TagRef>, span: TagRef) -> TagRef {
    match tree {
        Some(top) if priority(top) >= priority(span) => {
            let side = if span.start.get() < top.start.get() {
                &top.left
            } else {
                &top.right
            };
            side.set(Some(insert(side.get(), span)));
            top
        }
        _ => {
            let (low, high) = split(tree, span.start.get());
            span.left.set(low);
            span.right.set(high);
            span
        }
    }
}

/// The tree without `span`.
fn remove(tree: Option<TagRef>, span: TagRef) -> Option<TagRef> {
    let top = tree?;
    if top == span {
        return join(span.left.get(), span.right.get());
    }
    let side = if span.start.get() < top.start.get() {
        &top.left
    } else {
        &top.right
    };
    side.set(remove(side.get(), span));
    tree
}

/// The spans of a tree below `address`, and those at or above it.
fn split(tree: Option<TagRef>, address: usize) -> (Option<TagRef>, Option<TagRef>) {
    let Some(top) = tree else {
        return (None, None);
    };
    if top.start.get() < address {
        let (low, high) = split(top.right.get(), address);
        top.right.set(low);
        (tree, high)
    } else {
        let (low, high) = split(top.left.get(), address);
        top.left.set(high);
        (low, tree)
    }
}

/// One tree of two, all spans of the first being below those of the second.
fn join(low: Option<TagRef>, high: Option<TagRef>) -> Option<TagRef> {
    match (low, high) {
        (Some(below), Some(above)) => {
            if priority(below) >= priority(above) {
                below.right.set(join(below.right.get(), high));
                low
            } else {
                above.left.set(join(low, above.left.get()));
                high
            }
        }
        (one, None) | (None, one) => one,
    }
}

/// The base, mixed until neighbouring bases have unrelated values (the finaliser of SplitMix64).
pub(super) fn priority(span: TagRef) -> u64 {
    let mut bits = span.start.get() as u64;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
