//! Discarding memory in the middle of allocated segments, and restoring it.
//!
//! The arena does not know which of its numbers are discarded: the source does. A mark in the
//! boundary tag of a segment says whether any *may* be. It follows the memory:
//!
//! ```text
//!  discard     marks the segment                │ allocated *         │ allocated │
//!  free        keeps the mark                   │ free *              │ allocated │
//!  coalesce    marks the result if one part is  │ free *                          │
//!  alloc       leaves the mark on the rest,     │ allocated │ free *              │
//!              and has the source restore the allocated part before it returns
//! ```
//!
//! If the source's quantum is coarser than the arena's, two segments may share a quantum of the
//! source. Such a quantum is always memory: only a quantum inside one segment can be discarded, and
//! it is restored before it is divided.

use super::boundary_tag::TagRef;
use super::state::is_idle;
use super::{Arena, Error, Lock, Locked, Result, Source, TagSupply};

impl<'src, A: TagSupply, L: Lock> Arena<'_, 'src, A, L> {
    /// Gives the memory behind a part of an allocated segment back to the source. The numbers stay
    /// allocated. O(log spans + segments of the span + calls in progress), and the call to the
    /// [source](Source::discard).
    ///
    /// The part is a range of whole quanta of arena and source inside one segment, which lies in an
    /// imported span. Parts of it may be discarded already.
    ///
    /// The segment may be resized meanwhile, unless the part is to become free, and other parts of
    /// it may be discarded and restored. When the segment is freed, an allocation that gets the
    /// memory restores it.
    ///
    /// ```text
    ///                               0x8_0000    0x8_1000            0x8_3000    0x8_4000
    ///  an allocated segment         │ memory                                    │
    ///  discard(0x8_1000, 0x2000)    │ memory    │ nothing           │ memory    │
    ///  restore(0x8_1000, 0x2000)    │ memory    │ zeros             │ memory    │
    /// ```
    ///
    /// The function is safe, like [`free`](Self::free): code that uses the numbers as memory must
    /// be the only code that frees, shrinks or discards them.
    ///
    /// ```
    /// # use std::sync::Mutex;
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// /// A source whose range has four pages, each of which is memory or discarded.
    /// struct Pages(Mutex<[bool; 4]>);
    ///
    /// impl Pages {
    ///     fn set(&self, base: usize, size: usize, memory: bool) {
    ///         let first = (base - 0x8_0000) / 0x1000;
    ///         self.0.lock().unwrap()[first..first + size / 0x1000].fill(memory);
    ///     }
    /// }
    ///
    /// impl Source for Pages {
    ///     fn import(&self, _: Layout) -> Result<usize> {
    ///         Ok(0x8_0000)
    ///     }
    ///     unsafe fn release(&self, _: usize, _: usize) -> Result<()> {
    ///         Ok(())
    ///     }
    ///     unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
    ///         self.set(base, size, false);
    ///         Ok(())
    ///     }
    ///     unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
    ///         self.set(base, size, true);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let pages = Pages(Mutex::new([true; 4]));
    /// let arena = Arena::<_, Lock>::create("pages", 0x1000, Some(&pages), &tags)?;
    /// let base = arena.alloc(0x4000, AllocPolicy::InstantFit)?;
    /// arena.discard(base + 0x1000, 0x2000)?;
    /// assert_eq!(*pages.0.lock().unwrap(), [true, false, false, true]);
    ///
    /// // The arena retains the span. The next allocation restores what it takes.
    /// arena.free(base)?;
    /// assert_eq!(arena.alloc(0x2000, AllocPolicy::InstantFit), Ok(base));
    /// assert_eq!(*pages.0.lock().unwrap(), [true, true, false, true]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// * [`Error::AllocZeroSize`], [`Error::SizeOverflow`]; [`Error::UnalignedPart`] unless `base`
    ///   and `size` are multiples of the quanta of arena and source.
    /// * [`Error::NoSuchPart`] unless one allocated segment contains all of the part,
    ///   [`Error::NotImported`] if its span does not come from the source.
    /// * [`Error::Busy`] if another call about any of the part is in progress: a discard, a
    ///   restore, or a resize that takes it from free space.
    /// * [`Error::AllocatorError`] if even the tags reserved for shrinking are used up.
    /// * The source's error: [`Error::NotSupported`] if it has no memory that can be discarded.
    #[doc(alias("MADV_DONTNEED", "decommit", "punch hole"))]
    pub fn discard(&self, base: usize, size: usize) -> Result<()> {
        let (segment, state, discarded) = self.change_part(base, size, |source| {
            // SAFETY: `change_part` has checked that the part lies in a span that the source lent,
            // in an allocated segment, and it excludes other calls about the part. The caller may
            // discard it: see `free`.
            unsafe { source.discard(base, size) }
        })?;
        if discarded.is_ok() {
            segment.discarded.set(true);
        }
        self.finish(state);
        discarded
    }

    /// Returns whether there is a source, with a quantum no coarser than the arena's: then any
    /// range of whole quanta can be discarded, if the source supports it.
    pub(crate) fn imports_by_quantum(&self) -> bool {
        self.source.is_some() && self.import_quantum == self.quantum
    }

    /// Makes all of a part of an allocated segment memory again, or nothing. O(log spans + segments
    /// of the span + calls in progress), and the call to the [source](Source::restore).
    ///
    /// What was [discarded](Self::discard) is zero afterwards, if the source's memory is zeroed.
    /// The rest keeps its contents. The picture is at [`discard`](Self::discard).
    ///
    /// # Errors
    /// Those of [`discard`](Self::discard). The source's error if it has too little memory.
    #[doc(alias("commit", "populate"))]
    pub fn restore(&self, base: usize, size: usize) -> Result<()> {
        let (segment, state, restored) = self.change_part(base, size, |source| {
            // SAFETY: `change_part` has checked that the part lies in a span that the source lent,
            // and it excludes other calls about the part.
            unsafe { source.restore(base, size) }
        })?;
        if restored.is_ok() && (segment.start.get(), segment.size()) == (base, size) {
            segment.discarded.set(false);
        }
        self.finish(state);
        restored
    }

    /// Calls the source about a part of an allocated segment, after all checks. Returns the segment
    /// with the arena locked again, and the source's answer.
    fn change_part(
        &self,
        base: usize,
        size: usize,
        call: impl FnOnce(&'src dyn Source) -> Result<()>,
    ) -> Result<(TagRef, Locked<'_, L>, Result<()>)> {
        let quantum = self.import_quantum;
        if size == 0 {
            return Err(Error::AllocZeroSize);
        }
        if (base | size) % quantum != 0 {
            return Err(Error::UnalignedPart {
                base,
                size,
                quantum,
            });
        }
        let last = base
            .checked_add(size - 1)
            .ok_or(Error::SizeOverflow { size })?;
        let mut state = self.lock();
        if state.tag_cache.len() == 0 {
            state = self.refill_tags(state, 1)?;
        }
        let segment = state
            .segment_containing(base)
            .filter(|segment| segment.is_allocated() && segment.contains(last))
            .ok_or(Error::NoSuchPart { base, size })?;
        let span = state.spans.containing(base);
        let source = self
            .source
            .filter(|_| span.is_some_and(TagRef::is_borrowed_span))
            .ok_or(Error::NotImported { base })?;
        if state.parts.overlap(base, last) {
            let base = segment.start.get();
            return Err(Error::Busy { base });
        }
        let part = state.begin_part(segment, base, last);
        drop(state);
        let result = call(source);
        let mut state = self.lock();
        state.end_part(segment, Some(part));
        Ok((segment, state, result))
    }

    /// Allocates `size` at `base` in a free segment whose memory may be discarded, and has the
    /// source restore it. Takes up to four tags. If the source cannot, the memory is free again.
    ///
    /// With a source of a coarser quantum, the segment first extends to multiples of that, as far
    /// as they are free, so that no other allocation shares the restored quanta meanwhile:
    ///
    /// ```text
    ///  multiples of the source's quantum    │               │               │               │
    ///  free, may be discarded                   ├───────────────────────────────────────────┤
    ///  allocated                                                ├────┤
    ///  first                                                ├───────────────┤
    /// ```
    pub(super) fn carve_restored<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        free: TagRef,
        base: usize,
        size: usize,
    ) -> Result<(Locked<'a, L>, TagRef)> {
        let mask = self.import_quantum - 1;
        let end = base + (size - 1);
        let start = (base & !mask).max(free.start.get());
        let last = (end | mask).min(free.last.get());
        let tag = state.carve(free, start, last - start + 1);
        let tags = state.tag_cache.split(1);
        let (mut state, restored) = self.restore_added(state, tag, start, last);
        state.tag_cache.append(tags);
        if restored.is_ok() {
            tag.discarded.set(false);
            if (start, last) == (base, end) {
                return Ok((state, tag));
            }
        }
        let removed = state.index.take(start, |_| Ok(()));
        debug_assert_eq!(removed, Ok(tag));
        let merged = state.free_and_coalesce(tag);
        if let Err(error) = restored {
            self.finish_free(state, merged);
            return Err(error);
        }
        if is_idle(merged) {
            state.idle.push(merged.above());
        }
        let tag = state.carve(merged, base, size);
        tag.discarded.set(false);
        Ok((state, tag))
    }

    /// Grows a segment up to `last`, an address of the free segment above, whose memory may be
    /// discarded, and has the source restore that memory. If the source cannot, the segment is as
    /// before.
    pub(super) fn grow_restored<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        segment: TagRef,
        last: usize,
    ) -> Result<()> {
        let (before, free_last) = (segment.last.get(), segment.above().last.get());
        let added_last = (last | (self.import_quantum - 1)).min(free_last);
        // The tag of a free segment that is used up serves as well.
        if added_last != free_last && state.tag_cache.len() == 0 {
            return Err(Error::AllocatorError);
        }
        state.grow(segment, added_last);
        let (mut state, restored) = self.restore_added(state, segment, before + 1, added_last);
        let end = if restored.is_ok() { last } else { before };
        if end != added_last {
            state.shrink(segment, end);
            segment.above().discarded.set(true);
        }
        self.finish(state);
        restored
    }

    /// Restores the quantum of the source that a segment is about to share with free space, when it
    /// shrinks to `last`. Does nothing if other segments share it already.
    pub(super) fn restore_divided_quantum<'a>(
        &'a self,
        state: Locked<'a, L>,
        segment: TagRef,
        last: usize,
    ) -> Result<Locked<'a, L>> {
        let mask = self.import_quantum - 1;
        let (start, end) = (last & !mask, last | mask);
        if !segment.contains(start) || !segment.contains(end) {
            return Ok(state);
        }
        if state.parts.overlap(start, end) {
            let base = segment.start.get();
            return Err(Error::Busy { base });
        }
        if state.tag_cache.len() == 0 {
            return Err(Error::AllocatorError);
        }
        let (state, restored) = self.restore_added(state, segment, start, end);
        restored.map(|()| state)
    }

    /// Has the source restore a part of a segment that is being allocated or resized, from `start`
    /// to `last`, inclusive. Takes a tag meanwhile. Returns with the arena locked again.
    fn restore_added<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        segment: TagRef,
        start: usize,
        last: usize,
    ) -> (Locked<'a, L>, Result<()>) {
        let part = state.begin_part(segment, start, last);
        segment.resizing.set(true);
        drop(state);
        let restored = match self.source {
            // SAFETY: the part lies in an imported span, since only memory of such a span is ever
            // discarded. `begin_part` excludes other calls about the part.
            Some(source) => unsafe { self.restore_whole_quanta(source, start, last) },
            None => Err(Error::NoSource),
        };
        let mut state = self.lock();
        segment.resizing.set(false);
        state.end_part(segment, Some(part));
        (state, restored)
    }

    /// Restores the source's quanta that lie entirely from `start` to `last`, inclusive.
    ///
    /// # Safety
    /// `source` has lent this range, as a part of a span. No other call about it is in progress,
    /// nor begins before this function returns.
    pub(super) unsafe fn restore_whole_quanta(
        &self,
        source: &dyn Source,
        start: usize,
        last: usize,
    ) -> Result<()> {
        match self.whole_quanta(start, last) {
            // SAFETY: the caller guarantees it for the range, of which this is a part.
            Some((base, size)) => unsafe { source.restore(base, size) },
            None => Ok(()),
        }
    }

    /// Discards the source's quanta that lie entirely from `start` to `last`, inclusive.
    ///
    /// # Safety
    /// As for [`restore_whole_quanta`](Self::restore_whole_quanta), and the range is not in use.
    pub(super) unsafe fn discard_whole_quanta(
        &self,
        source: &dyn Source,
        start: usize,
        last: usize,
    ) -> Result<()> {
        match self.whole_quanta(start, last) {
            // SAFETY: the caller guarantees it for the range, of which this is a part.
            Some((base, size)) => unsafe { source.discard(base, size) },
            None => Ok(()),
        }
    }

    /// Returns the base and the size of the source's quanta that lie entirely from `start` to
    /// `last`, inclusive, if there are any.
    fn whole_quanta(&self, start: usize, last: usize) -> Option<(usize, usize)> {
        let quantum = self.import_quantum;
        let behind = last.wrapping_add(1) % quantum;
        start
            .checked_next_multiple_of(quantum)
            .zip(last.checked_sub(behind))
            .filter(|(start, last)| start <= last)
            .map(|(start, last)| (start, last - start + 1))
    }
}
