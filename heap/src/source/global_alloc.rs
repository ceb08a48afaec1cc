//! [`GlobalAllocSource`]: memory from a `GlobalAlloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::block_source::block_source;
use super::blocks::{self, BackingAllocator, Blocks, DEFAULT_BLOCK_SIZE};
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::cell::{TalcCell, TalcSyncCell};
use crate::talc::source::Source;
use crate::talc::sync::TalcLock;

block_source! {
    /// Provides heaps in blocks that it allocates from a [`GlobalAlloc`] that
    /// [can be moved](StableGlobalAlloc).
    ///
    /// [`AllocatorSource`](super::AllocatorSource) does the same with an `Allocator`.
    ///
    /// ```
    /// use std::alloc::System;
    ///
    /// use allocator_api2::vec::Vec;
    /// use heap::source::GlobalAllocSource;
    /// use heap::talc::TalcCell;
    ///
    /// let talc = TalcCell::new(GlobalAllocSource::new(System));
    /// let mut squares = Vec::new_in(&talc);
    /// squares.extend((0..100).map(|n| n * n));
    /// ```
    pub struct GlobalAllocSource<G: StableGlobalAlloc> {
        blocks: Blocks<FromGlobalAlloc<G>>,
    }
}

/// A [`GlobalAlloc`] whose blocks stay valid when it is moved. `GlobalAlloc` alone does not promise
/// this.
///
/// The allocators of this crate and, with the feature `std`, `std::alloc::System` implement it.
///
/// A [`Bump`](crate::bump::Bump) has its memory inside, so it cannot implement this trait. A type
/// that refers to a static `Bump` can:
///
/// ```
/// use std::alloc::{GlobalAlloc, Layout};
///
/// use heap::bump::Bump;
/// use heap::source::{GlobalAllocSource, StableGlobalAlloc};
///
/// static MEMORY: Bump<[u8; 1 << 20]> = Bump::uninit();
///
/// #[derive(Debug)]
/// struct InMemory;
///
/// // SAFETY: `MEMORY` meets the conditions of the trait.
/// unsafe impl GlobalAlloc for InMemory {
///     unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
///         // SAFETY: the caller promises that the size is not zero.
///         unsafe { GlobalAlloc::alloc(&MEMORY, layout) }
///     }
///     unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
///         // SAFETY: the caller promises that `alloc` returned the block for this layout.
///         unsafe { GlobalAlloc::dealloc(&MEMORY, block, layout) }
///     }
/// }
///
/// // SAFETY: the blocks lie in a static.
/// unsafe impl StableGlobalAlloc for InMemory {}
///
/// let source = GlobalAllocSource::new(InMemory);
/// ```
///
/// ```compile_fail,E0277
/// use heap::{bump::Bump, source::GlobalAllocSource};
///
/// let source = GlobalAllocSource::new(Bump::<[u8; 1 << 20]>::uninit());
/// ```
///
/// # Safety
/// Moving the allocator neither moves nor invalidates a block. Each block stays usable until it is
/// freed or the allocator is dropped.
pub unsafe trait StableGlobalAlloc: GlobalAlloc {}

// SAFETY: `System` is zero-sized, and its blocks are the operating system's.
#[cfg(any(test, feature = "std"))]
unsafe impl StableGlobalAlloc for std::alloc::System {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<R: RawMutex, S: Source, B: Binning> StableGlobalAlloc for TalcLock<R, S, B> {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<S: Source, B: Binning> StableGlobalAlloc for TalcCell<S, B> {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<S: Source, B: Binning> StableGlobalAlloc for TalcSyncCell<S, B> {}

/// A [`GlobalAlloc`] that blocks come from.
#[derive(Debug)]
struct FromGlobalAlloc<G>(G);

impl<G> FromGlobalAlloc<G> {
    const fn new(allocator: G) -> Self {
        Self(allocator)
    }
}

impl<G: StableGlobalAlloc> BackingAllocator for FromGlobalAlloc<G> {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the size of a block is not zero.
        NonNull::new(unsafe { self.0.alloc(layout) })
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches that `allocate` returned the block for this layout.
        unsafe { self.0.dealloc(block.as_ptr(), layout) }
    }
}
