//! Resizing in place.

use core::cmp::Ordering;

use super::boundary_tag::TagRef;
use super::request::round_up;
use super::tag_cache::TagCache;
use super::tag_refill::SHRINK_RESERVE;
use super::{Arena, Error, Lock, Locked, Result, TagSupply};

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Resizes the segment at `base` in place, to `new_size` rounded up to the quantum.
    /// Expected O(1), apart from calls to the source.
    ///
    /// A segment grows into free space above it. At the end of an imported span, the source is
    /// asked to [extend](crate::vmem::Source::extend) the span by the missing part.
    ///
    /// When a segment shrinks, its tail becomes free. At the end of an imported span, an arena that
    /// retains no free spans releases the tail to the source.
    ///
    /// ```text
    ///  an added span               0x1_0000                0x1_2000                0x1_4000
    ///  before                      │ allocated             │ free                  │ allocated │
    ///  resize(0x1_0000, 0x3000)    │ allocated                         │ free      │ allocated │
    ///  resize(0x1_0000, 0x1000)    │ allocated │ free                              │ allocated │
    ///
    ///  an imported span            0x8_0000                0x8_2000
    ///  before                      │ allocated             │
    ///  resize(0x8_0000, 0x3000)    │ allocated                         │  with the source's help
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// source.add_span(0x8_0000, 0x4000)?;
    /// let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// arena.xalloc_at(0x1_0000, 0x2000)?;
    /// arena.xalloc_at(0x1_4000, 0x1000)?;
    /// arena.resize(0x1_0000, 0x3000)?;
    /// assert_eq!(arena.free_space(), 0x1000);
    /// arena.resize(0x1_0000, 0x1000)?;
    /// assert_eq!(arena.largest_free(), 0x3000);
    ///
    /// arena.import(Layout::from_size_align(0x2000, 0x1000).unwrap())?;
    /// arena.xalloc_at(0x8_0000, 0x2000)?;
    /// arena.resize(0x8_0000, 0x3000)?;
    /// assert_eq!((arena.borrowed_space(), source.free_space()), (0x3000, 0x1000));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// * [`Error::NoSuchAllocation`], [`Error::AllocZeroSize`], [`Error::SizeOverflow`].
    /// * [`Error::Busy`] if a resize of the segment, or of the end of its span, is in progress;
    ///   also if a [discard](Self::discard) or restore of the part that is to become free is.
    /// * The source's error, if it cannot [restore](Self::restore) discarded memory: of the free
    ///   space that a segment grows into, or of a quantum of the source that is to be divided.
    /// * When growing: [`Error::Occupied`] if the range above is allocated or in another span,
    ///   [`Error::Empty`] at the end of a span that is not imported. Both carry the missing size.
    ///   [`Error::LimitReached`], and the source's error.
    /// * [`Error::AllocatorError`] when shrinking, if no free space lies above the segment and even
    ///   the tags reserved for this are used up. Also when growing, if a source with a coarser
    ///   quantum lends more than the missing part, and no tag is available for the rest.
    pub fn resize(&self, base: usize, new_size: usize) -> Result<()> {
        let space = round_up(new_size, self.quantum)?;
        let mut state = self.lock();
        // A tag may be needed for the tail of a shrunk segment, or for the rest of an extension by
        // a coarser quantum. Without one the resize may still succeed, so a failure is ignored.
        let wanted = self.resize_tags;
        if state.tag_cache.len() < wanted {
            state = self
                .refill_tags(state, wanted)
                .unwrap_or_else(|_| self.lock());
        }
        let segment = state.allocated_at(base)?;
        let last = base
            .checked_add(space - 1)
            .ok_or(Error::SizeOverflow { size: new_size })?;
        match last.cmp(&segment.last.get()) {
            Ordering::Equal => Ok(()),
            Ordering::Less => self.shrink(state, segment, last),
            Ordering::Greater => self.grow(state, segment, last),
        }
    }

    fn shrink<'a>(&'a self, mut state: Locked<'a, L>, segment: TagRef, last: usize) -> Result<()> {
        if segment.discarded.get() && (last + 1) % self.import_quantum != 0 {
            state = self.restore_divided_quantum(state, segment, last)?;
        }
        if state.parts.overlap(last + 1, segment.last.get()) {
            let base = segment.start.get();
            return Err(Error::Busy { base });
        }
        if state.tag_cache.len() == 0 && !segment.above().is_free() {
            return Err(Error::AllocatorError);
        }
        state.shrink(segment, last);
        let above = segment.above().above();
        if above.is_borrowed_span() {
            self.release_idle_spans(state, above, self.retained_spans);
        } else {
            self.finish(state);
        }
        Ok(())
    }

    fn grow<'a>(&'a self, mut state: Locked<'a, L>, segment: TagRef, last: usize) -> Result<()> {
        let above = segment.above();
        let (free_last, end) = if above.is_free() {
            (above.last.get(), above.above())
        } else {
            (segment.last.get(), above)
        };
        if last <= free_last {
            if above.discarded.get() {
                return self.grow_restored(state, segment, last);
            }
            state.grow(segment, last);
            self.finish(state);
            return Ok(());
        }
        if end.is_borrowed_span() {
            return self.extend(state, segment, end, last);
        }
        let size = last - segment.last.get();
        Err(if end.is_span() {
            Error::Empty { size }
        } else {
            Error::Occupied {
                base: segment.last.get() + 1,
                size,
            }
        })
    }

    /// Grows the last allocated segment of an imported span beyond the end of the span. Free space
    /// may lie between them.
    fn extend<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        segment: TagRef,
        span: TagRef,
        last: usize,
    ) -> Result<()> {
        let base = segment.start.get();
        let Some(source) = self.source else {
            return Err(Error::NoSource);
        };
        if span.busy.get() {
            return Err(Error::Busy { base });
        }
        let (span_base, end, size) = (span.start.get(), span.last.get(), span.size());
        let new_last = (last - span_base)
            .checked_add(1)
            .and_then(|new_size| round_up(new_size, self.import_quantum).ok())
            .and_then(|new_size| span_base.checked_add(new_size - 1))
            .ok_or(Error::SizeOverflow {
                size: last - base + 1,
            })?;
        let more = new_last - end;
        let occupied = Error::Occupied {
            base: end + 1,
            size: last - end,
        };
        if state.spans.overlapping(end + 1, new_last).is_some() {
            return Err(occupied);
        }
        if new_last != last && segment.last.get() == end && state.tag_cache.len() <= SHRINK_RESERVE
        {
            return Err(Error::AllocatorError);
        }
        state.reserve(more, self.limit)?;

        // Take the free space above before the lock is released. Set a tag aside: to undo this
        // after a failure, or for the rest of an extension by a coarser quantum. Until then, the
        // tag keeps the space above from being discarded.
        let before = segment.last.get();
        let mut tags = TagCache::new();
        let mut added = None;
        let mut discarded = false;
        if before != end {
            discarded = segment.above().discarded.get();
            state.grow(segment, end);
            added = Some(state.begin_part(segment, before + 1, end));
        } else {
            tags = state.tag_cache.split(1);
        }
        segment.busy.set(true);
        segment.resizing.set(true);
        span.busy.set(true);
        drop(state);

        let mut extended = Ok(());
        if discarded {
            // SAFETY: this part of the segment is not in use yet, it lies in an imported span, and
            // `begin_part` excludes other calls about it.
            extended = unsafe { self.restore_whole_quanta(source, before + 1, end) };
        }
        let is_restored = discarded && extended.is_ok();
        if extended.is_ok() {
            // SAFETY: the source lent this span, it has exactly this size, and the busy mark
            // prevents other calls about the end of this span.
            extended = unsafe { source.extend(span_base, size, size + more) };
        }
        let mut state = self.lock();
        let mut undone = Ok(());
        if extended.is_ok() && state.spans.overlapping(end + 1, new_last).is_some() {
            drop(state);
            // SAFETY: the source has just extended the span to this size, no caller has seen the
            // added part, and the busy mark still prevents other calls about this span.
            undone = unsafe { source.shrink(span_base, size + more, size) };
            extended = Err(occupied);
            state = self.lock();
        }
        if extended.is_err() && is_restored {
            drop(state);
            // If the source refuses, the free space is memory, which the mark permits.
            // SAFETY: the part is still not in use, and `begin_part` still excludes other calls
            // about it.
            let _ = unsafe { self.discard_whole_quanta(source, before + 1, end) };
            state = self.lock();
        }

        state.tag_cache.append(tags);
        state.end_reservation(more);
        segment.resizing.set(false);
        state.end_part(segment, added);
        // If the source refuses to take back the part that overlaps another span, this span stays
        // busy and lent, since the source has lent more than the arena knows.
        span.busy.set(undone.is_err());
        match extended {
            Ok(()) => {
                state.extend(span, new_last);
                if new_last != last {
                    state.shrink(segment, last);
                }
            }
            Err(_) if before != end => {
                state.shrink(segment, before);
                segment.above().add_discarded(discarded);
            }
            Err(_) => {}
        }
        self.finish(state);
        extended
    }
}
