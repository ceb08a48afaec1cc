//! A read-only view of an arena, for code that inspects the arena and must not change it.

use core::fmt;

use super::{Arena, Corruption, Lock, Segment, Segments, TagSupply};

/// A read-only view of an [`Arena`].
///
/// Code with an `&Arena` can free and resize segments that other code has allocated. If the
/// segments are memory in use, that would be unsound. A view has the methods that inspect an arena,
/// and none that changes it, so a safe function can return a view. It has no `Deref` and no
/// accessor that leads to the arena.
///
/// Each method has the cost of the method of the same name of [`Arena`], and locks the arena for
/// the same time.
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
/// arena.add_span(0x1_0000, 0x5000)?;
/// let view = arena.view();
/// arena.xalloc_at(0x1_0000, 0x2000)?;
/// assert_eq!((view.allocated_space(), view.largest_free()), (0x2000, 0x3000));
/// assert!(view.contains(0x1_4fff));
/// # Ok::<(), Error>(())
/// ```
///
/// A view cannot free the allocations of other code:
///
/// ```compile_fail,E0599
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
/// # arena.add_span(0x1_0000, 0x5000)?;
/// # let base = arena.alloc(0x1000, AllocPolicy::InstantFit)?;
/// arena.view().free(base)?;
/// # Ok::<(), Error>(())
/// ```
pub struct ArenaView<'arena, 'label, 'src, A: TagSupply, L: Lock> {
    arena: &'arena Arena<'label, 'src, A, L>,
}

impl<'label, 'src, A: TagSupply, L: Lock> Arena<'label, 'src, A, L> {
    /// Returns a read-only view of this arena. Constant time, takes no lock.
    #[inline]
    pub fn view(&self) -> ArenaView<'_, 'label, 'src, A, L> {
        ArenaView { arena: self }
    }
}

impl<'arena, 'label, 'src, A: TagSupply, L: Lock> ArenaView<'arena, 'label, 'src, A, L> {
    /// Returns the arena's label.
    pub fn label(self) -> &'label str {
        self.arena.label()
    }

    /// Returns the arena's quantum, a power of two.
    pub fn quantum(self) -> usize {
        self.arena.quantum()
    }

    /// Returns the size of all spans.
    pub fn total_space(self) -> usize {
        self.arena.total_space()
    }

    /// Returns the size of all allocated segments.
    pub fn allocated_space(self) -> usize {
        self.arena.allocated_space()
    }

    /// Returns the size of all free segments.
    pub fn free_space(self) -> usize {
        self.arena.free_space()
    }

    /// Returns the size of all spans imported from the source.
    pub fn borrowed_space(self) -> usize {
        self.arena.borrowed_space()
    }

    /// Returns the size of the largest free segment, or 0.
    pub fn largest_free(self) -> usize {
        self.arena.largest_free()
    }

    /// Returns whether a span contains `address`, free or allocated.
    pub fn contains(self, address: usize) -> bool {
        self.arena.contains(address)
    }

    /// Returns the segment that contains `address`; `None` if no span contains it.
    pub fn segment_of(self, address: usize) -> Option<Segment> {
        self.arena.segment_of(address)
    }

    /// Returns [`segment_of`](Self::segment_of) without waiting; `None` if the arena is locked.
    pub fn try_segment_of(self, address: usize) -> Option<Option<Segment>> {
        self.arena.try_segment_of(address)
    }

    /// Returns an iterator over the segments in address order.
    pub fn segments(self) -> Segments<'arena, 'label, 'src, A, L> {
        self.arena.segments()
    }

    /// Checks all structures of the arena, and returns the first broken rule.
    ///
    /// # Errors
    /// The broken rule, and the address.
    pub fn check(self) -> Result<(), Corruption> {
        self.arena.check()
    }
}

// A derived implementation would require `A` and `L` to be `Copy`.
impl<A: TagSupply, L: Lock> Clone for ArenaView<'_, '_, '_, A, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: TagSupply, L: Lock> Copy for ArenaView<'_, '_, '_, A, L> {}

impl<A: TagSupply, L: Lock> fmt::Debug for ArenaView<'_, '_, '_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arena.fmt(f)
    }
}
