//! The trait [`Source`]: where a Talc heap gets its memory. Implementations are in
//! [`crate::source`].

use core::alloc::Layout;
use core::fmt::Debug;
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::binning::Binning;
use super::lock::TalcLock;
use super::{Corruption, Talc};

pub use super::manual::Manual;
// Compatibility with crate `talc` 5, whose module `source` has these paths. Their own module is
// `crate::source`. Nothing else in `crate::talc` names an implementation.
#[doc(no_inline)]
pub use crate::source::{AllocatorSource, Claim, GlobalAllocSource};

/// Gives memory to a [`Talc`] that has too little, and may take back what has become free.
///
/// ```text
///     Talc                                                          Source
///      │ nothing fits         ── acquire(&mut Talc, layout) ─────────> │
///      │                      <── claim, or extend ─────────────────── │
///      │ tries again          <── Ok ───────────────────────────────── │
///      │                                                               │
///      │ a heap's top is free ── resize(chunk_base, heap_end, …) ────> │  if TRACK_HEAP_END
///      │ gives up the memory  <── the new end of the heap ──────────── │
///      │ above the new end
/// ```
///
/// # Safety
/// The implementor guarantees:
/// * [`acquire`](Source::acquire), [`resize`](Source::resize) and `clone` use the allocator that
///   calls them through their arguments only. They do not lock it again. If it is the global
///   allocator, they create no `Box` and print nothing.
/// * [`acquire_unlocked`](Source::acquire_unlocked) runs `retry` with the allocator in `lock`,
///   while the lock is held. It does not allocate from it.
/// * Memory that the source has granted stays valid when the source is moved.
/// * The result of [`resize`](Source::resize) is one that its documentation allows.
///
/// # Example
/// This source claims pages one by one. It ignores the layout, unlike `ArenaSource`, for example:
/// an allocation of more than a page fails.
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::base::{Talc, binning::Binning};
/// use heap::talc::{TalcCell, source::Source};
///
/// /// The pages that are left.
/// #[derive(Debug)]
/// struct Pages(std::slice::IterMut<'static, [u8; 4096]>);
///
/// // SAFETY: `acquire` claims through its argument only, and `resize` keeps each heap as it is.
/// unsafe impl Source for Pages {
///     fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
///         let page = talc.source.0.next().ok_or(())?;
///         // SAFETY: the page belongs to this source, which hands it out once.
///         let end = unsafe { talc.claim(page.as_mut_ptr(), page.len()) };
///         end.map(|_| ()).ok_or(())
///     }
/// }
///
/// # use allocator_api2::vec::Vec;
/// let talc = TalcCell::new(Pages(Box::leak(Box::new([[0; 4096]; 4])).iter_mut()));
/// let mut squares = Vec::new_in(&talc);
/// squares.extend((0..100).map(|n| n * n));
/// ```
pub unsafe trait Source: Debug + Sized {
    /// Whether Talc calls [`resize`](Source::resize). A source that never takes memory back leaves
    /// this `false` and saves the cost of the calls.
    const TRACK_HEAP_END: bool = false;

    /// Whether the source may grant memory that is zero, by [`Talc::claim_zeroed`] and
    /// [`Talc::extend_zeroed`]. Then `alloc_zeroed` need not clear such memory. It also needs
    /// [`TRACK_HEAP_END`](Source::TRACK_HEAP_END).
    const GRANTS_ZEROED: bool = false;

    /// Whether the source makes holes without a tag, and so needs [`takes_tag`](Source::takes_tag).
    #[doc(hidden)]
    const LEAVES_OUT_TAGS: bool = false;

    /// Called before a chunk at a multiple of 4,096 is freed, if the allocator has holes without a
    /// tag. Returns whether the chunk below is one. Then the lowest unit of the freed chunk becomes
    /// a part of it, with the tag. Returns `None` if the source does not know: it is not the one
    /// that made them.
    ///
    /// Only a source of this crate can make such holes.
    ///
    /// # Safety
    /// The caller writes the tag if the result is `true`.
    #[doc(hidden)]
    unsafe fn takes_tag<B: Binning>(talc: &mut Talc<Self, B>, base: NonNull<u8>) -> Option<bool> {
        let _ = (talc, base);
        Some(false)
    }

    /// Gives the allocator more memory, so that `layout` fits, by [`Talc::claim`] or
    /// [`Talc::extend`]. The source itself is at `talc.source`. This function does not unwind.
    ///
    /// After `Ok` the allocator searches again. If the layout still does not fit, it calls again:
    /// as long as the heaps become larger, and at most 8 times when they do not. After `Err` the
    /// allocation fails, unless an exhaustive search of the free lists finds a gap.
    ///
    /// [`ChunkRequirement`](crate::talc::base::ChunkRequirement) tells what an allocation of
    /// `layout` takes, and [`Talc::next_heap_overhead`] what a new heap takes in addition.
    ///
    /// # Errors
    /// When the source has no more memory.
    #[expect(
        clippy::result_unit_err,
        reason = "the only error is that there is no more memory"
    )]
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()>;

    /// Gives the allocator behind a lock more memory, so that `layout` fits, then runs `retry` with
    /// the allocator. [`TalcLock`] calls this instead of [`acquire`](Source::acquire), with the
    /// lock free.
    ///
    /// ```text
    ///     by default         lock ─ acquire ─ retry ─ unlock
    ///     a source of pages  lock ─ reserve ─ unlock ─ map ─ lock ─ extend ─ retry ─ unlock
    /// ```
    ///
    /// A source that takes long to get memory reserves what it needs while the lock is held, gets
    /// it while the lock is free, and gives it to the allocator under the lock again. Others
    /// allocate and free meanwhile. The source must cope with that, and with calls that begin
    /// before this one has ended, on other CPUs or in interrupt handlers.
    ///
    /// No other code uses the allocator between what the source gives and `retry`. Returns the
    /// result of `retry`. The allocator calls again if the layout still does not fit, as often as
    /// `acquire`.
    ///
    /// # Errors
    /// When the source has no more memory. `retry` was not called.
    #[expect(
        clippy::result_unit_err,
        reason = "the only error is that there is no more memory"
    )]
    fn acquire_unlocked<R: RawMutex, B: Binning, T>(
        lock: &TalcLock<R, Self, B>,
        layout: Layout,
        retry: impl FnOnce(&mut Talc<Self, B>) -> T,
    ) -> Result<T, ()> {
        // SAFETY: neither `acquire` nor `retry` replaces or drops the allocator or its source.
        unsafe {
            lock.run_locked(|talc| {
                Self::acquire(talc, layout)?;
                Ok(retry(talc))
            })
        }
    }

    /// Does what [`acquire_unlocked`](Source::acquire_unlocked) does, after that has refused and
    /// all gaps were searched in vain: others may have taken the gap in which the layout fitted. So
    /// the source must not refuse again because such a gap exists.
    ///
    /// # Errors
    /// When the source has no more memory. `retry` was not called.
    #[doc(hidden)]
    #[expect(
        clippy::result_unit_err,
        reason = "the only error is that there is no more memory"
    )]
    fn acquire_unlocked_again<R: RawMutex, B: Binning, T>(
        lock: &TalcLock<R, Self, B>,
        layout: Layout,
        retry: impl FnOnce(&mut Talc<Self, B>) -> T,
    ) -> Result<T, ()> {
        Self::acquire_unlocked(lock, layout, retry)
    }

    /// Compares the records that the source keeps of its heaps with the heaps, for [`Talc::check`].
    ///
    /// # Errors
    /// Returns the first difference. By default there is nothing to compare.
    fn check<B: Binning>(talc: &Talc<Self, B>) -> Result<(), Corruption> {
        let _ = talc;
        Ok(())
    }

    /// Returns where a heap ends from now on, after the free range at its top has grown.
    ///
    /// ```text
    ///                chunk_base     returned       heap_end
    ///     ┄──────────┬──────────────┬──────────────┐
    ///      in use    │ free, stays  │ the source's │   from now on
    ///     ┄──────────┴──────────────┴──────────────┘
    /// ```
    ///
    /// * `chunk_base` is where the free range begins, and the lowest end that the heap can have.
    ///   The memory from there to `heap_end` is free, but still belongs to the allocator.
    /// * `heap_end` is where the heap ends now. A source that keeps the heap as it is returns it.
    /// * `is_heap_base` is true when the heap is empty: returning `chunk_base` then deletes the
    ///   heap. Its base is [`HEAP_OVERHEAD`](crate::talc::base::HEAP_OVERHEAD) below `chunk_base`,
    ///   or less than a unit more.
    ///
    /// After this call the allocator neither reads nor writes above the returned end. During the
    /// call the source may write between the end that it returns and `heap_end`: the allocator has
    /// stored nothing there that it reads again.
    ///
    /// Talc calls this for every deallocation and every shrinking that frees memory at the top of a
    /// heap, so an implementation begins with a cheap test. It does not unwind.
    ///
    /// # Safety
    /// The caller guarantees that both pointers are multiples of
    /// [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT), and that the heap is empty exactly if
    /// `is_heap_base`.
    ///
    /// The implementor guarantees that the returned end is such a multiple and not below
    /// `chunk_base`. If that end is above `heap_end`, the memory between them meets the conditions
    /// of [`Talc::extend`].
    #[inline]
    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let _ = (chunk_base, is_heap_base);
        heap_end
    }
}
