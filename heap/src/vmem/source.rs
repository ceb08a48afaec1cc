//! Where an arena gets spans from.

use super::{Error, Layout, Result};

/// Something that lends spans to an arena: another arena, or the pages behind addresses.
///
/// An arena calls its source with none of its locks held. No function here may panic. Bases and
/// sizes are in the unit of the arena; sizes are multiples of its quantum and of the source's.
///
/// The trait is safe to implement: an arena verifies what it is lent, and what a source says can
/// cost addresses, but never memory safety. Who uses the numbers of an arena as memory must trust its
/// source, and says so in an `unsafe` block: see [`ArenaSource::new`](crate::source::ArenaSource::new).
///
/// What is lent of a range, after calls in this order:
///
/// ```text
///                                   base          + 0x1000      + 0x2000      + 0x3000
///  import(size 0x2000) = base       ├─────────── lent ──────────┤
///  extend(base, 0x2000, 0x3000)     ├────────────────── lent ─────────────────┤
///  shrink(base, 0x3000, 0x1000)     ├─── lent ────┤
///  release(base, 0x1000)            nothing
/// ```
///
/// An arena is a source itself:
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
/// source.add_span(0x8_0000, 0x4000)?;
/// let base = Source::import(&source, Layout::from_size_align(0x2000, 0x1000).unwrap())?;
/// // SAFETY: nobody else uses the range, which was lent with this base and these sizes.
/// unsafe {
///     source.extend(base, 0x2000, 0x3000)?;
///     source.shrink(base, 0x3000, 0x1000)?;
///     source.release(base, 0x1000)?;
/// }
/// assert_eq!(source.allocated_space(), 0);
/// # Ok::<(), Error>(())
/// ```
pub trait Source: Sync {
    /// Returns the quantum of what is lent: bases and sizes are multiples of it. A power of two, always
    /// the same; 1 by default, which makes no demand.
    ///
    /// An arena whose own quantum is finer borrows, extends and gives back in multiples of this one, and
    /// keeps what is left over for later allocations. Constraints that the source cannot express at its
    /// quantum are widened: of what is lent, the arena takes the part that satisfies them.
    ///
    /// ```text
    ///  quantum 0x10, from a source of quantum 0x1000:   alloc(0x20), then alloc(0x10)
    ///
    ///  0x8_0000        0x8_0020    0x8_0030                                   0x8_0fff
    ///  ├───────────────┼───────────┼──────────────────────────────────────────┤
    ///  │ allocated     │ allocated │ free                                     │  one borrowed span
    ///  └───────────────┴───────────┴──────────────────────────────────────────┘
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// source.add_span(0x8_0000, 0x4000)?;
    /// let arena = Arena::<_, Lock>::create("small", 0x10, Some(&source), &tags)?;
    /// assert_eq!(arena.alloc(0x20, AllocPolicy::InstantFit), Ok(0x8_0000));
    /// assert_eq!(arena.alloc(0x10, AllocPolicy::InstantFit), Ok(0x8_0020));
    /// assert_eq!(source.allocated_space(), 0x1000);
    /// # Ok::<(), Error>(())
    /// ```
    fn quantum(&self) -> usize {
        1
    }

    /// [Lends](Self) a range that satisfies `layout`, and returns its base.
    ///
    /// The layout's size is a multiple of the borrowing arena's quantum and of this source's, and its
    /// alignment is at least as large as either.
    ///
    /// # Errors
    /// Any error; nothing is lent then.
    fn import(&self, layout: Layout) -> Result<usize>;

    /// Takes back a range, all of it, [as it is then](Self).
    ///
    /// # Errors
    /// Any error; the range is then still lent.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, has now exactly
    /// this size, and is not used any more. An arena takes what was freed in it for unused: whoever uses its
    /// numbers as memory must be the only one who frees or shrinks them.
    unsafe fn release(&self, base: usize, size: usize) -> Result<()>;

    /// Makes a lent range [longer at its end](Self), in place.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default; any error leaves the range as it was.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, and has now exactly
    /// this size. `new_size` is more than `size`. No other call concerns this range meanwhile.
    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }

    /// Takes back the end of a lent range, `[base + new_size, base + size)`.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default; any error leaves the range as it was.
    ///
    /// # Safety
    /// The range `[base, base + size)` was lent by this source with that base, and has now exactly
    /// this size. `new_size` is less than `size` and not zero; what lies above it is not used any
    /// more. No other call concerns this range meanwhile.
    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }
}
