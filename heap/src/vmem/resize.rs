//! Resizing in place.

use core::cmp::Ordering;

use super::boundary_tag::TagRef;
use super::request::round_up;
use super::tag_refill::SHRINK_RESERVE;
use super::{Arena, Error, Lock, Locked, Result, TagSupply};

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Changes the size of the segment that was allocated at `base` to `new_size`, rounded up to the
    /// quantum, without moving it.
    ///
    /// It grows into free space above it, and at the end of a borrowed span the source is asked to
    /// [extend](crate::vmem::Source::extend) the span by what is missing. When it shrinks, its tail
    /// becomes free; at the end of a borrowed span, an arena that keeps no free spans offers it to
    /// the source. Expected O(1), apart from calls to the source.
    ///
    /// ```text
    ///  an added span               0x1_0000                0x1_2000                0x1_4000
    ///  before                      │ allocated             │ free                  │ allocated │
    ///  resize(0x1_0000, 0x3000)    │ allocated                         │ free      │ allocated │
    ///  resize(0x1_0000, 0x1000)    │ allocated │ free                              │ allocated │
    ///
    ///  a borrowed span             0x8_0000                0x8_2000
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
    /// [`Error::NoSuchAllocation`], [`Error::AllocZeroSize`], [`Error::SizeOverflow`]. When growing:
    /// [`Error::Occupied`] if what lies above is allocated or, beyond a borrowed span, in another
    /// span; [`Error::Empty`] at the end of a span that is not borrowed; both tell how much was
    /// missing. [`Error::LimitReached`], and the source's error. [`Error::Busy`] if the
    /// segment, or the end of its span, is being resized already. [`Error::AllocatorError`] is
    /// possible when shrinking a segment without free space above it, if even the tags that are
    /// reserved for this have been used up; and when a source with a coarser quantum would have to lend
    /// more than is missing, and there is no tag for the rest.
    pub fn resize(&self, base: usize, new_size: usize) -> Result<()> {
        let space = round_up(new_size, self.quantum)?;
        let mut state = self.lock();
        // What follows may need a tag: when shrinking, or for what a source with a coarser quantum lends
        // beyond need. If there is none, it may still turn out that it does not.
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
        let (room, end) = if above.is_free() {
            (above.last.get(), above.above())
        } else {
            (segment.last.get(), above)
        };
        if last <= room {
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

    /// Grows the last segment of a borrowed span, which may have free space above it, beyond the
    /// span's end.
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

        // Take the free space above, so that nobody else does, and keep a tag to undo that, or for what
        // is lent beyond need.
        let before = segment.last.get();
        if before != end {
            state.grow(segment, end);
        }
        let tags = state.tag_cache.split(1);
        segment.busy.set(true);
        span.busy.set(true);
        drop(state);

        // SAFETY: the source lent this span, it has this size, and the mark keeps others away from
        // its end.
        let mut extended = unsafe { source.extend(span_base, size, size + more) };
        let mut state = self.lock();
        let mut undone = Ok(());
        if extended.is_ok() && state.spans.overlapping(end + 1, new_last).is_some() {
            drop(state);
            // SAFETY: the source has just made the span this long, the mark still keeps others away
            // from its end, and nobody has used what was added.
            undone = unsafe { source.shrink(span_base, size + more, size) };
            extended = Err(occupied);
            state = self.lock();
        }

        state.tag_cache.append(tags);
        state.end_reservation(more);
        segment.busy.set(false);
        // If the source did not take back what overlaps another span, the span stays busy and is never
        // given back, for the source has lent more than the arena knows.
        span.busy.set(undone.is_err());
        match extended {
            Ok(()) => {
                state.extend(span, new_last);
                if new_last != last {
                    state.shrink(segment, last);
                }
            }
            Err(_) if before != end => state.shrink(segment, before),
            Err(_) => {}
        }
        self.finish(state);
        extended
    }
}
