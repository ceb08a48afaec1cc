//! The source of an arena, from which it imports spans.

use super::{Error, Layout, Result};

/// A lender of spans: another arena, or a page allocator behind a range of addresses.
///
/// An arena calls its source without a lock held. Implementations must not panic. Bases and sizes
/// are in the unit of the arena. Sizes are multiples of its quantum and of the source's.
///
/// The trait is safe to implement. An arena verifies each range that it imports, so a wrong answer
/// can lose addresses, but cannot violate memory safety. Code that uses the numbers of an arena as
/// memory must trust the arena's source. It says so in an `unsafe` block: see
/// [`ArenaSource::new`](crate::source::ArenaSource::new).
///
/// The picture shows the lent part of a range, after calls in this order:
///
/// ```text
///                                   base          + 0x1000      + 0x2000      + 0x3000
///  import(size 0x2000) = base       ├─────────── lent ──────────┤
///  extend(base, 0x2000, 0x3000)     ├────────────────── lent ─────────────────┤
///  shrink(base, 0x3000, 0x1000)     ├─── lent ────┤
///  release(base, 0x1000)            nothing lent
/// ```
///
/// A source of memory may also let go of the memory in the middle of what it has lent:
/// [`discard`](Self::discard) and [`restore`](Self::restore), of which it implements both or
/// neither.
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
/// // SAFETY: the range is lent with this base and has these sizes, and it is not in use.
/// unsafe {
///     source.extend(base, 0x2000, 0x3000)?;
///     source.shrink(base, 0x3000, 0x1000)?;
///     source.release(base, 0x1000)?;
/// }
/// assert_eq!(source.allocated_space(), 0);
/// # Ok::<(), Error>(())
/// ```
#[doc(alias = "vmem_source")]
pub trait Source: Sync {
    /// Returns the quantum of the source, a power of two that never changes: 1 by default. Bases
    /// and sizes of lent ranges are multiples of it.
    ///
    /// An arena with a finer quantum imports, extends and releases in multiples of this one. It
    /// retains the rest for later allocations. If a constraint is finer than this quantum, the
    /// arena imports a larger range, and takes the part that satisfies the constraint.
    ///
    /// ```text
    ///  quantum 0x10, from a source of quantum 0x1000:   alloc(0x20), then alloc(0x10)
    ///
    ///  0x8_0000        0x8_0020    0x8_0030                                   0x8_0fff
    ///  ├───────────────┼───────────┼──────────────────────────────────────────┤
    ///  │ allocated     │ allocated │ free                                     │  one imported span
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

    /// Lends a range that satisfies `layout`, and returns its base.
    ///
    /// The size of the layout is a multiple of the quanta of the importing arena and this source.
    /// Its alignment is at least either quantum.
    ///
    /// # Errors
    /// Any error means that the source has lent nothing.
    fn import(&self, layout: Layout) -> Result<usize>;

    /// Takes back a lent range, all of it.
    ///
    /// # Errors
    /// Any error means that the range is still lent.
    ///
    /// # Safety
    /// * The range `[base, base + size)` was lent by this source with that base, and now has
    ///   exactly this size.
    /// * The range is no longer in use. An arena considers a freed segment unused. Code that uses
    ///   its numbers as memory must therefore be the only code that frees, shrinks or discards
    ///   them.
    unsafe fn release(&self, base: usize, size: usize) -> Result<()>;

    /// Extends a lent range at its end, in place.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default. Any error leaves the range unchanged.
    ///
    /// # Safety
    /// * The range `[base, base + size)` was lent by this source with that base, and now has
    ///   exactly this size.
    /// * `new_size` is more than `size`.
    /// * No other call about this range is in progress.
    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }

    /// Takes back the tail of a lent range, `[base + new_size, base + size)`.
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default. Any error leaves the range unchanged.
    ///
    /// # Safety
    /// * The range `[base, base + size)` was lent by this source with that base, and now has
    ///   exactly this size.
    /// * `new_size` is less than `size` and not zero.
    /// * The tail is no longer in use.
    /// * No other call about this range is in progress.
    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let _ = (base, size, new_size);
        Err(Error::NotSupported)
    }

    /// Takes back the memory behind a part of a lent range. The numbers stay lent.
    ///
    /// Parts of the part may be discarded already. [`release`](Self::release) and
    /// [`shrink`](Self::shrink) of a range with discarded parts are permitted; they take back the
    /// memory that is left. A part is discarded until it is restored or no longer lent.
    ///
    /// ```text
    ///                                    base        + 0x1000    + 0x2000    + 0x3000    + 0x4000
    ///  import(size 0x4000)               │ memory                                        │
    ///  discard(base + 0x1000, 0x1000)    │ memory    │ nothing   │ memory                │
    ///  discard(base + 0x1000, 0x2000)    │ memory    │ nothing               │ memory    │
    ///  restore(base, 0x2000)             │ memory    │ zeros     │ nothing   │ memory    │
    ///  shrink(base, 0x4000, 0x2000)      │ memory    │ zeros     │
    /// ```
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default. Any error leaves the range unchanged.
    ///
    /// # Safety
    /// * The range `[base, base + size)` is a part of one range that this source has lent. Both are
    ///   multiples of the quantum, and `size` is not zero.
    /// * The memory of the part is no longer in use.
    /// * No other call about any of the part is in progress. Calls about other parts of the lent
    ///   range may be, and calls that extend it or shrink it to an end above the part.
    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        let _ = (base, size);
        Err(Error::NotSupported)
    }

    /// Makes all of a part of a lent range memory again, or nothing.
    ///
    /// If the source lends zeroed memory, what was discarded is zero afterwards. The rest keeps its
    /// contents. The picture is at [`discard`](Self::discard).
    ///
    /// # Errors
    /// [`Error::NotSupported`] by default. Any error leaves the range unchanged: what was discarded
    /// still is.
    ///
    /// # Safety
    /// * The range `[base, base + size)` is a part of one range that this source has lent. Both are
    ///   multiples of the quantum, and `size` is not zero.
    /// * No other call about any of the part is in progress. Calls about other parts of the lent
    ///   range may be, and calls that extend it or shrink it to an end above the part.
    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        let _ = (base, size);
        Err(Error::NotSupported)
    }
}
