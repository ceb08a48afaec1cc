//! A global allocator whose owner gives memory back after operations, and makes room before an
//! allocation fails.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::Talc;
use super::allocator_impls::{AbortOnUnwind, SharedTalc};
use super::binning::Binning;
use super::lock::TalcLock;
use super::source::Source;

/// What the owner of a [`TalcLock`] does around its operations: see [`TalcLock::reclaiming`].
pub trait ReclaimHooks<S: Source> {
    /// Returns whether [`release`](Self::release) has something to do. Called with the lock held,
    /// after an operation that may have freed memory: it must be cheap.
    fn is_due(&self, source: &S) -> bool;

    /// Gives free memory back to where it came from. Called with the lock free.
    fn release(&self);

    /// Makes room for an allocation that failed. Called with the lock free, before
    /// [`retry`](Self::retry).
    fn reclaim(&self);

    /// Runs `attempt`, which tries an allocation once more and returns whether it succeeded. By
    /// default once; again where the allocation may have failed only because others were busy.
    fn retry(&self, attempt: &mut dyn FnMut() -> bool) {
        attempt();
    }
}

/// The `GlobalAlloc` of a [`TalcLock`] whose owner reclaims memory: see [`TalcLock::reclaiming`].
///
/// ```text
///     dealloc    ├─ lock held: free ─┤ report misuse │ release, if is_due
///     alloc      ├─ lock held: none ─┤ report misuse │ reclaim ├─ lock held: second try ─┤
/// ```
#[derive(Debug)]
pub struct Reclaiming<'a, R: RawMutex, S: Source, B: Binning, O> {
    lock: &'a TalcLock<R, S, B>,
    owner: &'a O,
}

impl<R: RawMutex, S: Source, B: Binning> TalcLock<R, S, B> {
    /// Returns the allocator with the steps of `owner` around its operations.
    ///
    /// An owner that is the global allocator itself forwards to this:
    ///
    /// ```
    /// use core::alloc::{GlobalAlloc, Layout};
    /// use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// use heap::talc::sync::ReclaimHooks;
    /// use heap::talc::{TalcLock, source::Manual};
    ///
    /// struct Heap {
    ///     talc: TalcLock<spin::Mutex<()>, Manual>,
    ///     reclaimed: AtomicUsize,
    /// }
    ///
    /// impl ReclaimHooks<Manual> for Heap {
    ///     fn is_due(&self, _: &Manual) -> bool {
    ///         false
    ///     }
    ///     fn release(&self) {}
    ///     fn reclaim(&self) {
    ///         self.reclaimed.fetch_add(1, Relaxed);
    ///     }
    /// }
    ///
    /// let heap = Heap { talc: TalcLock::new(Manual), reclaimed: AtomicUsize::new(0) };
    /// // SAFETY: the size of a `u64` is not zero.
    /// let block = unsafe { heap.talc.reclaiming(&heap).alloc(Layout::new::<u64>()) };
    /// assert!(block.is_null(), "the heap has no memory");
    /// assert_eq!(heap.reclaimed.load(Relaxed), 1);
    /// ```
    #[inline]
    pub fn reclaiming<'a, O: ReclaimHooks<S>>(
        &'a self,
        owner: &'a O,
    ) -> Reclaiming<'a, R, S, B, O> {
        Reclaiming { lock: self, owner }
    }
}

impl<R: RawMutex, S: Source, B: Binning, O: ReclaimHooks<S>> Reclaiming<'_, R, S, B, O> {
    /// Tries `allocate` again after the owner has made room.
    #[cold]
    fn retry<T>(&self, allocate: impl Fn() -> Option<T>) -> Option<T> {
        self.owner.reclaim();
        let mut block = None;
        self.owner.retry(&mut || {
            block = allocate();
            block.is_some()
        });
        block
    }
}

impl<R: RawMutex, S: Source, B: Binning, O: ReclaimHooks<S>> SharedTalc
    for Reclaiming<'_, R, S, B, O>
{
    type Source = S;
    type Binning = B;

    #[inline]
    fn with<T>(&self, work: impl FnOnce(&mut Talc<S, B>) -> T) -> T {
        let (result, is_due) = self.lock.with(|talc| {
            let result = work(talc);
            (result, self.owner.is_due(&talc.source))
        });
        if is_due {
            self.owner.release();
        }
        result
    }

    fn allocate_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.lock.allocate_block(layout);
        block.or_else(|| self.retry(|| self.lock.allocate_block(layout)))
    }
}

// SAFETY: all blocks come from the lock's allocator, whose `GlobalAlloc` keeps the contract. The
// owner's steps run between its operations and see no block.
unsafe impl<R: RawMutex, S: Source, B: Binning, O: ReclaimHooks<S>> GlobalAlloc
    for Reclaiming<'_, R, S, B, O>
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees that the size is not zero.
        let allocate = || NonNull::new(unsafe { self.lock.alloc(layout) });
        let block = allocate().or_else(|| AbortOnUnwind::during(|| self.retry(allocate)));
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        AbortOnUnwind::during(|| {
            // SAFETY: the caller guarantees that `block` is allocated with this layout.
            self.with(|talc| unsafe { talc.deallocate(block, layout) });
        });
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let block = AbortOnUnwind::during(|| {
            // SAFETY: the caller guarantees that `block` is allocated with this layout, and that
            // `new_size`, rounded up to the alignment, fits in an `isize`.
            unsafe { self.realloc_block(block, layout, new_size) }
        });
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }
}
