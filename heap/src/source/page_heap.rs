//! [`PageHeap`]: a global allocator over an arena of pages that gives pages back by itself.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::marker::PhantomData;

use lock_api::RawMutex;

use super::decay::{DecayInterval, DecayTimer};
use super::{ArenaSource, DrainError, StableGlobalAlloc};
use crate::talc::base::binning::{Binning, DefaultBinning};
use crate::talc::sync::{ReclaimHooks, TalcLock};
use crate::vmem::{Arena, Error, Lock, TagSupply};

/// Says whether a [`PageHeap`] may give pages back at the moment, which takes time.
///
/// If not, the pages wait for the next operation that finds the gate open, or for
/// [`PageHeap::drain`]. (An allocation that fails gives pages back in any case.)
///
/// ```
/// use heap::source::ReleaseGate;
///
/// # fn interrupts_are_enabled() -> bool { true }
/// /// Pages are not unmapped inside handlers of interrupts.
/// struct InterruptsEnabled;
///
/// impl ReleaseGate for InterruptsEnabled {
///     fn is_open() -> bool {
///         interrupts_are_enabled()
///     }
/// }
/// ```
pub trait ReleaseGate {
    /// Returns whether pages may be given back by the code that runs.
    fn is_open() -> bool;
}

/// A [`ReleaseGate`] that is always open: for programs, and for kernels whose interrupt handlers do
/// not free.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysOpen;

impl ReleaseGate for AlwaysOpen {
    #[inline]
    fn is_open() -> bool {
        true
    }
}

/// How often an allocation is tried, after room was made for it, while others get memory or give it
/// back.
const MAX_ATTEMPTS: usize = 64;

/// A [`TalcLock`] over an [`ArenaSource`] that drains, retries and decays by itself: the type for a
/// `#[global_allocator]` whose pages come and go.
///
/// ```text
///     dealloc    ├─ lock held: free ─┤ drain: pages from the tops of heaps go back
///                                    │ decay: every 1,000th free, pages inside heaps go back too
///     alloc      ├─ lock held: none ─┤ reap: all free pages go back ├─ lock held: second try ─┤
/// ```
///
/// The `GlobalAlloc` of a [`TalcLock`] alone does none of it: the pages that it frees wait in the
/// release queue until some code calls [`TalcLock::drain`].
///
/// The arena must retain no free spans of its own: see
/// [`with_retained_spans`](crate::vmem::Arena::with_retained_spans). Pages inside heaps go back
/// only if the source of the arena can [discard](crate::vmem::Source::discard) them.
///
/// ```
/// use std::alloc::{GlobalAlloc, Layout};
///
/// use heap::source::{ArenaSource, PageHeap};
/// use heap::vmem::{Arena, LockApi, NoPages, TagPool};
///
/// type Lock = LockApi<spin::Mutex<()>>;
/// static TAGS: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
///
/// let pages = Layout::from_size_align(1 << 20, 4096)?;
/// let block = Layout::from_size_align(500 << 10, 8)?;
/// // SAFETY: the sizes are not zero. Only the arena uses the pages, and the block is freed once.
/// unsafe {
///     let memory = std::alloc::alloc(pages);
///     let arena = Arena::<_, Lock>::create("pages", 4096, None, &TAGS)?.with_retained_spans(0);
///     arena.add_span(memory.expose_provenance(), 1 << 20)?;
///     let heap = PageHeap::<spin::Mutex<()>, _, _>::new(ArenaSource::new(&arena));
///     let base = heap.alloc(block);
///     assert!(arena.allocated_space() > 500 << 10);
///     heap.dealloc(base, block);
///     assert!(arena.allocated_space() < 200 << 10, "without a call of `drain`");
///     heap.reap();
///     assert_eq!(arena.allocated_space(), 4096);
/// #   drop(heap);
/// #   drop(arena);
/// #   std::alloc::dealloc(memory, pages);
/// }
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct PageHeap<
    'a,
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate = AlwaysOpen,
    B: Binning = DefaultBinning,
> {
    talc: TalcLock<R, ArenaSource<'a, A, L>, B>,
    decay: DecayTimer,
    gate: PhantomData<fn() -> G>,
}

impl<'a, R, A, L, G, B> PageHeap<'a, R, A, L, G, B>
where
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate,
    B: Binning,
{
    /// Creates a heap that takes its memory from `source`.
    pub const fn new(source: ArenaSource<'a, A, L>) -> Self {
        Self {
            talc: TalcLock::new(source),
            decay: DecayTimer::new(),
            gate: PhantomData,
        }
    }

    /// Takes memory from `arena` from now on. Returns `false` and changes nothing if the heap has
    /// an arena already.
    ///
    /// # Safety
    /// As for [`ArenaSource::new`]. If this is the global allocator, no layer below `arena` may
    /// allocate from it.
    pub unsafe fn attach(&self, arena: &'a Arena<'a, 'a, A, L>) -> bool {
        let mut talc = self.talc.lock();
        // SAFETY: neither the allocator nor its source is replaced.
        let talc = unsafe { talc.as_mut() };
        // SAFETY: the caller guarantees what the source requires of its arena.
        unsafe { talc.source.attach(arena) }
    }

    /// Returns the allocator behind its lock. Its own `GlobalAlloc` and its own `drain` are not
    /// those of this type.
    ///
    /// Code that holds the lock must not allocate from the heap, because it would deadlock.
    #[inline]
    pub const fn talc(&self) -> &TalcLock<R, ArenaSource<'a, A, L>, B> {
        &self.talc
    }

    /// Gives back the pages in the release queue, even if the [gate](ReleaseGate) is closed.
    /// Returns the number of bytes that went back.
    ///
    /// Two kinds of pages stay in the queue: those of a segment that is being resized, and those
    /// that the arena refuses because it has no boundary tag at the moment, for instance.
    ///
    /// # Panics
    /// Panics if the arena does not know a segment that it allocated: the arena is corrupt.
    pub fn drain(&self) -> usize {
        match self.talc.drain() {
            Ok(bytes) => bytes,
            Err(
                refused @ DrainError {
                    error: Error::NoSuchAllocation { .. } | Error::WrongSize { .. },
                    ..
                },
            ) => panic!("{refused}"),
            Err(DrainError { drained, .. }) => drained,
        }
    }

    /// Gives back the pages that have been free since the last call, inside the heaps and at their
    /// tops. Returns the number of bytes that went back.
    ///
    /// This is done [at intervals](DecayInterval) anyway. Code that waits for work may call it too:
    /// without frees there are no intervals.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn decay(&self) -> usize {
        self.decay.begin_interval();
        let holes = self.talc.decay();
        holes + self.drain()
    }

    /// Gives back all free pages of the heaps, and all empty heaps except the first. Returns the
    /// number of bytes that went back.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn reap(&self) -> usize {
        self.talc.trim();
        let drained = self.drain();
        // Where no pages are unmapped usually, others may wait for the code that calls this
        // function.
        let punched = match G::is_open() {
            true => self.talc.punch(),
            false => self.talc.punch_without_waiting(),
        };
        drained + punched
    }

    /// Sets how often pages [decay](Self::decay), and begins the interval anew. Returns the
    /// interval before.
    pub fn set_decay_interval(&self, interval: DecayInterval) -> DecayInterval {
        self.decay.set_interval(interval)
    }

    /// Counts a tick of a timer: its handler may call this function. Constant time, takes no lock.
    ///
    /// When the ticks of the [interval](DecayInterval) are over, the next free makes a pass.
    pub fn count_tick(&self) {
        self.decay.count_tick();
    }
}

impl<'a, R, A, L, G, B> ReclaimHooks<ArenaSource<'a, A, L>> for PageHeap<'a, R, A, L, G, B>
where
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate,
    B: Binning,
{
    #[inline]
    fn is_due(&self, source: &ArenaSource<'a, A, L>) -> bool {
        self.decay.count_free() || source.has_pending_releases()
    }

    /// Drains the release queue, and makes a pass if one is due, if the gate is open.
    #[inline]
    fn release(&self) {
        if !G::is_open() {
            return;
        }
        if self.decay.is_due() {
            self.decay();
        } else {
            self.drain();
        }
    }

    fn reclaim(&self) {
        self.reap();
    }

    /// Waits for what others have on its way, and gives back what they have freed meanwhile, if the
    /// gate is open: where no pages are unmapped usually, others may wait for the code that
    /// allocates.
    fn retry(&self, attempt: &mut dyn FnMut() -> bool) {
        for _ in 0..MAX_ATTEMPTS {
            let before = self.talc.transit();
            if attempt() || !G::is_open() {
                break;
            }
            let has_waited = self.talc.wait_for_others(before);
            if self.reap() == 0 && !has_waited {
                break;
            }
        }
    }
}

// SAFETY: all operations are those of `TalcLock`. A block stays where it is until it is freed: only
// pages without a block go back.
unsafe impl<R, A, L, G, B> GlobalAlloc for PageHeap<'_, R, A, L, G, B>
where
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate,
    B: Binning,
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).realloc(block, layout, size) }
    }
}

// SAFETY: blocks lie in pages of the arena, wherever the allocator is.
unsafe impl<R, A, L, G, B> StableGlobalAlloc for PageHeap<'_, R, A, L, G, B>
where
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate,
    B: Binning,
{
}

impl<R, A, L, G, B> fmt::Debug for PageHeap<'_, R, A, L, G, B>
where
    R: RawMutex,
    A: TagSupply,
    L: Lock,
    G: ReleaseGate,
    B: Binning,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PageHeap").field(&self.talc).finish()
    }
}
