//! Boundary tags, which describe the spans of an arena and the segments in them.
//!
//! ```text
//!  address order: a ring through each span and its segments       left, right
//!
//!    ┌─▶ span ◀─▶ free ◀─▶ allocated ◀─▶ free ◀─┐               span: in the tree of spans
//!    └──────────────────────────────────────────┘               free: in a free list
//!        [0,99]   [0,9]     [10,59]     [60,99]                  allocated: in a bucket (right)
//! ```

use core::cell::Cell;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

/// A boundary tag.
///
/// The type is public so that a tag supply knows its size and alignment; what is in it concerns the
/// arena alone. On 64-bit machines it is 64 bytes, aligned to as many:
///
/// ```text
///  0       8       16      24      32      40      48      56     57     58      64
///  ┌───────┬───────┬───────┬───────┬───────┬───────┬───────┬──────┬──────┬───────┐
///  │ start │ last  │ prev  │ next  │ left  │ right │ idle  │ kind │ busy │       │
///  └───────┴───────┴───────┴───────┴───────┴───────┴───────┴──────┴──────┴───────┘
///   inclusive       address order   list or tree    queue   span, free   unused
///                                                           or allocated
/// ```
///
/// ```
/// use heap::vmem::BoundaryTag;
///
/// #[cfg(target_pointer_width = "64")]
/// assert_eq!((size_of::<BoundaryTag>(), align_of::<BoundaryTag>()), (64, 64));
/// ```
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub struct BoundaryTag {
    /// The first address.
    pub(super) start: Cell<usize>,
    /// The last address, so that a range may end where the address space ends. At least `start`.
    pub(super) last: Cell<usize>,
    /// The neighbour below; for a span, its last segment. A ring: the tag itself to begin with.
    pub(super) prev: Cell<TagRef>,
    /// The neighbour above; for a span, its first segment.
    pub(super) next: Cell<TagRef>,
    pub(super) left: Cell<Option<TagRef>>,
    pub(super) right: Cell<Option<TagRef>>,
    /// Links in the queue of idle spans: see there.
    pub(super) idle: Cell<Option<TagRef>>,
    pub(super) kind: Cell<Kind>,
    /// The source is being called about the end of this span, or of the span of this segment.
    pub(super) busy: Cell<bool>,
}

const _: () = assert!(size_of::<BoundaryTag>() <= 64);

/// What a boundary tag describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A span, and whether it is borrowed from the source.
    Span {
        borrowed: bool,
    },
    Free,
    Allocated,
}

/// A boundary tag that belongs to an arena.
///
/// It derefs to the tag, whose fields are cells: lists, trees and callers may all hold the same tag,
/// and nobody ever has a `&mut` to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TagRef(NonNull<BoundaryTag>);

impl TagRef {
    /// Makes a tag of raw memory.
    ///
    /// # Safety
    /// The memory comes from the arena's tag supply. The value and its copies are not used after
    /// the memory has been given back, and only under the arena's lock.
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
            busy: Cell::new(false),
        };
        // SAFETY: a supply's memory is valid, aligned, and ours alone.
        unsafe { memory.write(tag) };
        Self(memory)
    }

    /// The memory, to be given back to the supply.
    pub(super) fn into_memory(self) -> NonNull<BoundaryTag> {
        self.0
    }

    /// Describes the range from `start` to `last`, inclusive.
    pub(super) fn set(self, kind: Kind, start: usize, last: usize) {
        debug_assert!(start <= last);
        self.start.set(start);
        self.last.set(last);
        self.kind.set(kind);
        self.busy.set(false);
    }

    /// The size. It always fits: no span is as large as the whole address space.
    pub(super) fn size(self) -> usize {
        self.last.get() - self.start.get() + 1
    }

    /// The neighbour below: a segment, or the span.
    #[inline]
    pub(super) fn below(self) -> TagRef {
        self.prev.get()
    }

    /// The neighbour above: a segment, or the span.
    #[inline]
    pub(super) fn above(self) -> TagRef {
        self.next.get()
    }

    pub(super) fn contains(self, address: usize) -> bool {
        self.start.get() <= address && address <= self.last.get()
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
        // SAFETY: `new` was promised that the memory is valid for as long as the tag is used, and
        // that the arena's lock keeps other threads away. It has been initialised, and is only
        // changed through cells.
        unsafe { self.0.as_ref() }
    }
}

impl fmt::Debug for BoundaryTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoundaryTag")
    }
}
