//! Spans: added, borrowed from the source, and given back.

use super::boundary_tag::TagRef;
use super::request::Request;
use super::state::{State, is_idle};
use super::tag_refill::TAGS_PER_OPERATION;
use super::{Arena, Error, Layout, Lock, Locked, Result, Source, TagSupply};

impl<'src, A: TagSupply, L: Lock> Arena<'_, 'src, A, L> {
    /// Adds a span that is not borrowed from anybody: the addresses from `base` on, `len` of them.
    /// All of it is free. It stays until the arena is dropped, and never merges with another span.
    /// O(log spans).
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
    /// [`Error::SizeOverflow`] if all spans together are more than the largest number,
    /// [`Error::AllocatorError`].
    pub fn add_span(&self, base: usize, len: usize) -> Result<()> {
        let mut state = self.lock_with_tags()?;
        let last = self.check_span(&state, base, len)?;
        state.reserve(len, self.limit)?;
        state.end_reservation(len);
        state.add_span(base, last, false);
        self.finish(state);
        Ok(())
    }

    /// Borrows a span from the source in which there is room for `layout`: at its base, unless only a
    /// part of what a source with a coarser [quantum](Source::quantum) can lend satisfies `layout`. Size
    /// and alignment are rounded up to the quantum and to the source's. The arena does so of itself when
    /// an allocation finds no room. O(log spans), and what the source takes.
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

    /// Borrows a span in which there is room for a request, and at least the minimum import if possible.
    /// Returns its segment and where in it the request fits, with the arena locked and tags in hand for
    /// a split.
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

    /// As [`import_for`](Self::import_for), without a minimum.
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
        let place = self.check_span(&state, base, size).and_then(|last| {
            let position = request.position(base, last).ok_or(Error::Other(
                "the source lent a range that does not satisfy the layout",
            ))?;
            Ok((last, position))
        });
        match place {
            Ok((last, position)) => {
                let segment = state.add_span(base, last, true);
                Ok((state, segment, position))
            }
            Err(error) => {
                drop(state);
                // SAFETY: the source has just lent this range, and nobody has used it. There is
                // nothing to be done if it does not even take that back.
                let _ = unsafe { source.release(base, size) };
                Err(error)
            }
        }
    }

    /// Checks that a range can be a span, and returns its last address.
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

    /// Gives back to the source what the arena keeps although it is free: borrowed spans, and the
    /// free ends of others. Returns how much it was. O(spans · log spans), and what the source
    /// takes.
    ///
    /// ```text
    ///  borrowed spans   0x8_0000                        0x8_4000    0x8_5000    0x8_6000
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
        let mut given_back = 0;
        let mut from = Some(0);
        while let Some(address) = from {
            let state = self.lock();
            let Some(span) = state.spans.at_or_above(address) else {
                break;
            };
            from = span.last.get().checked_add(1);
            given_back += self.release_idle_spans(state, span, 0);
        }
        given_back
    }

    /// Offers to the source, after something at the end of a borrowed span has become free, what is
    /// more than `keep` free spans; if none is to be kept, also the free end of this span. Returns
    /// how much the source took.
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
            // Out of the arena first: once the source has it, it may come back in an import.
            state.remove_span(span);
            state.reserve_for_release(size);
            let tags = state.tag_cache.split(2);
            drop(state);
            // SAFETY: the source lent this span, it has this size, and the arena does not know it
            // any more.
            let released = unsafe { source.release(base, size) };
            state = self.lock();
            state.tag_cache.append(tags);
            state.end_reservation(size);
            if released.is_err() {
                // Somebody may have added the range meanwhile, against all rules.
                if state.spans.overlapping(base, last).is_none() {
                    state.add_span(base, last, true);
                }
                break;
            }
            given_back += size;
        }
        self.finish(state);
        given_back
    }

    /// Offers the free end of a span to the source, unless the whole span is free.
    fn release_free_tail<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        source: &dyn Source,
        span: TagRef,
    ) -> (Locked<'a, L>, usize) {
        let mut given_back = 0;
        // More may become free while the source is called.
        while span.is_borrowed_span()
            && span.below().is_free()
            && !is_idle(span.below())
            && !span.busy.get()
            && !state.source_cannot_shrink
        {
            let (base, size) = (span.start.get(), span.size());
            let Some(last) = state.cut_tail(span, self.import_quantum) else {
                break;
            };
            let new_size = span.size();
            state.reserve_for_release(size - new_size);
            let tags = state.tag_cache.split(1);
            span.busy.set(true);
            drop(state);
            // SAFETY: the source lent this span, it had this size, what was cut off was free, and
            // the mark keeps others away from the end of the span, and the span in the arena.
            let shrunk = unsafe { source.shrink(base, size, new_size) };
            state = self.lock();
            state.tag_cache.append(tags);
            state.end_reservation(size - new_size);
            if let Err(error) = shrunk {
                state.source_cannot_shrink |= error == Error::NotSupported;
                // Somebody may have added the range meanwhile, against all rules. Then the span stays
                // busy and is never given back, for the source has lent more than the arena knows.
                if state.spans.overlapping(base + new_size, last).is_none() {
                    span.busy.set(false);
                    state.restore_tail(span, last);
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
}
