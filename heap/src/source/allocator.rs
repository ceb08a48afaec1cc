//! [`AllocatorSource`]: memory from an `Allocator`.

use core::alloc::Layout;
use core::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use super::block_source::block_source;
use super::blocks::{self, BackingAllocator, Blocks, DEFAULT_BLOCK_SIZE};
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::source::Source;

block_source! {
    /// Provides heaps in blocks that it allocates from an [`Allocator`].
    ///
    /// [`GlobalAllocSource`](super::GlobalAllocSource) does the same with a `GlobalAlloc`.
    ///
    /// ```
    /// use allocator_api2::{alloc::Global, vec::Vec};
    /// use heap::source::AllocatorSource;
    /// use heap::talc::TalcCell;
    ///
    /// let talc = TalcCell::new(AllocatorSource::new(Global));
    /// let mut squares = Vec::new_in(&talc);
    /// squares.extend((0..100).map(|n| n * n));
    /// ```
    pub struct AllocatorSource<A: Allocator> {
        blocks: Blocks<FromAllocator<A>>,
    }
}

/// An [`Allocator`] that blocks come from.
#[derive(Debug)]
struct FromAllocator<A>(A);

impl<A> FromAllocator<A> {
    const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

impl<A: Allocator> BackingAllocator for FromAllocator<A> {
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        Some(self.0.allocate(layout).ok()?.cast())
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches that `allocate` returned the block for this layout.
        unsafe { self.0.deallocate(block, layout) }
    }
}
