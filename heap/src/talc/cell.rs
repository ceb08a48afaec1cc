//! The allocator for one thread, without a lock.

use core::cell::RefCell;
use core::fmt;
use core::ptr::NonNull;

use super::Talc;
use super::allocator_impls::{AbortOnUnwind, SharedTalc, allocators, global_alloc};
use super::base::Reserved;
use super::binning::Binning;
use super::check::Corruption;
#[cfg(feature = "counters")]
use super::counters::Counters;
#[cfg(feature = "hardened")]
use super::hardened::Report;
use super::source::Source;

/// A [`Talc`] that is used through shared references, by one thread at a time, without a lock.
///
/// ```text
///     Vec, Box …                   TalcCell                    the source
///        │  allocate(&self)     ┌────────────────┐  acquire(&mut Talc)  │
///        ├─────────────────────>│ Talc, borrowed │─────────────────────>│
///        │                      │ until it is    │<─────────────────────┤  claim, extend
///        │<─────────────────────│ done           │         not allocate(&TalcCell): panics
///        │     a block          └────────────────┘
/// ```
///
/// As with a [`Cell`](core::cell::Cell), code outside never gets a reference to the contents. Only
/// the [`Source`] does, and a source promises not to use the cell meanwhile. A source that breaks
/// this promise, for instance by allocating from the very cell that it is in, panics.
///
/// A `TalcCell` implements `Allocator`, and so does a reference to one.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use heap::talc::{TalcCell, source::Claim};
///
/// let mut memory = [0_u8; 10_000];
/// // SAFETY: only the cell uses `memory`, which outlives it.
/// let talc = TalcCell::new(unsafe { Claim::array(&raw mut memory) });
/// let mut primes = Vec::with_capacity_in(3, &talc);
/// primes.extend([2, 3, 5, 7]);
/// assert_eq!(primes, [2, 3, 5, 7]);
/// ```
///
/// Threads cannot share it:
///
/// ```compile_fail,E0277
/// use heap::talc::{TalcCell, source::Manual};
///
/// static HEAP: TalcCell<Manual> = TalcCell::new(Manual);
/// ```
pub struct TalcCell<S: Source, B: Binning> {
    talc: RefCell<Talc<S, B>>,
}

impl<S: Source, B: Binning> TalcCell<S, B> {
    /// Returns an allocator without memory.
    pub const fn new(source: S) -> Self {
        Self {
            talc: RefCell::new(Talc::new(source)),
        }
    }

    /// Returns the allocator. `&mut self` proves that it is not borrowed.
    #[inline]
    pub fn get_mut(&mut self) -> &mut Talc<S, B> {
        self.talc.get_mut()
    }

    /// Returns the allocator without the cell.
    pub fn into_inner(self) -> Talc<S, B> {
        self.talc.into_inner()
    }

    /// Replaces the source, and returns the old one.
    ///
    /// Heaps and their allocations stay. The documentation of the old source says what becomes of
    /// heaps that it provided: their memory must exist as long as the allocator uses it.
    ///
    /// Some sources take heaps back (`AllocatorSource`, `GlobalAllocSource`, `ArenaSource`). An
    /// allocator with a heap from one of them gets no memory from another: neither could tell which
    /// heaps are its own.
    ///
    /// ```
    /// use heap::talc::{TalcCell, source::Claim};
    ///
    /// let mut memory = [0_u8; 10_000];
    /// let talc = TalcCell::new(Claim::standby());
    /// // SAFETY: only the cell uses `memory`, which outlives it.
    /// let old = talc.replace_source(unsafe { Claim::array(&raw mut memory) });
    /// assert!(!old.is_ready());
    /// ```
    pub fn replace_source(&self, source: S) -> S {
        self.with(|talc| core::mem::replace(&mut talc.source, source))
    }

    /// Clones the source.
    pub fn clone_source(&self) -> S
    where
        S: Clone,
    {
        self.with(|talc| talc.source.clone())
    }

    /// Claims a range of memory as a heap. See [`Talc::claim`].
    ///
    /// # Safety
    /// As for [`Talc::claim`].
    pub unsafe fn claim(&self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the contract is that of `Talc::claim`.
        self.with(|talc| unsafe { talc.claim(base, size) })
    }

    /// Returns the part of a heap that is in use. See [`Talc::reserved`].
    ///
    /// # Safety
    /// As for [`Talc::reserved`].
    pub unsafe fn reserved(&self, heap_end: NonNull<u8>) -> Reserved {
        // SAFETY: the contract is that of `Talc::reserved`.
        self.with(|talc| unsafe { talc.reserved(heap_end) })
    }

    /// Moves a heap's end up. See [`Talc::extend`].
    ///
    /// # Safety
    /// As for [`Talc::extend`].
    pub unsafe fn extend(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> NonNull<u8> {
        // SAFETY: the contract is that of `Talc::extend`.
        self.with(|talc| unsafe { talc.extend(heap_end, new_end) })
    }

    /// Moves a heap's end down. See [`Talc::truncate`].
    ///
    /// # Safety
    /// As for [`Talc::truncate`].
    pub unsafe fn truncate(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>> {
        // SAFETY: the contract is that of `Talc::truncate`.
        self.with(|talc| unsafe { talc.truncate(heap_end, new_end) })
    }

    /// Moves a heap's end up or down. See [`Talc::resize`].
    ///
    /// # Safety
    /// As for [`Talc::resize`].
    pub unsafe fn resize(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>> {
        // SAFETY: the contract is that of `Talc::resize`.
        self.with(|talc| unsafe { talc.resize(heap_end, new_end) })
    }

    /// Checks the invariants of the heaps. See [`Talc::check`].
    ///
    /// # Errors
    /// The first invariant that is broken.
    pub fn check(&self) -> Result<(), Corruption> {
        self.with(|talc| talc.check())
    }

    /// Sets the hook to which misuse is reported. See [`Talc::set_hook`].
    #[cfg(feature = "hardened")]
    pub fn set_hook(&self, hook: fn(&Report)) {
        self.with(|talc| talc.set_hook(hook));
    }

    /// Returns whether a heap was ever claimed. See [`Talc::is_metadata_established`].
    pub fn is_metadata_established(&self) -> bool {
        self.with(|talc| talc.is_metadata_established())
    }

    /// Returns statistics: what is allocated, free and claimed now, and in total.
    #[cfg(feature = "counters")]
    pub fn counters(&self) -> Counters {
        self.with(|talc| *talc.counters())
    }
}

impl<S: Source, B: Binning> SharedTalc for TalcCell<S, B> {
    type Source = S;
    type Binning = B;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut Talc<S, B>) -> R) -> R {
        let Ok(mut talc) = self.talc.try_borrow_mut() else {
            panic!("a source uses the `TalcCell` that it is in");
        };
        let (result, reports) = talc.deferring(work);
        drop(talc);
        reports.report();
        result
    }
}

global_alloc!([S: Source, B: Binning] TalcCell<S, B>);
allocators!([S: Source, B: Binning] TalcCell<S, B>);

impl<S: Source, B: Binning> fmt::Debug for TalcCell<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The writer behind `f` may allocate from this cell, so it must not be borrowed.
        let summary = self.with(|talc| talc.summary());
        f.debug_tuple("TalcCell").field(&summary).finish()
    }
}

/// A [`TalcCell`] that is `Sync` by the promise of its user, as a `#[global_allocator]` must be.
///
/// ```text
///     time   ──┤ alloc ├────┤ dealloc ├──┤ alloc ├──    right: calls follow each other
///            ──┤ alloc ├─────────────────────────────    wrong, and undefined: another thread or
///            ─────┤ dealloc ├────────────────────────    an interrupt calls meanwhile
/// ```
///
/// The promise holds in programs with one thread and no interrupts or signal handlers that
/// allocate. All other programs need a [`TalcLock`](super::TalcLock); a lock without contention is
/// cheap.
///
/// ```
/// use heap::talc::{DefaultBinning, TalcCell, cell::TalcSyncCell, source::Claim};
///
/// static HEAP: TalcSyncCell<Claim, DefaultBinning> = {
///     static mut MEMORY: [u8; 100_000] = [0; 100_000];
///     // SAFETY: only the heap uses `MEMORY`, and only one thread allocates.
///     unsafe { TalcSyncCell::new(TalcCell::new(Claim::array(&raw mut MEMORY))) }
/// };
/// ```
pub struct TalcSyncCell<S: Source, B: Binning>(TalcCell<S, B>);

// SAFETY: the caller of `new` guaranteed that calls follow each other.
unsafe impl<S: Source, B: Binning> Sync for TalcSyncCell<S, B> {}

impl<S: Source, B: Binning> TalcSyncCell<S, B> {
    /// Makes a cell `Sync`.
    ///
    /// # Safety
    /// No call of a method begins before all others have returned: neither on another thread, nor
    /// in an interrupt or signal handler.
    pub const unsafe fn new(talc: TalcCell<S, B>) -> Self {
        Self(talc)
    }

    /// Makes a cell `Sync` on a target without threads and interrupts: WebAssembly without atomics.
    ///
    /// # Panics
    /// On other targets.
    pub const fn new_wasm(source: S) -> Self {
        if !cfg!(all(target_family = "wasm", not(target_feature = "atomics"))) {
            panic!("this is not WebAssembly without threads");
        }
        // SAFETY: this target has one thread and no interrupts, so calls follow each other.
        unsafe { Self::new(TalcCell::new(source)) }
    }
}

impl<S: Source, B: Binning> SharedTalc for TalcSyncCell<S, B> {
    type Source = S;
    type Binning = B;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut Talc<S, B>) -> R) -> R {
        self.0.with(work)
    }
}

global_alloc!([S: Source, B: Binning] TalcSyncCell<S, B>);
allocators!([S: Source, B: Binning] TalcSyncCell<S, B>);

impl<S: Source, B: Binning> fmt::Debug for TalcSyncCell<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TalcSyncCell").field(&self.0).finish()
    }
}
