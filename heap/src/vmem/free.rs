//! Deallocation.

use super::boundary_tag::TagRef;
use super::request::round_up;
use super::state::{State, is_idle};
use super::{Arena, Error, Lock, Locked, Result, TagSupply};

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Frees the segment that was allocated at `base`. Expected O(1), apart from calls to the
    /// source.
    ///
    /// The segment coalesces with free neighbours in its span. That takes no boundary tag, and
    /// releases up to two.
    ///
    /// ```text
    ///                      0x1_0000    0x1_1000                0x1_3000    0x1_4000    0x1_5000
    ///  before              │ free      │ allocated             │ free      │ allocated │
    ///  free(0x1_1000)      │ free                                          │ allocated │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// arena.xalloc_at(0x1_1000, 0x2000)?;
    /// arena.xalloc_at(0x1_4000, 0x1000)?;
    /// arena.free(0x1_1000)?;
    /// assert_eq!(arena.largest_free(), 0x4000);
    /// let twice = Err(Error::NoSuchAllocation { base: 0x1_1000 });
    /// assert_eq!(arena.free(0x1_1000), twice);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// An imported span may become entirely free. If the arena then has more such spans than it
    /// [retains](Self::with_retained_spans), it releases the oldest to the source. A span that the
    /// source refuses stays in the arena.
    ///
    /// # Errors
    /// [`Error::NoSuchAllocation`] unless an allocated segment starts at `base`, [`Error::Busy`] if
    /// a resize, discard or restore of it is in progress.
    #[doc(alias("vmem_free", "vmem_xfree"))]
    pub fn free(&self, base: usize) -> Result<()> {
        self.free_if(base, |_| Ok(()))
    }

    /// [Frees](Self::free) the segment at `base`, after a check that it has `size`, rounded up to
    /// the quantum.
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// let base = arena.alloc(0x2800, AllocPolicy::InstantFit)?;
    /// let wrong = Err(Error::WrongSize { base, expected: 0x3000, found: 0x2000 });
    /// assert_eq!(arena.free_sized(base, 0x2000), wrong);
    /// assert_eq!(arena.free_sized(base, 0x2800), Ok(()));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`free`](Self::free); [`Error::WrongSize`] if the segment has another size;
    /// [`Error::AllocZeroSize`] and [`Error::SizeOverflow`] for sizes that no segment has.
    #[doc(alias("vmem_free", "vmem_xfree"))]
    pub fn free_sized(&self, base: usize, size: usize) -> Result<()> {
        let space = round_up(size, self.quantum)?;
        self.free_if(base, |segment| {
            if segment.size() == space {
                Ok(())
            } else {
                Err(Error::WrongSize {
                    base,
                    expected: segment.size(),
                    found: size,
                })
            }
        })
    }

    #[inline]
    fn free_if(&self, base: usize, check: impl FnOnce(TagRef) -> Result<()>) -> Result<()> {
        let mut state = self.lock();
        let segment = state.index.take(base, |segment| {
            if segment.busy.get() {
                return Err(Error::Busy { base });
            }
            check(segment)
        })?;
        let merged = state.free_and_coalesce(segment);
        self.finish_free(state, merged);
        Ok(())
    }

    /// Ends an operation that freed memory, now a part of the free segment `merged`.
    #[inline]
    pub(super) fn finish_free<'a>(&'a self, mut state: Locked<'a, L>, merged: TagRef) {
        let above = merged.above();
        if above.is_borrowed_span() {
            if is_idle(merged) {
                state.idle.push(above);
            }
            self.release_idle_spans(state, above, self.retained_spans);
        } else {
            self.finish(state);
        }
    }
}

impl State {
    /// Returns the allocated segment that starts at `base`.
    ///
    /// # Errors
    /// [`Error::NoSuchAllocation`]; [`Error::Busy`] if a resize of it is in progress.
    pub(super) fn allocated_at(&self, base: usize) -> Result<TagRef> {
        let segment = self
            .index
            .find(base)
            .ok_or(Error::NoSuchAllocation { base })?;
        if segment.resizing.get() {
            return Err(Error::Busy { base });
        }
        Ok(segment)
    }
}
