//! The tree of spans, by address.
//!
//! It is a treap: a search tree by address, and a heap by priority. (Seidel and Aragon, "Randomized
//! search trees", Algorithmica 1996.) The priority is a hash of the span's base, so that no tag has
//! to store it. The tree is therefore as balanced as if the spans had been added in random order.

use super::boundary_tag::TagRef;

/// The tree of spans, which do not overlap. Operations are expected O(log spans).
#[derive(Default)]
pub(super) struct SpanTree {
    root: Option<TagRef>,
}

impl SpanTree {
    /// Returns the span with the highest base that is at most `address`.
    ///
    /// The search ends even in damaged tags, as long as their links lead to tags: bases approach
    /// `address` from both sides, or the tree is damaged.
    pub(super) fn at_or_below(&self, address: usize) -> Option<TagRef> {
        let mut found = None;
        // Bases from `low` up to, but not including, `high` may follow.
        let (mut low, mut high) = (0, None);
        let mut tree = self.root;
        while let Some(span) = tree {
            let start = span.start.get();
            if start <= address {
                if start < low {
                    break;
                }
                (found, tree) = (Some(span), span.right.get());
                low = start.saturating_add(1);
            } else {
                if high.is_some_and(|high| start >= high) {
                    break;
                }
                tree = span.left.get();
                high = Some(start);
            }
        }
        found
    }

    /// Returns the span with the lowest base that is at least `address`.
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

    /// Returns the next span above `span`.
    pub(super) fn after(&self, span: TagRef) -> Option<TagRef> {
        self.at_or_above(span.last.get().checked_add(1)?)
    }

    /// Returns the span that contains `address`.
    pub(super) fn containing(&self, address: usize) -> Option<TagRef> {
        self.at_or_below(address)
            .filter(|span| span.contains(address))
    }

    /// Returns a span that overlaps the range from `start` to `last`.
    pub(super) fn overlapping(&self, start: usize, last: usize) -> Option<TagRef> {
        self.at_or_below(last)
            .filter(|span| span.last.get() >= start)
    }

    /// Adds a span, which overlaps no other.
    pub(super) fn insert(&mut self, span: TagRef) {
        self.root = Some(insert(self.root, span));
    }

    /// Removes a span.
    pub(super) fn remove(&mut self, span: TagRef) {
        self.root = remove(self.root, span);
    }

    /// Returns the root of the tree.
    pub(super) fn root(&self) -> Option<TagRef> {
        self.root
    }
}

/// Returns the tree with `span` inserted. Like the functions below it is recursive, to a depth that
/// is expected to be logarithmic.
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

/// Returns the tree with `span` removed.
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

/// Splits a tree into the spans below `address`, and those at or above it.
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

/// Joins two trees. All spans of the first are below those of the second.
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

/// Returns the priority of a span: a hash of its base.
pub(super) fn priority(span: TagRef) -> u64 {
    priority_of(span.start.get())
}

/// Returns the priority of the node of a treap at an address: a hash (the finaliser of
/// `SplitMix64`).
pub(crate) fn priority_of(address: usize) -> u64 {
    let mut bits = address as u64;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
