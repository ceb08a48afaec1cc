//! Holes: pages inside a heap that are not memory, and the record of each.
//!
//! A hole is a [carved chunk](crate::talc::carve) of Talc's heap. Its record lies in the chunk,
//! directly above the pages, and Talc's tag above the record:
//!
//! ```text
//!     ┊ page boundary                     ┊ page boundary
//!     ├─ not memory: base to pages_end ───┼─ HoleRecord: 7 words ─┬─ tag ┤ chunk_end
//!     ├─ carved chunk ────────────────────┴───────────────────────┴──────┤
//! ```
//!
//! If the chunk above begins at a page boundary, as a slab does, this would keep a whole page for
//! the record and the tag. So such a hole has its record in a table, and no tag: it is *untagged*.
//! Before the chunk above is freed, it gives its lowest unit to the hole, for a tag: see
//! [`Source::takes_tag`](crate::talc::source::Source::takes_tag).
//!
//! ```text
//!     ├─ not memory ──────────────────────┼─ chunk, in use ──────────────┤    untagged
//!     ├─ not memory ──────────────────────┼─ tag ┼─ gap ─────────────────┤    it was freed
//! ```
//!
//! The records form a tree by address, so that a hole is found from a neighbour, and the lowest
//! hole of at least some size. It is a treap: see `vmem/span_tree.rs`.

use core::ptr::NonNull;

use crate::talc::base::CHUNK_UNIT;
use crate::talc::carve::CARVED_OVERHEAD;

/// Bytes of a hole's chunk above its pages, if the record is there.
pub(super) const HOLE_OVERHEAD: usize =
    (size_of::<HoleRecord>() + CARVED_OVERHEAD).next_multiple_of(CHUNK_UNIT);

/// The number of records in the table.
const TABLE_RECORDS: usize = 40;

/// Bytes of the chunk that the table is.
pub(super) const TABLE_SIZE: usize =
    (TABLE_RECORDS * size_of::<HoleRecord>() + CARVED_OVERHEAD).next_multiple_of(CHUNK_UNIT);

/// A pointer to a record, or to none.
type Link = Option<HoleRef>;

/// Where a hole lies.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// The lowest page.
    pub(super) base: NonNull<u8>,
    /// The end of the highest page.
    pub(super) pages_end: NonNull<u8>,
    /// The end of the chunk. If it is `pages_end`, the hole is untagged.
    pub(super) chunk_end: NonNull<u8>,
}

/// The record of a hole.
#[repr(C)]
struct HoleRecord {
    extent: Extent,
    /// Whether a call gives the pages back, or restores them, at this moment. Only that call
    /// changes the hole, except for the end of the chunk.
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HoleRef(NonNull<HoleRecord>);

impl HoleRef {
    /// Makes the record of a hole at `record`. It is in no tree.
    ///
    /// # Safety
    /// The bytes of the record are aligned and belong to the source, and so does the range from the
    /// base to the end of the chunk, until the hole is gone.
    pub(super) unsafe fn new(record: NonNull<u8>, extent: Extent, busy: bool) -> Self {
        let hole = Self(record.cast());
        let contents = HoleRecord {
            extent,
            busy,
            left: None,
            right: None,
            largest: 0,
        };
        // SAFETY: the bytes belong to the source, and are aligned.
        unsafe { hole.0.write(contents) };
        hole
    }

    /// Returns where the hole lies.
    pub(super) fn extent(self) -> Extent {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).extent }
    }

    /// Returns the lowest page.
    pub(super) fn base(self) -> NonNull<u8> {
        self.extent().base
    }

    /// Returns the end of the highest page.
    pub(super) fn pages_end(self) -> NonNull<u8> {
        self.extent().pages_end
    }

    /// Returns the end of the chunk.
    pub(super) fn chunk_end(self) -> NonNull<u8> {
        self.extent().chunk_end
    }

    /// Returns where the record lies.
    pub(super) fn record(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Returns the bytes of the pages.
    pub(super) fn size(self) -> usize {
        self.pages_end().addr().get() - self.base().addr().get()
    }

    /// Returns whether the chunk has no tag, and a chunk in use begins above.
    pub(super) fn is_untagged(self) -> bool {
        self.chunk_end() == self.pages_end()
    }

    /// Returns whether the record is one of the table.
    pub(super) fn is_in_table(self) -> bool {
        self.record() != self.pages_end()
    }

    pub(super) fn is_busy(self) -> bool {
        // SAFETY: the record is live.
        unsafe { (*self.0.as_ptr()).busy }
    }

    /// Moves the end of the chunk. (It does not matter to the tree.)
    fn set_chunk_end(self, end: NonNull<u8>) {
        // SAFETY: the record is live, and no reference to it exists.
        unsafe { (*self.0.as_ptr()).extent.chunk_end = end };
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

    /// Returns the place in the order of the tree.
    fn key(self) -> usize {
        self.pages_end().addr().get()
    }

    /// Returns the priority in the tree: a hash of the address.
    fn priority(self) -> u64 {
        crate::vmem::priority_of(self.key())
    }
}

fn largest_of(tree: Link) -> usize {
    tree.map_or(0, HoleRef::largest)
}

/// The holes of a source, by address. Operations are expected O(log holes).
pub(super) struct HoleTree {
    root: Link,
    /// The records of the table that are not in use, linked through `left`.
    spare: Link,
    /// The bytes of all holes, and of those that are being made.
    bytes: usize,
}

impl HoleTree {
    pub(super) const fn new() -> Self {
        Self {
            root: None,
            spare: None,
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

    /// Removes a hole for good: its record is not used again.
    pub(super) fn delete(&mut self, hole: HoleRef) {
        self.remove(hole);
        self.forget(hole);
    }

    /// Makes the record of a hole that is not in the tree spare, if it is one of the table.
    pub(super) fn forget(&mut self, hole: HoleRef) {
        if hole.is_in_table() {
            hole.set_children(self.spare, None);
            self.spare = Some(hole);
        }
    }

    /// Makes the records of the table.
    ///
    /// # Safety
    /// [`TABLE_SIZE`] bytes at `table`, a multiple of the unit, belong to the source as long as it
    /// has holes.
    pub(super) unsafe fn set_table(&mut self, table: NonNull<u8>) {
        let records = table.cast::<HoleRecord>();
        // The records lie in none of the pages that they will be for.
        let nowhere = Extent {
            base: NonNull::dangling(),
            pages_end: NonNull::dangling(),
            chunk_end: NonNull::dangling(),
        };
        for index in 0..TABLE_RECORDS {
            // SAFETY: the table has room for as many records.
            let record = unsafe { records.add(index) }.cast();
            // SAFETY: the record lies in the table.
            self.forget(unsafe { HoleRef::new(record, nowhere, true) });
        }
    }

    /// Takes a spare record of the table, if there is one.
    pub(super) fn take_spare(&mut self) -> Option<NonNull<u8>> {
        let spare = self.spare?;
        self.spare = spare.left();
        Some(spare.record())
    }

    /// Returns whether [`take_spare`](Self::take_spare) would return one.
    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Changes the base of a hole, and whether it is busy.
    pub(super) fn update(&mut self, hole: HoleRef, base: NonNull<u8>, busy: bool) {
        self.remove(hole);
        let extent = Extent {
            base,
            ..hole.extent()
        };
        // SAFETY: the hole's record is live.
        self.insert(unsafe { HoleRef::new(hole.record(), extent, busy) });
    }

    /// If a hole ends at `address`, a page boundary where a chunk begins, makes its chunk larger by
    /// a unit. Returns whether it did. (A chunk with a tag ends within a page.)
    pub(super) fn take_unit(&mut self, address: NonNull<u8>) -> bool {
        let Some(hole) = self.ending_at(address).filter(|hole| hole.is_untagged()) else {
            return false;
        };
        // SAFETY: the chunk that begins at `address` has at least a unit.
        hole.set_chunk_end(unsafe { address.byte_add(CHUNK_UNIT) });
        true
    }

    /// Returns the lowest hole whose pages end at or above `address`.
    pub(super) fn at_or_above(&self, address: usize) -> Link {
        let (mut found, mut tree) = (None, self.root);
        while let Some(hole) = tree {
            tree = if hole.key() >= address {
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
        let lowest = address.addr().get().checked_sub(HOLE_OVERHEAD)?;
        self.at_or_above(lowest)
            .filter(|hole| hole.chunk_end() == address)
    }

    /// Returns the hole whose chunk begins at `address`.
    pub(super) fn beginning_at(&self, address: NonNull<u8>) -> Link {
        self.at_or_above(address.addr().get())
            .filter(|hole| hole.base() == address)
    }

    /// Returns the lowest hole of at least `size` bytes that is not busy, and whose pages end above
    /// `address`.
    pub(super) fn first_of(&self, size: usize, address: usize) -> Link {
        first_of(self.root, size, address)
    }

    /// Returns the holes by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = HoleRef> + '_ {
        core::iter::successors(self.at_or_above(0), |hole| self.at_or_above(hole.key() + 1))
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
            if hole.key() < top.key() {
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
    if hole.key() < top.key() {
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
    if top.key() < hole.key() {
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
    if top.key() <= address {
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
    let is_right = left.is_none_or(|it| it.key() < top.key() && it.priority() <= top.priority())
        && right.is_none_or(|it| it.key() > top.key() && it.priority() <= top.priority())
        && top.largest() == largest;
    if is_right {
        first_misplaced(left).or_else(|| first_misplaced(right))
    } else {
        tree
    }
}
