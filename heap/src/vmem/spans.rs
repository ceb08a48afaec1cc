//! The spans of an arena by address.
//!
//! A treap: a search tree by address that is a heap by a priority, and therefore balanced as if the
//! spans had been added in random order. The priority is a hash of the span's base, so that it need
//! not be stored. (Seidel and Aragon, "Randomized search trees", Algorithmica 1996.)

use super::segment::Tag;

/// The spans, which do not overlap.
#[derive(Default)]
pub(super) struct Spans {
    root: Option<Tag>,
}

impl Spans {
    /// The span with the highest base that is at most `address`.
    ///
    /// Ends whatever tags say, as long as their links lead to tags: bases come nearer to `address` from
    /// both sides, or the tree is damaged.
    pub(super) fn at_or_below(&self, address: usize) -> Option<Tag> {
        let mut found = None;
        // Bases between these may follow; `low` itself too, at the beginning.
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

    /// The span with the lowest base that is at least `address`.
    pub(super) fn at_or_above(&self, address: usize) -> Option<Tag> {
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
    pub(super) fn after(&self, span: Tag) -> Option<Tag> {
        self.at_or_above(span.last.get().checked_add(1)?)
    }

    /// The span that contains `address`.
    pub(super) fn containing(&self, address: usize) -> Option<Tag> {
        self.at_or_below(address)
            .filter(|span| span.contains(address))
    }

    /// A span that shares an address with the range from `start` to `last`.
    pub(super) fn overlapping(&self, start: usize, last: usize) -> Option<Tag> {
        self.at_or_below(last)
            .filter(|span| span.last.get() >= start)
    }

    /// Adds a span, which overlaps none.
    pub(super) fn insert(&mut self, span: Tag) {
        self.root = Some(insert(self.root, span));
    }

    /// Removes a span.
    pub(super) fn remove(&mut self, span: Tag) {
        self.root = remove(self.root, span);
    }

    /// The highest span of the tree, for `check`.
    pub(super) fn root(&self) -> Option<Tag> {
        self.root
    }
}

/// The tree with `span` in it. Recursive, like what follows: the depth is logarithmic.
fn insert(tree: Option<Tag>, span: Tag) -> Tag {
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
fn remove(tree: Option<Tag>, span: Tag) -> Option<Tag> {
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
fn split(tree: Option<Tag>, address: usize) -> (Option<Tag>, Option<Tag>) {
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
fn join(low: Option<Tag>, high: Option<Tag>) -> Option<Tag> {
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
pub(super) fn priority(span: Tag) -> u64 {
    let mut bits = span.start.get() as u64;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
