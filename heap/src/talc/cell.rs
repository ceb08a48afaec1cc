//! An allocator for one thread, without a lock.

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
/// As with a [`Cell`](core::cell::Cell), nobody gets a reference to what is in it: all that is lent
/// is the [`Source`], to itself, and a source promises not to use the cell then. A source that breaks
/// this promise, as one does that allocates from the very cell that it is in, panics.
///
/// It is an `Allocator`, as are references to it.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use heap::talc::{TalcCell, source::Claim};
///
/// let mut memory = [0_u8; 10_000];
/// // SAFETY: nobody else uses `memory` as long as the cell does.
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
    /// An allocator that has no memory yet.
    pub const fn new(source: S) -> Self {
        Self {
            talc: RefCell::new(Talc::new(source)),
        }
    }

    /// The allocator, which nobody else can be using.
    #[inline]
    pub fn get_mut(&mut self) -> &mut Talc<S, B> {
        self.talc.get_mut()
    }

    /// The allocator without the cell.
    pub fn into_inner(self) -> Talc<S, B> {
        self.talc.into_inner()
    }

    /// Puts another source in the place of the one that is there, and returns that.
    ///
    /// Heaps, and what is allocated in them, stay. What becomes of heaps that the old source
    /// provided, its documentation says: the memory must be there as long as the allocator uses it.
    ///
    /// An allocator that has a heap of a source which takes heaps back (`AllocatorSource`,
    /// `GlobalAllocSource`, `ArenaSource`) gets nothing more from another source of this kind: neither
    /// could tell whose heaps are whose.
    ///
    /// ```
    /// use heap::talc::{TalcCell, source::Claim};
    ///
    /// let mut memory = [0_u8; 10_000];
    /// let talc = TalcCell::new(Claim::standby());
    /// // SAFETY: nobody else uses `memory` as long as the cell does.
    /// let old = talc.replace_source(unsafe { Claim::array(&raw mut memory) });
    /// assert!(!old.is_ready());
    /// ```
    pub fn replace_source(&self, source: S) -> S {
        self.with(|talc| core::mem::replace(&mut talc.source, source))
    }

    /// A clone of the source.
    pub fn clone_source(&self) -> S
    where
        S: Clone,
    {
        self.with(|talc| talc.source.clone())
    }

    /// Makes a range of memory a heap. See [`Talc::claim`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn claim(&self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's duty.
        self.with(|talc| unsafe { talc.claim(base, size) })
    }

    /// How much of a heap is in use. See [`Talc::reserved`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn reserved(&self, heap_end: NonNull<u8>) -> Reserved {
        // SAFETY: the caller's duty.
        self.with(|talc| unsafe { talc.reserved(heap_end) })
    }

    /// Moves a heap's end up. See [`Talc::extend`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn extend(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> NonNull<u8> {
        // SAFETY: the caller's duty.
        self.with(|talc| unsafe { talc.extend(heap_end, new_end) })
    }

    /// Moves a heap's end down. See [`Talc::truncate`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn truncate(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>> {
        // SAFETY: the caller's duty.
        self.with(|talc| unsafe { talc.truncate(heap_end, new_end) })
    }

    /// Moves a heap's end up or down. See [`Talc::resize`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn resize(&self, heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>> {
        // SAFETY: the caller's duty.
        self.with(|talc| unsafe { talc.resize(heap_end, new_end) })
    }

    /// Whether an invariant of the heaps is broken. See [`Talc::check`].
    ///
    /// # Errors
    /// The first that is.
    pub fn check(&self) -> Result<(), Corruption> {
        self.with(|talc| talc.check())
    }

    /// Sets what misuse is reported to. See [`Talc::set_hook`].
    #[cfg(feature = "hardened")]
    pub fn set_hook(&self, hook: fn(&Report)) {
        self.with(|talc| talc.set_hook(hook));
    }

    /// Whether a heap was ever claimed. See [`Talc::is_metadata_established`].
    pub fn is_metadata_established(&self) -> bool {
        self.with(|talc| talc.is_metadata_established())
    }

    /// What is allocated, free and claimed now, and how much ever was.
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
        // What `f` writes to may allocate from here: the allocator must be free again.
        let summary = self.with(|talc| talc.summary());
        f.debug_tuple("TalcCell").field(&summary).finish()
    }
}

/// A [`TalcCell`] that claims to be `Sync`, as a `#[global_allocator]` must.
///
/// ```text
///     time   ──┤ alloc ├────┤ dealloc ├──┤ alloc ├──    right: calls follow each other
///            ──┤ alloc ├─────────────────────────────    wrong, and undefined: another thread or
///            ─────┤ dealloc ├────────────────────────    an interrupt calls meanwhile
/// ```
///
/// That is true of programs with one thread and no interrupts or signals that allocate. In all
/// others a [`TalcLock`](super::TalcLock) is right, and a lock that nobody contends for is cheap.
///
/// ```
/// use heap::talc::{DefaultBinning, TalcCell, cell::TalcSyncCell, source::Claim};
///
/// static HEAP: TalcSyncCell<Claim, DefaultBinning> = {
///     static mut MEMORY: [u8; 100_000] = [0; 100_000];
///     // SAFETY: nothing else uses `MEMORY`, and only one thread allocates.
///     unsafe { TalcSyncCell::new(TalcCell::new(Claim::array(&raw mut MEMORY))) }
/// };
/// ```
pub struct TalcSyncCell<S: Source, B: Binning>(TalcCell<S, B>);

// SAFETY: whoever made it vouched for there being only one user at a time.
unsafe impl<S: Source, B: Binning> Sync for TalcSyncCell<S, B> {}

impl<S: Source, B: Binning> TalcSyncCell<S, B> {
    /// Shares a cell between threads.
    ///
    /// # Safety
    /// No call of a method begins before all others have returned: not on another thread, and not in
    /// an interrupt or a signal handler.
    pub const unsafe fn new(talc: TalcCell<S, B>) -> Self {
        Self(talc)
    }

    /// Shares a cell where there are no threads and no interrupts: in WebAssembly without atomics.
    ///
    /// # Panics
    /// Elsewhere.
    pub const fn new_wasm(source: S) -> Self {
        if !cfg!(all(target_family = "wasm", not(target_feature = "atomics"))) {
            panic!("this is not WebAssembly without threads");
        }
        // SAFETY: on this target there is nobody who could call.
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
