//! Spans: adding them, importing them from the source, and releasing them to it.

use super::boundary_tag::TagRef;
use super::request::Request;
use super::state::{State, is_idle};
use super::tag_refill::TAGS_PER_OPERATION;
use super::{Arena, Error, Layout, Lock, Locked, Result, Source, TagSupply};

impl<'src, A: TagSupply, L: Lock> Arena<'_, 'src, A, L> {
    /// Adds a span that is not imported: the `len` addresses from `base` on, all of them free.
    /// O(log spans).
    ///
    /// The span stays until the arena is dropped, and never coalesces with another span.
    ///
    /// ```text
    ///                                  0x1_0000                        0x1_4000        0x1_6000
    ///  add_span(0x1_0000, 0x4000)      │ free                          │
    ///  add_span(0x1_4000, 0x2000)      │ free                          │ free          │  2 spans
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x4000)?;
    /// arena.add_span(0x1_4000, 0x2000)?;
    /// assert_eq!((arena.free_space(), arena.largest_free()), (0x6000, 0x4000));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AllocZeroSize`], [`Error::UnalignedSpan`] unless base and length are multiples of
    /// the quantum, [`Error::WrappingSpan`], [`Error::OverlappingSpan`], [`Error::LimitReached`],
    /// [`Error::SizeOverflow`] if the total size of all spans exceeds `usize::MAX`,
    /// [`Error::AllocatorError`].
    #[doc(alias = "vmem_add")]
    pub fn add_span(&self, base: usize, len: usize) -> Result<()> {
        let mut state = self.lock_with_tags()?;
        let last = self.check_span(&state, base, len)?;
        state.reserve(len, self.limit)?;
        state.end_reservation(len);
        state.add_span(base, last, false);
        self.finish(state);
        Ok(())
    }

    /// Imports a span from the source, with room for `layout`. O(log spans), and the call to the
    /// source.
    ///
    /// An allocation that finds no free segment imports by itself. Size and alignment are rounded
    /// up to the quantum and to the source's [quantum](Source::quantum). The range that satisfies
    /// `layout` begins at the base of the span, unless the source's quantum is too coarse for that.
    ///
    /// ```text
    ///  source      0x8_0000        0x8_2000        0x8_4000     arena    0x8_0000        0x8_2000
    ///  before      │ free                          │             without a span
    ///  import      │ allocated     │ free          │             │ free          │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// source.add_span(0x8_0000, 0x4000)?;
    /// let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    /// arena.import(Layout::from_size_align(0x2000, 0x1000).unwrap())?;
    /// assert!(arena.contains(0x8_1fff) && !arena.contains(0x8_2000));
    /// assert_eq!((arena.borrowed_space(), source.allocated_space()), (0x2000, 0x2000));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSource`], the source's error, [`Error::LimitReached`],
    /// [`Error::AllocatorError`], and those of [`xalloc`](Self::xalloc) about the layout.
    pub fn import(&self, layout: Layout) -> Result<()> {
        let source = self.source.ok_or(Error::NoSource)?;
        let request = Request::new(&layout, self.quantum)?;
        let (state, ..) = self.import_exact(source, &request)?;
        self.finish(state);
        Ok(())
    }

    /// Imports a span with room for a request, of the minimum size if the source permits.
    ///
    /// Returns its segment and the base at which the request fits, with the arena locked and enough
    /// cached tags to divide the segment.
    pub(super) fn import_for(
        &self,
        source: &'src dyn Source,
        request: &Request,
    ) -> Result<(Locked<'_, L>, TagRef, usize)> {
        if self.min_import > request.rounded_size {
            let layout = request.import_layout(self.import_quantum, self.min_import)?;
            let borrowed = self.import_span(source, request, layout);
            if borrowed.is_ok() {
                return borrowed;
            }
        }
        self.import_exact(source, request)
    }

    /// Does the same as [`import_for`](Self::import_for), without a minimum size.
    #[inline]
    fn import_exact(
        &self,
        source: &'src dyn Source,
        request: &Request,
    ) -> Result<(Locked<'_, L>, TagRef, usize)> {
        let layout = request.import_layout(self.import_quantum, 0)?;
        let borrowed = self.import_span(source, request, layout);
        if borrowed.is_err() {
            if let Some(layout) = request.import_layout_at_min(self.import_quantum) {
                return self.import_span(source, request, layout).or(borrowed);
            }
        }
        borrowed
    }

    /// Imports a span of this layout, which has room for the request.
    fn import_span(
        &self,
        source: &'src dyn Source,
        request: &Request,
        layout: Layout,
    ) -> Result<(Locked<'_, L>, TagRef, usize)> {
        let size = layout.size();
        let mut state = self.lock_with_tags()?;
        state.reserve(size, self.limit)?;
        let tags = state.tag_cache.split(TAGS_PER_OPERATION);
        drop(state);

        let lent = source.import(layout);

        let mut state = self.lock();
        state.tag_cache.append(tags);
        state.end_reservation(size);
        let base = lent?;
        let checked = self.check_span(&state, base, size).and_then(|last| {
            let position = request.position(base, last).ok_or(Error::Other(
                "the source lent a range that does not satisfy the layout",
            ))?;
            Ok((last, position))
        });
        match checked {
            Ok((last, position)) => {
                let segment = state.add_span(base, last, true);
                Ok((state, segment, position))
            }
            Err(error) => {
                drop(state);
                // SAFETY: the source has just lent this range with this size, and no caller has
                // seen it. After a refusal the range stays lent for good.
                let _ = unsafe { source.release(base, size) };
                Err(error)
            }
        }
    }

    /// Returns the last address of a range, after a check that it can become a span.
    fn check_span(&self, state: &State, base: usize, len: usize) -> Result<usize> {
        let quantum = self.quantum;
        if len == 0 {
            return Err(Error::AllocZeroSize);
        }
        if (base | len) % quantum != 0 {
            return Err(Error::UnalignedSpan { base, len, quantum });
        }
        let last = base
            .checked_add(len - 1)
            .ok_or(Error::WrappingSpan { base, len })?;
        match state.spans.overlapping(base, last) {
            Some(span) => Err(Error::OverlappingSpan {
                base,
                len,
                other: span.start.get(),
            }),
            None => Ok(last),
        }
    }

    /// Releases all free imported spans and the free tails of the others to the source, and returns
    /// the released size. O(spans · log spans), and the calls to the source.
    ///
    /// ```text
    ///  imported spans   0x8_0000                        0x8_4000    0x8_5000    0x8_6000
    ///  before           │ free                          │ allocated │ free      │
    ///  trim() = 0x5000                                  │ allocated │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// source.add_span(0x8_0000, 0x6000)?;
    /// let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    /// let first = arena.alloc(0x4000, AllocPolicy::InstantFit)?;
    /// let second = arena.alloc(0x2000, AllocPolicy::InstantFit)?;
    /// arena.free(first)?;
    /// arena.resize(second, 0x1000)?;
    /// assert_eq!((arena.borrowed_space(), arena.trim()), (0x6000, 0x5000));
    /// assert_eq!(arena.borrowed_space(), 0x1000);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn trim(&self) -> usize {
        let mut released = 0;
        let mut from = Some(0);
        while let Some(address) = from {
            let state = self.lock();
            let Some(span) = state.spans.at_or_above(address) else {
                break;
            };
            from = span.last.get().checked_add(1);
            released += self.release_idle_spans(state, span, 0);
        }
        released
    }

    /// Releases the oldest idle spans until `keep` are left, and returns the released size. If none
    /// are kept, it first releases the free tail of `span`.
    #[inline(never)]
    pub(super) fn release_idle_spans<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        span: TagRef,
        keep: usize,
    ) -> usize {
        let Some(source) = self.source else { return 0 };
        let mut given_back = 0;
        if keep == 0 {
            (state, given_back) = self.release_free_tail(state, source, span);
        }
        while state.idle.len() > keep {
            let Some(span) = state.idle.oldest_not_busy() else {
                break;
            };
            let (base, last, size) = (span.start.get(), span.last.get(), span.size());
            let discarded = span.above().discarded.get();
            // The span leaves the arena first: as soon as the source has it, another thread may
            // import it again.
            state.remove_span(span);
            state.reserve_for_release(size);
            let tags = state.tag_cache.split(2);
            drop(state);
            // SAFETY: the source lent this span, it has exactly this size, all of it was free, and
            // the arena has forgotten it.
            let released = unsafe { source.release(base, size) };
            state = self.lock();
            state.tag_cache.append(tags);
            state.end_reservation(size);
            if released.is_err() {
                // A caller may have added the refused range as a span meanwhile.
                if state.spans.overlapping(base, last).is_none() {
                    state.add_span(base, last, true).discarded.set(discarded);
                }
                break;
            }
            given_back += size;
        }
        self.finish(state);
        given_back
    }

    /// Shrinks a span by its free tail, unless the whole span is free. Returns the released size.
    fn release_free_tail<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        source: &dyn Source,
        span: TagRef,
    ) -> (Locked<'a, L>, usize) {
        let mut given_back = 0;
        // More of the tail may become free during the call to the source.
        while span.is_borrowed_span()
            && span.below().is_free()
            && !is_idle(span.below())
            && !span.busy.get()
            && !state.source_cannot_shrink
        {
            let (base, size) = (span.start.get(), span.size());
            let discarded = span.below().discarded.get();
            let Some(last) = state.cut_tail(span, self.import_quantum) else {
                break;
            };
            let new_size = span.size();
            state.reserve_for_release(size - new_size);
            let tags = state.tag_cache.split(1);
            span.busy.set(true);
            drop(state);
            // SAFETY: the source lent this span, it had exactly this size, and the part above
            // `new_size` was free and has left the arena. The busy mark prevents other calls
            // about this span.
            let shrunk = unsafe { source.shrink(base, size, new_size) };
            state = self.lock();
            state.tag_cache.append(tags);
            state.end_reservation(size - new_size);
            if let Err(error) = shrunk {
                state.source_cannot_shrink |= error == Error::NotSupported;
                // A caller may have added the refused tail as a span meanwhile. Then this span
                // stays busy and lent, since the source has lent more than the arena knows.
                if state.spans.overlapping(base + new_size, last).is_none() {
                    span.busy.set(false);
                    state.restore_tail(span, last, discarded);
                }
                break;
            }
            span.busy.set(false);
            given_back += size - new_size;
        }
        (state, given_back)
    }
}

impl<A: TagSupply + Sync, L: Lock + Sync> Source for Arena<'_, '_, A, L> {
    fn quantum(&self) -> usize {
        self.quantum
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        self.xalloc(layout, super::AllocPolicy::InstantFit)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        self.free_sized(base, size)
    }

    unsafe fn extend(&self, base: usize, _size: usize, new_size: usize) -> Result<()> {
        self.resize(base, new_size)
    }

    unsafe fn shrink(&self, base: usize, _size: usize, new_size: usize) -> Result<()> {
        self.resize(base, new_size)
    }

    /// Passes on to the arena's own source. If that has a coarser quantum, borrowers may share a
    /// quantum of it, so this is [`Error::NotSupported`].
    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        if self.import_quantum != self.quantum {
            return Err(Error::NotSupported);
        }
        self.discard(base, size)
    }

    /// Passes on to the arena's own source, as [`discard`](Source::discard) does.
    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        if self.import_quantum != self.quantum {
            return Err(Error::NotSupported);
        }
        self.restore(base, size)
    }
}
