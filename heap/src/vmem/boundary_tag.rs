//! Boundary tags: each describes one span of an arena, or one segment in a span.
//!
//! ```text
//!  prev, next: the address order, a ring                   left, right: a second structure
//!
//!    ┌─▶ span ◀─▶ free ◀─▶ allocated ◀─▶ free ◀─┐          span: the tree of spans
//!    └──────────────────────────────────────────┘          free segment: its free list
//!        [0,99]   [0,9]     [10,59]     [60,99]            allocated segment: its hash
//!                                                          bucket (right only)
//! ```

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

/// A boundary tag: the description of a span or a segment.
///
/// The type is public because a [`TagSupply`](super::TagSupply) needs its size and alignment. Its
/// fields belong to the arena. On 64-bit machines a tag has 64 bytes, one cache line:
///
/// ```text
///  0       8       16      24      32      40      48      56                60    64
///  ┌───────┬───────┬───────┬───────┬───────┬───────┬───────┬───┬───┬───┬───┬─────┐
///  │ start │ last  │ prev  │ next  │ left  │ right │ idle  │ k │ d │ b │ r │     │
///  └───────┴───────┴───────┴───────┴───────┴───────┴───────┴───┴───┴───┴───┴─────┘
///   inclusive       address order   list or tree    queue   kind, discarded, unused
///                                                           busy, resizing
/// ```
///
/// ```
/// use heap::vmem::BoundaryTag;
///
/// #[cfg(target_pointer_width = "64")]
/// assert_eq!((size_of::<BoundaryTag>(), align_of::<BoundaryTag>()), (64, 64));
/// ```
#[doc(alias("vmem_seg_t", "vmem_seg"))]
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub struct BoundaryTag {
    /// The first address.
    pub(super) start: Cell<usize>,
    /// The last address, at least `start`. Inclusive, so that a range can end at `usize::MAX`.
    pub(super) last: Cell<usize>,
    /// The neighbour below; of a span, its last segment. A new tag is a ring by itself.
    pub(super) prev: Cell<TagRef>,
    /// The neighbour above; of a span, its first segment.
    pub(super) next: Cell<TagRef>,
    /// The left child in the tree of spans, or the previous member of a free list.
    pub(super) left: Cell<Option<TagRef>>,
    /// The right child, or the next member of a free list, a hash bucket or the tag cache.
    pub(super) right: Cell<Option<TagRef>>,
    /// A link in the queue of idle spans: see `idle_spans.rs`.
    pub(super) idle: Cell<Option<TagRef>>,
    pub(super) kind: Cell<Kind>,
    /// Whether memory of this segment may be discarded: see `discard.rs`. False for a span.
    pub(super) discarded: Cell<bool>,
    /// Of a span: whether a call to the source about its end is in progress. Of an allocated
    /// segment: whether a call about any part of it is in progress, so that it cannot be freed.
    pub(super) busy: Cell<bool>,
    /// Whether this segment is being allocated or resized, so that it cannot be resized. It is
    /// then busy too.
    pub(super) resizing: Cell<bool>,
}

const _: () = assert!(size_of::<BoundaryTag>() <= 64);

/// What a boundary tag describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A span, and whether it is imported from the source.
    Span {
        borrowed: bool,
    },
    Free,
    Allocated,
    /// A part of an allocated segment: see `parts.rs`.
    Part,
}

/// A reference to a boundary tag that belongs to an arena.
///
/// It dereferences to the tag. All fields are cells, and no `&mut` to a tag exists, so lists, trees
/// and callers may hold the same tag at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TagRef(NonNull<BoundaryTag>);

impl TagRef {
    /// Initialises a tag in raw memory.
    ///
    /// # Safety
    /// * The memory comes from the arena's tag supply, and no other code uses it.
    /// * The result and its copies are used only under the arena's lock, and not after the memory
    ///   has been returned to the supply.
    pub(super) unsafe fn new(memory: NonNull<BoundaryTag>) -> Self {
        let tag = BoundaryTag {
            start: Cell::new(0),
            last: Cell::new(0),
            prev: Cell::new(Self(memory)),
            next: Cell::new(Self(memory)),
            left: Cell::new(None),
            right: Cell::new(None),
            idle: Cell::new(None),
            kind: Cell::new(Kind::Free),
            discarded: Cell::new(false),
            busy: Cell::new(false),
            resizing: Cell::new(false),
        };
        // SAFETY: a tag supply returns memory that is valid for writes and aligned, and the caller
        // passes it on unshared.
        unsafe { memory.write(tag) };
        Self(memory)
    }

    /// Returns the memory of the tag, for its return to the supply.
    pub(super) fn into_memory(self) -> NonNull<BoundaryTag> {
        self.0
    }

    /// Makes the tag describe the range from `start` to `last`, inclusive, of which nothing is
    /// discarded.
    pub(super) fn set(self, kind: Kind, start: usize, last: usize) {
        debug_assert!(start <= last);
        self.start.set(start);
        self.last.set(last);
        self.kind.set(kind);
        self.discarded.set(false);
        self.busy.set(false);
    }

    /// Returns the size. It cannot overflow, because no span is as large as the address space.
    pub(super) fn size(self) -> usize {
        self.last.get() - self.start.get() + 1
    }

    /// Returns the neighbour below: a segment, or the span.
    #[inline]
    pub(super) fn below(self) -> TagRef {
        self.prev.get()
    }

    /// Returns the neighbour above: a segment, or the span.
    #[inline]
    pub(super) fn above(self) -> TagRef {
        self.next.get()
    }

    pub(super) fn contains(self, address: usize) -> bool {
        self.start.get() <= address && address <= self.last.get()
    }

    /// Notes that memory of this segment may be discarded, if `discarded`.
    #[inline]
    pub(super) fn add_discarded(self, discarded: bool) {
        self.discarded.set(self.discarded.get() | discarded);
    }

    pub(super) fn is_span(self) -> bool {
        matches!(self.kind.get(), Kind::Span { .. })
    }

    pub(super) fn is_borrowed_span(self) -> bool {
        self.kind.get() == Kind::Span { borrowed: true }
    }

    pub(super) fn is_free(self) -> bool {
        self.kind.get() == Kind::Free
    }

    pub(super) fn is_allocated(self) -> bool {
        self.kind.get() == Kind::Allocated
    }
}

impl Deref for TagRef {
    type Target = BoundaryTag;

    fn deref(&self) -> &BoundaryTag {
        #[cfg(test)]
        super::cost_tests::count_probe();
        // SAFETY: `new` initialised the memory. By its contract the memory is valid while the
        // reference is used, and the arena's lock excludes other threads. All changes go through
        // cells.
        unsafe { self.0.as_ref() }
    }
}

impl fmt::Debug for BoundaryTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoundaryTag")
    }
}
