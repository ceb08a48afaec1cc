//! The allocator behind a lock: for several threads, and as the `#[global_allocator]`.

use core::alloc::Layout;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use lock_api::{Mutex, MutexGuard, RawMutex};

use super::Talc;
use super::allocate::{Find, Progress};
use super::allocator_impls::{AbortOnUnwind, SharedTalc, allocators, global_alloc};
use super::binning::{Binning, DefaultBinning};
use super::source::Source;
use super::zeroed::Uncleared;

/// A [`Talc`] in a [`lock_api`] mutex.
///
/// The lock is held while the allocator works, but never while memory is copied or cleared, nor
/// while a source that [can do without it](Source::acquire_unlocked) gets memory. When `realloc`
/// has to move a block, for instance, and `alloc` has to map pages:
///
/// ```text
///     lock held     ├─ try in place ─┤  ├─ allocate ─┤            ├─ free ─┤
///     lock free                      ├──┤            ├── copy ────┤
///
///     lock held     ├─ find none, reserve ─┤           ├─ extend, allocate ─┤
///     lock free                            ├─── map ───┤
///     time ────────────────────────────────────────────────────────────────────>
/// ```
///
/// ```
/// use heap::talc::{TalcLock, source::Manual};
///
/// static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);
///
/// assert!(!HEAP.lock().is_metadata_established());
/// ```
///
/// The methods of a [guard](TalcGuard) hold the lock all the time, while their source gets memory
/// too: it must not call back.
///
/// A `TalcLock` implements `GlobalAlloc` and `Allocator`; a reference to one implements
/// `Allocator`.
///
/// Over an [`ArenaSource`](crate::source::ArenaSource), its `GlobalAlloc` gives no pages back: they
/// wait for [`drain`](Self::drain). As a `#[global_allocator]`, take a
/// [`PageHeap`](crate::source::PageHeap), which calls it.
#[doc(alias = "Talck")]
pub struct TalcLock<R: RawMutex, S: Source, B: Binning = DefaultBinning> {
    mutex: Mutex<R, Talc<S, B>>,
}

impl<R: RawMutex, S: Source, B: Binning> TalcLock<R, S, B> {
    /// Returns an allocator without memory.
    pub const fn new(source: S) -> Self {
        Self {
            mutex: Mutex::new(Talc::new(source)),
        }
    }

    /// Waits for the lock. The guard holds it until it is dropped.
    ///
    /// Code that has the guard must not allocate through this lock, because it would deadlock.
    #[inline]
    pub fn lock(&self) -> TalcGuard<'_, R, S, B> {
        TalcGuard {
            talc: self.mutex.lock(),
        }
    }

    /// Takes the lock, or returns `None` if it is held.
    #[inline]
    pub fn try_lock(&self) -> Option<TalcGuard<'_, R, S, B>> {
        let talc = self.mutex.try_lock()?;
        Some(TalcGuard { talc })
    }

    /// Runs `work` while the lock is held. Misuse that `work` finds is reported when the lock is
    /// free again, so that the hook may allocate.
    ///
    /// # Safety
    /// As for [`TalcGuard::as_mut`]: `work` neither replaces nor drops the allocator or its source.
    #[inline]
    pub unsafe fn run_locked<T>(&self, work: impl FnOnce(&mut Talc<S, B>) -> T) -> T {
        let mut talc = self.mutex.lock();
        let (result, reports) = talc.deferring(work);
        drop(talc);
        reports.report();
        result
    }

    /// Asks the source for memory, and runs `allocate` afterwards, until it succeeds or the source
    /// has no more: see [`Talc::allocate`].
    ///
    /// A source may have refused because the request fitted in a gap, which others have taken
    /// since. So if no gap is found after all, the source is asked once more, and does not refuse
    /// for that reason again: see `Source::acquire_unlocked_again`.
    #[cold]
    #[inline(never)]
    fn allocate_growing<T>(
        &self,
        layout: Layout,
        allocate: impl Fn(&mut Talc<S, B>, Find<S, B>) -> Option<T>,
    ) -> Option<T> {
        let mut progress = Progress::from(self.lock().heap_bytes);
        let mut refusals = 0;
        loop {
            let retry = |talc: &mut Talc<S, B>| {
                let block = allocate(talc, Talc::find_soon);
                (block, progress.continues(talc.heap_bytes))
            };
            let grown = if refusals == 0 {
                S::acquire_unlocked(self, layout, retry)
            } else {
                S::acquire_unlocked_again(self, layout, retry)
            };
            let is_last = match grown {
                Ok((None, true)) => continue,
                Ok((None, false)) => true,
                Ok((block, _)) => return block,
                Err(()) => {
                    refusals += 1;
                    refusals == 2
                }
            };
            let block = self.with(|talc| {
                talc.forget_restored();
                allocate(talc, Talc::find_any)
            });
            if block.is_some() || is_last {
                return block;
            }
        }
    }

    /// Returns the allocator. `&mut self` proves that the lock is free.
    #[inline]
    pub fn get_mut(&mut self) -> &mut Talc<S, B> {
        self.mutex.get_mut()
    }

    /// Returns the allocator without its lock.
    pub fn into_inner(self) -> Talc<S, B> {
        self.mutex.into_inner()
    }
}

/// The lock of a [`TalcLock`] while it is held. It gives access to the methods of [`Talc`] and,
/// through `Deref`, to what needs only `&Talc`: its [`source`](Talc::source), for instance.
///
/// The guard has no `DerefMut`: with a `&mut Talc`, safe code could replace the allocator while its
/// blocks are in use.
///
/// ```compile_fail,E0594
/// use heap::talc::{TalcLock, base::Talc, source::Manual};
///
/// static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);
/// *HEAP.lock() = Talc::new(Manual);
/// ```
pub struct TalcGuard<'a, R: RawMutex, S: Source, B: Binning> {
    talc: MutexGuard<'a, R, Talc<S, B>>,
}

impl<R: RawMutex, S: Source, B: Binning> Deref for TalcGuard<'_, R, S, B> {
    type Target = Talc<S, B>;

    #[inline]
    fn deref(&self) -> &Talc<S, B> {
        &self.talc
    }
}

/// Defines methods that forward to the [`Talc`] method of the same name.
macro_rules! forward {
    ($(unsafe fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        impl<R: RawMutex, S: Source, B: Binning> TalcGuard<'_, R, S, B> {
            $(
                #[doc = concat!("See [`Talc::", stringify!($name), "`].")]
                ///
                /// # Safety
                /// As for the method of [`Talc`].
                #[inline]
                pub unsafe fn $name(&mut self, $($argument: $type),*) $(-> $result)? {
                    // SAFETY: the contract is that of the method of the same name.
                    unsafe { self.talc.$name($($argument),*) }
                }
            )*
        }
    };
}

forward! {
    unsafe fn allocate(layout: Layout) -> Option<NonNull<u8>>;
    unsafe fn try_allocate(layout: Layout) -> Option<NonNull<u8>>;
    unsafe fn allocate_uncleared(layout: Layout) -> Option<Uncleared>;
    unsafe fn deallocate(ptr: *mut u8, layout: Layout);
    unsafe fn try_grow_in_place(ptr: *mut u8, old: Layout, new_size: usize) -> bool;
    unsafe fn shrink(ptr: *mut u8, old: Layout, new_size: usize);
    unsafe fn try_realloc_in_place(ptr: *mut u8, old: Layout, new_size: usize) -> bool;
    unsafe fn claim(base: *mut u8, size: usize) -> Option<NonNull<u8>>;
    unsafe fn claim_zeroed(base: *mut u8, size: usize) -> Option<NonNull<u8>>;
    unsafe fn extend(heap_end: NonNull<u8>, new_end: *mut u8) -> NonNull<u8>;
    unsafe fn extend_zeroed(
        heap_end: NonNull<u8>, new_end: *mut u8, zero_from: *mut u8
    ) -> NonNull<u8>;
    unsafe fn truncate(heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>>;
    unsafe fn resize(heap_end: NonNull<u8>, new_end: *mut u8) -> Option<NonNull<u8>>;
}

impl<R: RawMutex, S: Source, B: Binning> TalcGuard<'_, R, S, B> {
    /// Returns the allocator itself.
    ///
    /// # Safety
    /// Neither the allocator nor its [`source`](Talc::source) is replaced, swapped or dropped,
    /// while any of its allocations is in use, or an allocation, a [`trim`](TalcLock::trim), a
    /// [`drain`](TalcLock::drain), a [`punch`](TalcLock::punch) or a [`decay`](TalcLock::decay) of
    /// it is under way. (Their
    /// sources are called while the lock is free.)
    #[inline]
    pub unsafe fn as_mut(&mut self) -> &mut Talc<S, B> {
        &mut self.talc
    }

    /// Sets the hook to which misuse is reported. See [`Talc::set_hook`].
    #[cfg(feature = "hardened")]
    pub fn set_hook(&mut self, hook: fn(&super::hardened::Report)) {
        self.talc.set_hook(hook);
    }
}

impl<R: RawMutex, S: Source, B: Binning> fmt::Debug for TalcGuard<'_, R, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TalcGuard")
            .field(&self.talc.summary())
            .finish()
    }
}

impl<R: RawMutex, S: Source, B: Binning> SharedTalc for TalcLock<R, S, B> {
    type Source = S;
    type Binning = B;

    #[inline]
    fn with<T>(&self, work: impl FnOnce(&mut Talc<S, B>) -> T) -> T {
        // SAFETY: the methods of `SharedTalc` pass closures that call methods of the allocator.
        // None of them replaces it or its source.
        unsafe { self.run_locked(work) }
    }

    #[inline]
    unsafe fn allocate_sized(&self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.with(|talc| talc.allocate_by(layout, Talc::find_soon));
        if block.is_some() {
            return block;
        }
        self.allocate_growing(layout, |talc, find| talc.allocate_by(layout, find))
    }

    #[inline]
    unsafe fn allocate_uncleared(&self, layout: Layout) -> Option<Uncleared> {
        let block = self.with(|talc| {
            talc.forget_restored();
            talc.allocate_uncleared_by(layout, Talc::find_soon)
        });
        block.or_else(|| {
            self.allocate_growing(layout, |talc, find| {
                talc.allocate_uncleared_by(layout, find)
            })
        })
    }
}

global_alloc!([R: RawMutex, S: Source, B: Binning] TalcLock<R, S, B>);
allocators!([R: RawMutex, S: Source, B: Binning] TalcLock<R, S, B>);

impl<R: RawMutex, S: Source, B: Binning> fmt::Debug for TalcLock<R, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The writer behind `f` may allocate from this lock, so the lock must be free again.
        let summary = self.try_lock().map(|talc| talc.summary());
        match summary {
            Some(summary) => f.debug_tuple("TalcLock").field(&summary).finish(),
            None => f.write_str("TalcLock(<locked>)"),
        }
    }
}
