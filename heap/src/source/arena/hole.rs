//! Holes: pages inside a heap that are not memory, and the record of each.
//!
//! A hole is a [carved chunk](crate::talc::carve) of Talc's heap. Its record lies in the chunk,
//! directly above the pages, and Talc's tag above the record:
//!
//! ```text
//!     ┊ page boundary                     ┊ page boundary
//!     ├─ not memory: base to record ──────┼─ HoleRecord: 5 words ─┬─ tag ┤
//!     ├─ carved chunk ────────────────────┴───────────────────────┴──────┤
//! ```
//!
//! The records form a tree by address, so that a hole is found from a neighbour, and the lowest
//! hole of at least some size. It is a treap: see `vmem/span_tree.rs`.

use core::ptr::NonNull;

use crate::talc::base::CHUNK_UNIT;
use crate::talc::carve::CARVED_OVERHEAD;

/// Bytes of a hole's chunk above its pages.
pub(super) const HOLE_OVERHEAD: usize =
    (size_of::<HoleRecord>() + CARVED_OVERHEAD).next_multiple_of(CHUNK_UNIT);

/// A pointer to a record, or to none.
type Link = Option<HoleRef>;

/// The record of a hole.
#[repr(C)]
struct HoleRecord {
    /// The lowest page.
    base: NonNull<u8>,
    /// Whether a call gives the pages back, or restores them, at this moment. Only that call
    /// changes the hole.
    busy: bool,
    left: Link,
    right: Link,
    /// The size of the largest hole in this subtree that is not busy.
    largest: usize,
}

/// A reference to a record in the tree, or to one that has just been made.
///
/// The memory of a record belongs to the source until the hole is gone, and the caller of each
/// method holds the lock of the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct HoleRef(NonNull<HoleRecord>);

impl HoleRef {
    /// Makes the record of a hole from `base` to `record`. It is in no tree.
    ///
    /// # Safety
    /// The bytes of the record at `record`, a multiple of the quantum, belong to the source, and so
    /// does the range below, until the hole is gone.
    pub(super) unsafe fn new(base: NonNull<u8>, record: NonNull<u8>, busy: bool) -> Self {
        let hole = Self(record.cast());
        let contents = HoleRecord {
            base,
            busy,
            left: None,
            right: None,
            largest: 0,
        };
        // SAFETY: the bytes belong to the source, and are aligned.
        unsafe { hole.0.write(contents) };
        hole
    }

    /// Returns the lowest page.
    pub(super) fn base(self) -> NonNull<u8> {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).base }
    }

    /// Returns where the record lies: the end of the pages.
    pub(super) fn record(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Returns the end of the chunk.
    pub(super) fn end(self) -> NonNull<u8> {
        // SAFETY: the chunk contains the record and the tag.
        unsafe { self.record().byte_add(HOLE_OVERHEAD) }
    }

    /// Returns the bytes of the pages.
    pub(super) fn size(self) -> usize {
        self.record().addr().get() - self.base().addr().get()
    }

    pub(super) fn is_busy(self) -> bool {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).busy }
    }

    fn left(self) -> Link {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).left }
    }

    fn right(self) -> Link {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).right }
    }

    fn largest(self) -> usize {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).largest }
    }

    /// Sets the subtrees, and the largest size.
    fn set_children(self, left: Link, right: Link) {
        let own = if self.is_busy() { 0 } else { self.size() };
        let largest = own.max(largest_of(left)).max(largest_of(right));
        // SAFETY: the record is live, and no reference to it exists.
        let record = unsafe { &mut *self.0.as_ptr() };
        record.left = left;
        record.right = right;
        record.largest = largest;
    }

    /// Returns the priority in the tree: a hash of the record's address.
    fn priority(self) -> u64 {
        crate::vmem::priority_of(self.0.addr().get())
    }
}

fn largest_of(tree: Link) -> usize {
    tree.map_or(0, HoleRef::largest)
}

/// The holes of a source, by address. Operations are expected O(log holes).
pub(super) struct HoleTree {
    root: Link,
    /// The bytes of all holes, and of those that are being made.
    bytes: usize,
}

impl HoleTree {
    pub(super) const fn new() -> Self {
        Self {
            root: None,
            bytes: 0,
        }
    }

    /// Returns the bytes of all holes, and of those that are being made. O(1).
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a hole.
    pub(super) fn insert(&mut self, hole: HoleRef) {
        self.bytes += hole.size();
        self.root = Some(insert(self.root, hole));
    }

    /// Removes a hole.
    pub(super) fn remove(&mut self, hole: HoleRef) {
        self.bytes -= hole.size();
        self.root = remove(self.root, hole);
    }

    /// Changes the base of a hole, and whether it is busy.
    pub(super) fn update(&mut self, hole: HoleRef, base: NonNull<u8>, busy: bool) {
        self.remove(hole);
        // SAFETY: the hole's record is live.
        self.insert(unsafe { HoleRef::new(base, hole.record(), busy) });
    }

    /// Returns the hole with the lowest record at or above `address`.
    pub(super) fn at_or_above(&self, address: usize) -> Link {
        let (mut found, mut tree) = (None, self.root);
        while let Some(hole) = tree {
            tree = if hole.0.addr().get() >= address {
                found = Some(hole);
                hole.left()
            } else {
                hole.right()
            };
        }
        found
    }

    /// Returns the hole whose chunk ends at `address`.
    pub(super) fn ending_at(&self, address: NonNull<u8>) -> Link {
        let record = address.addr().get().checked_sub(HOLE_OVERHEAD)?;
        self.at_or_above(record)
            .filter(|hole| hole.end() == address)
    }

    /// Returns the hole whose chunk begins at `address`.
    pub(super) fn beginning_at(&self, address: NonNull<u8>) -> Link {
        self.at_or_above(address.addr().get())
            .filter(|hole| hole.base() == address)
    }

    /// Returns the lowest hole of at least `size` bytes that is not busy, and whose record lies
    /// above `address`.
    pub(super) fn first_of(&self, size: usize, address: usize) -> Link {
        first_of(self.root, size, address)
    }

    /// Returns the holes by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = HoleRef> + '_ {
        core::iter::successors(self.at_or_above(0), |hole| {
            self.at_or_above(hole.0.addr().get() + 1)
        })
    }

    /// Returns a hole whose place in the tree breaks a rule, if there is one.
    pub(super) fn first_misplaced(&self) -> Link {
        first_misplaced(self.root)
    }
}

/// Returns the tree with `hole` inserted. Like the functions below it is recursive, to a depth that
/// is expected to be logarithmic.
fn insert(tree: Link, hole: HoleRef) -> HoleRef {
    match tree {
        Some(top) if top.priority() >= hole.priority() => {
            if hole < top {
                top.set_children(Some(insert(top.left(), hole)), top.right());
            } else {
                top.set_children(top.left(), Some(insert(top.right(), hole)));
            }
            top
        }
        _ => {
            let (low, high) = split(tree, hole);
            hole.set_children(low, high);
            hole
        }
    }
}

fn remove(tree: Link, hole: HoleRef) -> Link {
    let top = tree?;
    if top == hole {
        return join(hole.left(), hole.right());
    }
    if hole < top {
        top.set_children(remove(top.left(), hole), top.right());
    } else {
        top.set_children(top.left(), remove(top.right(), hole));
    }
    tree
}

/// Splits a tree into the holes below `hole`, and those above it.
fn split(tree: Link, hole: HoleRef) -> (Link, Link) {
    let Some(top) = tree else {
        return (None, None);
    };
    if top < hole {
        let (low, high) = split(top.right(), hole);
        top.set_children(top.left(), low);
        (tree, high)
    } else {
        let (low, high) = split(top.left(), hole);
        top.set_children(high, top.right());
        (low, tree)
    }
}

/// Joins two trees. All holes of the first are below those of the second.
fn join(low: Link, high: Link) -> Link {
    match (low, high) {
        (Some(below), Some(above)) => {
            if below.priority() >= above.priority() {
                below.set_children(below.left(), join(below.right(), high));
                low
            } else {
                above.set_children(join(low, above.left()), above.right());
                high
            }
        }
        (one, None) | (None, one) => one,
    }
}

fn first_of(tree: Link, size: usize, address: usize) -> Link {
    let top = tree.filter(|top| top.largest() >= size)?;
    if top.0.addr().get() <= address {
        return first_of(top.right(), size, address);
    }
    first_of(top.left(), size, address)
        .or_else(|| Some(top).filter(|top| !top.is_busy() && top.size() >= size))
        .or_else(|| first_of(top.right(), size, address))
}

fn first_misplaced(tree: Link) -> Link {
    let top = tree?;
    let (left, right) = (top.left(), top.right());
    let own = if top.is_busy() { 0 } else { top.size() };
    let largest = own.max(largest_of(left)).max(largest_of(right));
    let is_right = left.is_none_or(|it| it < top && it.priority() <= top.priority())
        && right.is_none_or(|it| it > top && it.priority() <= top.priority())
        && top.largest() == largest;
    if is_right {
        first_misplaced(left).or_else(|| first_misplaced(right))
    } else {
        tree
    }
}
