//! Allocation: which free segment, and where in it.

use super::fit::{self, Fit};
use super::freelist::{FreeLists, members};
use super::segment::Tag;
use super::state::State;
use super::{AllocPolicy, Allocator, Arena, Error, Layout, Lock, Result, Source};

/// How many segments that may or may not fit are looked at before the arena imports.
const LOOKS: usize = 16;

impl<'src, A: Allocator, L: Lock> Arena<'_, 'src, A, L> {
    /// Allocates a segment of `size`, and returns its base.
    ///
    /// The size is rounded up to the quantum, and comes from the front of a free segment. If no
    /// free segment is found, a span is borrowed from the source.
    ///
    /// ```text
    ///  before            0x1_0000                                0x1_5000
    ///                    │ free                                  │
    ///  alloc(0x2800)     0x1_0000                0x1_3000        0x1_5000
    ///                    │ allocated             │ free          │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::{*, lock::LockApi, tags::{NoPages, TagPool}};
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// assert_eq!(arena.alloc(0x2800, AllocPolicy::InstantFit), Ok(0x1_0000));
    /// assert_eq!((arena.allocated_space(), arena.free_space()), (0x3000, 0x2000));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AllocZeroSize`], [`Error::SizeOverflow`], [`Error::AllocatorError`], and if there is
    /// no room, the source's error, [`Error::LimitReached`], or, without a source,
    /// [`Error::Empty`].
    #[inline]
    pub fn alloc(&self, size: usize, policy: AllocPolicy) -> Result<usize> {
        match policy {
            AllocPolicy::InstantFit => self.alloc_by(policy, size, FreeLists::at_least),
            AllocPolicy::BestFit => self.alloc_by(policy, size, FreeLists::smallest_at_least),
            AllocPolicy::NextFit => self.alloc_with_care(policy, size),
        }
    }

    /// The common case: there is a segment, and what it takes to divide it is in hand.
    fn alloc_by(
        &self,
        policy: AllocPolicy,
        size: usize,
        find: impl FnOnce(&FreeLists, usize) -> Option<(usize, Tag)>,
    ) -> Result<usize> {
        let space = fit::round_up(size, self.quantum)?;
        let mut state = self.lock();
        if state.is_ready()
            && let Some((list, segment)) = find(&state.free, space)
        {
            let base = segment.start.get();
            state.carve_front(segment, list, space);
            return Ok(base);
        }
        drop(state);
        self.alloc_with_care(policy, size)
    }

    #[inline(never)]
    fn alloc_with_care(&self, policy: AllocPolicy, size: usize) -> Result<usize> {
        self.allocate(&Fit::plain(size, self.quantum)?, policy)
    }

    /// Allocates a segment that satisfies `layout`, and returns its base. Of a free segment it
    /// takes the lowest place that does, with `NextFit` at or above where that goes on; what is
    /// left on either side stays free.
    ///
    /// ```text
    ///  before                0x1_1000                                                0x1_8000
    ///                        │ free                                                  │
    ///  size 0x2000,          0x1_1000                0x1_4000        0x1_6000        0x1_8000
    ///  align 0x4000          │ free                  │ allocated     │ free          │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::{*, lock::LockApi, tags::{NoPages, TagPool}};
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_1000, 0x7000)?;
    /// let layout = Layout::from_size_align(0x2000, 0x4000).unwrap();
    /// assert_eq!(arena.xalloc(layout, AllocPolicy::InstantFit), Ok(0x1_4000));
    /// assert_eq!(arena.largest_free(), 0x3000);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), and [`Error::Unsatisfiable`] if no address satisfies the layout in
    /// an arena of this quantum.
    pub fn xalloc(&self, layout: Layout, policy: AllocPolicy) -> Result<usize> {
        self.allocate(&Fit::new(&layout, self.quantum)?, policy)
    }

    /// Allocates exactly the range of `size` at `base`, rounded up to the quantum. Never imports.
    /// O(log spans + segments of the span).
    ///
    /// ```text
    ///                             0x1_0000                0x1_3000        0x1_5000
    ///  there is                   │ free                  │ allocated     │
    ///  (0x1_1000, 0x1000)                  ├──────┤  it is allocated
    ///  (0x1_2000, 0x2000)                          ├──────────────┤  Occupied
    /// ```
    ///
    /// ```
    /// # use heap::vmem::{*, lock::LockApi, tags::{NoPages, TagPool}};
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// arena.add_span(0x1_0000, 0x5000)?;
    /// arena.xalloc_at(0x1_3000, 0x2000)?;
    /// let refused = Err(Error::Occupied { base: 0x1_2000, size: 0x2000 });
    /// assert_eq!(arena.xalloc_at(0x1_2000, 0x2000), refused);
    /// assert_eq!(arena.xalloc_at(0x1_1000, 0x1000), Ok(()));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Occupied`] unless all of the range is free in this arena,
    /// [`Error::UnalignedBase`], [`Error::AllocZeroSize`], [`Error::SizeOverflow`],
    /// [`Error::AllocatorError`].
    pub fn xalloc_at(&self, base: usize, size: usize) -> Result<()> {
        let space = fit::round_up(size, self.quantum)?;
        if !base.is_multiple_of(self.quantum) {
            return Err(Error::UnalignedBase {
                base,
                quantum: self.quantum,
            });
        }
        let last = base
            .checked_add(space - 1)
            .ok_or(Error::SizeOverflow { size })?;
        let mut state = self.secure()?;
        let segment = state
            .segment_containing(base)
            .filter(|segment| segment.is_free() && segment.contains(last))
            .ok_or(Error::Occupied { base, size: space })?;
        state.carve(segment, base, space);
        self.finish(state);
        Ok(())
    }

    #[inline]
    fn allocate(&self, fit: &Fit, policy: AllocPolicy) -> Result<usize> {
        match self.try_allocate(fit, policy) {
            Err(error) => self.allocate_after_reclaim(fit, policy, error),
            allocated => allocated,
        }
    }

    /// Tries again if the reclaim hook says that it has freed something.
    #[cold]
    fn allocate_after_reclaim(
        &self,
        fit: &Fit,
        policy: AllocPolicy,
        error: Error,
    ) -> Result<usize> {
        match self.reclaim {
            Some(reclaim) if error != Error::AllocatorError && reclaim(fit.space) => {
                self.try_allocate(fit, policy)
            }
            _ => Err(error),
        }
    }

    #[inline]
    fn try_allocate(&self, fit: &Fit, policy: AllocPolicy) -> Result<usize> {
        let mut state = self.secure()?;
        let looks = match self.source {
            Some(_) => LOOKS,
            None => usize::MAX,
        };
        if let Some((segment, base)) = state.search(fit, policy, looks) {
            state.allocate(segment, base, fit, policy);
            return Ok(base);
        }
        match self.source {
            Some(source) => {
                drop(state);
                self.allocate_from(source, fit, policy)
            }
            None => Err(Error::Empty { size: fit.size }),
        }
    }

    /// Allocates from a new span of the source, or, if there is none to be had, from whatever fits.
    #[cold]
    fn allocate_from(
        &self,
        source: &'src dyn Source,
        fit: &Fit,
        policy: AllocPolicy,
    ) -> Result<usize> {
        let error = match self.borrow_for(source, fit) {
            Ok((mut state, segment, base)) => {
                state.allocate(segment, base, fit, policy);
                self.finish(state);
                return Ok(base);
            }
            Err(error) => error,
        };
        let mut state = self.secure()?;
        let (segment, base) = state.search(fit, policy, usize::MAX).ok_or(error)?;
        state.allocate(segment, base, fit, policy);
        self.finish(state);
        Ok(base)
    }
}

impl State {
    fn allocate(&mut self, segment: Tag, base: usize, fit: &Fit, policy: AllocPolicy) {
        let tag = self.carve(segment, base, fit.space);
        if policy == AllocPolicy::NextFit {
            // Past the last address, this is the lowest again.
            self.cursor.address = base.wrapping_add(fit.space);
            self.cursor.near = Some(tag);
        }
    }

    /// A free segment into which the request fits, and where. Among segments that may or may not
    /// fit, `looks` limits how many are looked at.
    #[inline]
    fn search(&self, fit: &Fit, policy: AllocPolicy, looks: usize) -> Option<(Tag, usize)> {
        match policy {
            AllocPolicy::InstantFit => self.instant_fit(fit, looks),
            AllocPolicy::BestFit => self.best_fit(fit),
            AllocPolicy::NextFit => self.next_fit(fit),
        }
    }

    #[inline]
    fn instant_fit(&self, fit: &Fit, looks: usize) -> Option<(Tag, usize)> {
        let sure = fit.sure_size().map(|size| self.free.list_at_least(size));
        if let Some((_, segment)) = sure.and_then(|sure| self.free.first_from(sure)) {
            return position(fit, segment);
        }
        // From here on, no list at or above `sure` has members.
        let mut looks = looks;
        for (_, first) in self.free.lists_from(self.free.list_of(fit.space)) {
            for segment in members(Some(first)) {
                let found = position(fit, segment);
                looks -= 1;
                if found.is_some() || looks == 0 {
                    return found;
                }
            }
        }
        None
    }

    fn best_fit(&self, fit: &Fit) -> Option<(Tag, usize)> {
        // All members of a list are smaller than those of the next.
        self.free
            .lists_from(self.free.list_of(fit.space))
            .find_map(|(list, first)| {
                let mut fitting = members(Some(first)).filter_map(|segment| position(fit, segment));
                if FreeLists::has_one_size(list) {
                    fitting.next()
                } else {
                    fitting.min_by_key(|(segment, _)| segment.size())
                }
            })
    }

    fn next_fit(&self, fit: &Fit) -> Option<(Tag, usize)> {
        // Spare the walk if nothing is large enough.
        self.free.first_from(self.free.list_of(fit.space))?;
        let position_if_free = |segment: Tag, fit: &Fit| {
            let free = segment.is_free();
            free.then(|| position(fit, segment)).flatten()
        };
        // From the cursor on, once around, and last what lies below it in its segment.
        let start = self.segment_at_cursor()?;
        let here = if start.contains(self.cursor.address) {
            fit.above(self.cursor.address)
        } else {
            *fit
        };
        if let Some(found) = position_if_free(start, &here) {
            return Some(found);
        }
        let mut segment = start;
        loop {
            segment = self.segment_after(segment)?;
            if let Some(found) = position_if_free(segment, fit) {
                return Some(found);
            }
            if segment == start {
                return None;
            }
        }
    }

    /// The segment that contains the cursor's address, or else the next one, or the first.
    fn segment_at_cursor(&self) -> Option<Tag> {
        let address = self.cursor.address;
        if let Some(mut segment) = self.cursor.near {
            while segment.start.get() > address && !segment.below().is_span() {
                segment = segment.below();
            }
            while segment.last.get() < address && !segment.above().is_span() {
                segment = segment.above();
            }
            if segment.contains(address) {
                return Some(segment);
            }
        }
        self.segment_containing(address).or_else(|| {
            let span = self.spans.at_or_above(address);
            Some(span.or_else(|| self.spans.at_or_above(0))?.above())
        })
    }

    /// The next segment in address order; after the last one, the first.
    fn segment_after(&self, segment: Tag) -> Option<Tag> {
        let above = segment.above();
        if !above.is_span() {
            return Some(above);
        }
        let span = self.spans.after(above);
        Some(span.or_else(|| self.spans.at_or_above(0))?.above())
    }

    /// Returns the segment that contains `address`. O(log spans + segments of the span).
    ///
    /// Ends whatever tags say, as long as their links lead to tags: fault handlers look up what was
    /// damaged, too.
    pub(super) fn segment_containing(&self, address: usize) -> Option<Tag> {
        let mut segment = self.spans.containing(address)?.above();
        while segment.last.get() < address {
            let above = segment.above();
            // The next one lies above. If it does not, links may lead round for ever.
            if above.start.get() <= segment.last.get() {
                return None;
            }
            segment = above;
        }
        segment.contains(address).then_some(segment)
    }
}

/// A free segment and where in it the request fits, if it does.
#[inline]
fn position(fit: &Fit, segment: Tag) -> Option<(Tag, usize)> {
    let base = fit.position(segment.start.get(), segment.last.get())?;
    Some((segment, base))
}
