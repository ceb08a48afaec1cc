//! Where a Talc heap gets its memory.

use core::alloc::Layout;
use core::fmt::Debug;

use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;

mod allocator;
mod arena;
mod blocks;
mod claim;
mod global_alloc;
mod manual;
mod tie;

pub use self::allocator::AllocatorSource;
pub use self::arena::{ArenaHeap, ArenaSource, DrainError};
pub use self::claim::Claim;
pub use self::global_alloc::{GlobalAllocSource, StableGlobalAlloc};
pub use self::manual::Manual;
pub(crate) use self::tie::Tie;

/// Gives memory to a [`Talc`] that has not enough, and may take back what has become free.
///
/// ```text
///     Talc                                                          Source
///      │ nothing fits         ── acquire(&mut Talc, layout) ─────────> │
///      │                      <── claim, or extend ─────────────────── │
///      │ tries again          <── Ok ───────────────────────────────── │
///      │                                                               │
///      │ a heap's top is free ── resize(chunk_base, heap_end, …) ────> │  if TRACK_HEAP_END
///      │ gives up what is     <── where the heap shall end ─────────── │
///      │ above that
/// ```
///
/// # Safety
/// An implementor guarantees:
/// * [`acquire`](Source::acquire) and [`resize`](Source::resize) use the allocator that calls them
///   through their arguments only. They do not allocate from it in another way: not through the lock
///   around it, nor, if it is the global allocator, by way of a `Box` or a `println!`. Nor does its
///   `clone`, if it has one.
/// * What it grants stays valid when it is moved.
/// * What [`resize`](Source::resize) returns is as described there.
///
/// # Example
/// A source that claims pages one by one. (Those in this module look at the layout too.)
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::base::{Talc, binning::Binning};
/// use heap::talc::{TalcCell, source::Source};
///
/// /// What is left.
/// #[derive(Debug)]
/// struct Pages(std::slice::IterMut<'static, [u8; 4096]>);
///
/// // SAFETY: it claims through its argument only, and keeps heaps as they are.
/// unsafe impl Source for Pages {
///     fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
///         let page = talc.source.0.next().ok_or(())?;
///         // SAFETY: the page is this source's, and handed out once.
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
    /// Whether [`resize`](Source::resize) is to be called. Most sources never take memory back and
    /// save its cost.
    const TRACK_HEAP_END: bool = false;

    /// Whether it may grant memory that is zero, by [`Talc::claim_zeroed`] and
    /// [`Talc::extend_zeroed`], so that `alloc_zeroed` need not clear it. This needs
    /// [`TRACK_HEAP_END`](Source::TRACK_HEAP_END) too.
    const GRANTS_ZEROED: bool = false;

    /// Gives the allocator more memory, so that `layout` fits, by [`Talc::claim`] or
    /// [`Talc::extend`]. The source itself is at `talc.source`.
    ///
    /// A chunk takes [`CHUNK_OVERHEAD`](crate::talc::base::CHUNK_OVERHEAD) bytes more than
    /// `layout.size()`, up to a multiple of [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT), and at
    /// least two units. Alignments above the unit need slack, and a new heap
    /// [`HEAP_OVERHEAD`](crate::talc::base::HEAP_OVERHEAD), up to a multiple of the unit.
    /// After `Ok` the allocator tries again, and if the layout still does not fit, calls again: as long as
    /// the heaps become larger, and at most 8 times when they do not. After `Err` the allocation fails,
    /// unless a gap is found that the first search did not look at. This function does not unwind.
    ///
    /// ```text
    ///     what 100 bytes aligned to 64 take at most, on a 64-bit machine
    ///
    ///     where a heap ends         ├─ slack: up to 48 ─┼─ chunk: 112 ─┤   160
    ///     in a new heap        ├ 16 ┼─ slack: up to 48 ─┼─ chunk: 112 ─┤   176, if aligned to 16
    ///                           base tag
    /// ```
    ///
    /// # Errors
    /// If it has no more memory.
    #[expect(
        clippy::result_unit_err,
        reason = "there is nothing to say but that there is no more"
    )]
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()>;

    /// Compares what the source has noted of its heaps with the heaps, for [`Talc::check`].
    ///
    /// # Errors
    /// The first difference. There is none by default.
    fn check<B: Binning>(talc: &Talc<Self, B>) -> Result<(), Corruption> {
        let _ = talc;
        Ok(())
    }

    /// Says where a heap shall end from now on, when the free range at its top has grown.
    ///
    /// ```text
    ///                chunk_base     returned       heap_end
    ///     ┄──────────┬──────────────┬──────────────┐
    ///      in use    │ free, stays  │ the source's │   from now on
    ///     ┄──────────┴──────────────┴──────────────┘
    /// ```
    ///
    /// * `chunk_base` is where the free range begins: the lowest end that the heap can have. The
    ///   memory up to `heap_end` is not in use, but still the allocator's.
    /// * `heap_end` is where the heap ends. Whoever wants to keep it there returns it.
    /// * `is_heap_base` says that nothing is left in the heap: returning `chunk_base` deletes it. It
    ///   began [`HEAP_OVERHEAD`](crate::talc::base::HEAP_OVERHEAD) below `chunk_base`, or less than a
    ///   unit more.
    ///
    /// When this returns, the allocator neither reads nor writes anything above the end that it
    /// returned. Until it returns, the allocator has nothing stored between `chunk_base` and
    /// `heap_end` that it will read again: the source may write there, above the end that it returns.
    ///
    /// It is called for every deallocation and every shrinking that frees memory at the top of a
    /// heap, so it begins with a cheap test. It does not unwind.
    ///
    /// # Safety
    /// The caller guarantees that both pointers are multiples of
    /// [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT), and that `is_heap_base` says what is so.
    ///
    /// The implementor guarantees that what it returns is such a multiple, not below `chunk_base`,
    /// and that memory above `heap_end` up to there, if any, is given as by [`Talc::extend`].
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
