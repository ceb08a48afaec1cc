//! Allocation: the choice of a free segment, and of a base in it.

use super::boundary_tag::TagRef;
use super::free_lists::{FreeLists, members};
use super::request::{Request, round_up};
use super::state::State;
use super::{AllocPolicy, Arena, Error, Layout, Lock, Locked, Result, Source, TagSupply};

/// The number of segments that an instant fit probes, none of which is sure to fit, before the
/// arena imports a span.
const MAX_PROBES: usize = 16;

impl<'src, A: TagSupply, L: Lock> Arena<'_, 'src, A, L> {
    /// Allocates a segment of `size`, and returns its base.
    ///
    /// The size is rounded up to the quantum. The segment comes from the front of a free segment,
    /// or of a new span from the source if none fits. Expected O(1) apart from that, with the
    /// policies `InstantFit` and, mostly, `BestFit`.
    ///
    /// ```text
    ///  before            0x1_0000                                0x1_5000
    ///                    │ free                                  │
    ///  alloc(0x2800)     0x1_0000                0x1_3000        0x1_5000
    ///                    │ allocated             │ free          │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
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
    /// [`Error::AllocZeroSize`], [`Error::SizeOverflow`], [`Error::AllocatorError`]. If no segment
    /// fits: [`Error::Empty`] without a source, otherwise the source's error or
    /// [`Error::LimitReached`]. If the segment that fits had [discarded](Self::discard) memory that
    /// the source cannot restore: the source's error.
    #[doc(alias("vmem_alloc", "malloc"))]
    #[inline]
    pub fn alloc(&self, size: usize, policy: AllocPolicy) -> Result<usize> {
        match policy {
            AllocPolicy::InstantFit => self.alloc_fast(policy, size, FreeLists::instant_fit),
            AllocPolicy::BestFit => self.alloc_fast(policy, size, FreeLists::best_fit),
            AllocPolicy::NextFit => self.alloc_slow(policy, size),
        }
    }

    /// Allocates on the fast path: a segment is found of which nothing is discarded, and the tags
    /// to divide it are cached.
    fn alloc_fast(
        &self,
        policy: AllocPolicy,
        size: usize,
        find: impl FnOnce(&FreeLists, usize) -> Option<(usize, TagRef)>,
    ) -> Result<usize> {
        let space = round_up(size, self.quantum)?;
        let mut state = self.lock();
        if state.is_ready() {
            if let Some((list, segment)) = find(&state.free_lists, space) {
                if !segment.discarded.get() {
                    let base = segment.start.get();
                    state.carve_front(segment, list, space);
                    return Ok(base);
                }
            }
        }
        drop(state);
        self.alloc_slow(policy, size)
    }

    /// Allocates on the slow path: may refill tags, restore discarded memory, import a span and
    /// call the reclaim hook.
    #[inline(never)]
    fn alloc_slow(&self, policy: AllocPolicy, size: usize) -> Result<usize> {
        self.allocate(&Request::plain(size, self.quantum)?, policy)
    }

    /// Allocates a segment that satisfies `layout`, and returns its base.
    ///
    /// In a free segment the lowest base that satisfies the layout is taken; with `NextFit`, the
    /// lowest at or above the cursor. Parts on either side stay free.
    ///
    /// ```text
    ///  before                0x1_1000                                                0x1_8000
    ///                        │ free                                                  │
    ///  size 0x2000,          0x1_1000                0x1_4000        0x1_6000        0x1_8000
    ///  align 0x4000          │ free                  │ allocated     │ free          │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
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
    /// Those of [`alloc`](Self::alloc), and [`Error::Unsatisfiable`] if no address satisfies the
    /// layout in an arena of this quantum.
    #[doc(alias = "vmem_xalloc")]
    pub fn xalloc(&self, layout: Layout, policy: AllocPolicy) -> Result<usize> {
        self.allocate(&Request::new(&layout, self.quantum)?, policy)
    }

    /// Allocates the range of `size`, rounded up to the quantum, at exactly `base`. Never imports.
    /// O(log spans + segments of the span).
    ///
    /// ```text
    ///                             0x1_0000                0x1_3000        0x1_5000
    ///  before                     │ free                  │ allocated     │
    ///  (0x1_1000, 0x1000)                  ├──────┤  is allocated
    ///  (0x1_2000, 0x2000)                          ├──────────────┤  fails: Occupied
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
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
    /// [`Error::AllocatorError`]. The source's error if it cannot restore
    /// [discarded](Self::discard) memory.
    pub fn xalloc_at(&self, base: usize, size: usize) -> Result<()> {
        let space = round_up(size, self.quantum)?;
        if base % self.quantum != 0 {
            return Err(Error::UnalignedBase {
                base,
                quantum: self.quantum,
            });
        }
        let last = base
            .checked_add(space - 1)
            .ok_or(Error::SizeOverflow { size })?;
        let mut state = self.lock_with_tags()?;
        let segment = state
            .segment_containing(base)
            .filter(|segment| segment.is_free() && segment.contains(last))
            .ok_or(Error::Occupied { base, size: space })?;
        if segment.discarded.get() {
            state = self.carve_restored(state, segment, base, space)?.0;
        } else {
            state.carve(segment, base, space);
        }
        self.finish(state);
        Ok(())
    }

    #[inline]
    fn allocate(&self, request: &Request, policy: AllocPolicy) -> Result<usize> {
        match self.try_allocate(request, policy) {
            Err(error) => self.allocate_after_reclaim(request, policy, error),
            allocated => allocated,
        }
    }

    /// Tries once more if the reclaim hook returns that it has freed something.
    #[cold]
    fn allocate_after_reclaim(
        &self,
        request: &Request,
        policy: AllocPolicy,
        error: Error,
    ) -> Result<usize> {
        match self.reclaim {
            Some(reclaim) if error != Error::AllocatorError && reclaim(request.rounded_size) => {
                self.try_allocate(request, policy)
            }
            _ => Err(error),
        }
    }

    #[inline]
    fn try_allocate(&self, request: &Request, policy: AllocPolicy) -> Result<usize> {
        let mut state = self.lock_with_tags()?;
        let probes = match self.source {
            Some(_) => MAX_PROBES,
            None => usize::MAX,
        };
        if let Some((segment, base)) = state.search(request, policy, probes) {
            if segment.discarded.get() {
                return self.allocate_restored(state, segment, base, request, policy);
            }
            state.allocate(segment, base, request, policy);
            return Ok(base);
        }
        match self.source {
            Some(source) => {
                drop(state);
                self.allocate_by_import(source, request, policy)
            }
            None => Err(Error::Empty { size: request.size }),
        }
    }

    /// Allocates from a newly imported span. If the import fails, probes all free segments.
    #[cold]
    fn allocate_by_import(
        &self,
        source: &'src dyn Source,
        request: &Request,
        policy: AllocPolicy,
    ) -> Result<usize> {
        let error = match self.import_for(source, request) {
            Ok((mut state, segment, base)) => {
                state.allocate(segment, base, request, policy);
                self.finish(state);
                return Ok(base);
            }
            Err(error) => error,
        };
        let mut state = self.lock_with_tags()?;
        let (segment, base) = state.search(request, policy, usize::MAX).ok_or(error)?;
        if segment.discarded.get() {
            return self.allocate_restored(state, segment, base, request, policy);
        }
        state.allocate(segment, base, request, policy);
        self.finish(state);
        Ok(base)
    }

    /// Allocates from a free segment whose memory may be discarded. Ends the operation.
    #[cold]
    fn allocate_restored<'a>(
        &'a self,
        state: Locked<'a, L>,
        segment: TagRef,
        base: usize,
        request: &Request,
        policy: AllocPolicy,
    ) -> Result<usize> {
        let (mut state, tag) = self.carve_restored(state, segment, base, request.rounded_size)?;
        state.advance_cursor(tag, request, policy);
        self.finish(state);
        Ok(base)
    }
}

impl State {
    fn allocate(&mut self, segment: TagRef, base: usize, request: &Request, policy: AllocPolicy) {
        let tag = self.carve(segment, base, request.rounded_size);
        self.advance_cursor(tag, request, policy);
    }

    /// Moves the cursor of `NextFit` to the end of the segment that `request` got.
    #[inline]
    fn advance_cursor(&mut self, tag: TagRef, request: &Request, policy: AllocPolicy) {
        if policy == AllocPolicy::NextFit {
            let base = tag.start.get();
            // It wraps to 0 after the last address.
            self.cursor.address = base.wrapping_add(request.rounded_size);
            self.cursor.near = Some(tag);
        }
    }

    /// Returns a free segment into which the request fits, and the base there.
    ///
    /// An instant fit probes at most `probes` segments that are not sure to fit.
    #[inline]
    fn search(
        &self,
        request: &Request,
        policy: AllocPolicy,
        probes: usize,
    ) -> Option<(TagRef, usize)> {
        match policy {
            AllocPolicy::InstantFit => self.instant_fit(request, probes),
            AllocPolicy::BestFit => self.best_fit(request),
            AllocPolicy::NextFit => self.next_fit(request),
        }
    }

    #[inline]
    fn instant_fit(&self, request: &Request, probes: usize) -> Option<(TagRef, usize)> {
        let sure = request
            .guaranteed_size()
            .map(|size| self.free_lists.first_sufficient_list(size));
        if let Some((_, segment)) = sure.and_then(|sure| self.free_lists.first_nonempty_from(sure))
        {
            return position(request, segment);
        }
        // No list at or above `sure` has members, so the lists below it are probed.
        let mut probes = probes;
        for (_, first) in self
            .free_lists
            .nonempty_lists_from(self.free_lists.list_of(request.rounded_size))
        {
            for segment in members(Some(first)) {
                let found = position(request, segment);
                probes -= 1;
                if found.is_some() || probes == 0 {
                    return found;
                }
            }
        }
        None
    }

    fn best_fit(&self, request: &Request) -> Option<(TagRef, usize)> {
        // All members of a list are smaller than those of the next list.
        self.free_lists
            .nonempty_lists_from(self.free_lists.list_of(request.rounded_size))
            .find_map(|(list, first)| {
                let mut fitting =
                    members(Some(first)).filter_map(|segment| position(request, segment));
                if FreeLists::has_one_size(list) {
                    fitting.next()
                } else {
                    fitting.min_by_key(|(segment, _)| segment.size())
                }
            })
    }

    fn next_fit(&self, request: &Request) -> Option<(TagRef, usize)> {
        // If no segment is large enough, the walk is not needed.
        self.free_lists
            .first_nonempty_from(self.free_lists.list_of(request.rounded_size))?;
        let position_if_free = |segment: TagRef, request: &Request| {
            let free = segment.is_free();
            free.then(|| position(request, segment)).flatten()
        };
        // Begin at the cursor and go around once. The part of its segment below it comes last.
        let start = self.segment_at_cursor()?;
        let here = if start.contains(self.cursor.address) {
            request.above(self.cursor.address)
        } else {
            *request
        };
        if let Some(found) = position_if_free(start, &here) {
            return Some(found);
        }
        let mut segment = start;
        loop {
            segment = self.segment_after(segment)?;
            if let Some(found) = position_if_free(segment, request) {
                return Some(found);
            }
            if segment == start {
                return None;
            }
        }
    }

    /// Returns the segment at the cursor's address, else the next one, else the first.
    fn segment_at_cursor(&self) -> Option<TagRef> {
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

    /// Returns the next segment in address order; after the last one, the first.
    fn segment_after(&self, segment: TagRef) -> Option<TagRef> {
        let above = segment.above();
        if !above.is_span() {
            return Some(above);
        }
        let span = self.spans.after(above);
        Some(span.or_else(|| self.spans.at_or_above(0))?.above())
    }

    /// Returns the segment that contains `address`. O(log spans + segments of the span).
    ///
    /// The search ends even in damaged tags, as long as their links lead to tags: fault handlers
    /// use it too.
    pub(super) fn segment_containing(&self, address: usize) -> Option<TagRef> {
        let mut segment = self.spans.containing(address)?.above();
        while segment.last.get() < address {
            let above = segment.above();
            // The next segment lies above. If not, the links may form a cycle.
            if above.start.get() <= segment.last.get() {
                return None;
            }
            segment = above;
        }
        segment.contains(address).then_some(segment)
    }
}

/// Returns a free segment with the base at which the request fits, if it fits.
#[inline]
fn position(request: &Request, segment: TagRef) -> Option<(TagRef, usize)> {
    let base = request.position(segment.start.get(), segment.last.get())?;
    Some((segment, base))
}
