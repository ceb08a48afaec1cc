//! Memory from a `GlobalAlloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use lock_api::RawMutex;

use super::blocks::{self, Backing, Blocks, DEFAULT_BLOCK_SIZE};
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::cell::{TalcCell, TalcSyncCell};
use crate::talc::source::Source;
use crate::talc::sync::TalcLock;

/// A [`GlobalAlloc`] whose blocks stay valid when it is moved, which `GlobalAlloc` alone does not promise.
///
/// Implemented for this crate's allocators and, with the feature `std`, for `std::alloc::System`.
///
/// A [`Bump`](crate::bump::Bump) has its memory inside, and is no such allocator. A reference to one is:
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
/// // SAFETY: all is done by `MEMORY`.
/// unsafe impl GlobalAlloc for InMemory {
///     unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
///         // SAFETY: the caller's duty.
///         unsafe { GlobalAlloc::alloc(&MEMORY, layout) }
///     }
///     unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
///         // SAFETY: the caller's duty.
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
/// Blocks that were allocated stay where they are, and usable, until they are freed or the allocator is
/// dropped, wherever it is moved to.
pub unsafe trait StableGlobalAlloc: GlobalAlloc {}

// SAFETY: its blocks are the operating system's.
#[cfg(any(test, feature = "std"))]
unsafe impl StableGlobalAlloc for std::alloc::System {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<R: RawMutex, S: Source, B: Binning> StableGlobalAlloc for TalcLock<R, S, B> {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<S: Source, B: Binning> StableGlobalAlloc for TalcCell<S, B> {}

// SAFETY: blocks lie in heaps, and memory that a `Source` has granted stays valid when it is moved.
unsafe impl<S: Source, B: Binning> StableGlobalAlloc for TalcSyncCell<S, B> {}

/// Provides heaps in blocks that it allocates from a [`GlobalAlloc`] that can be
/// [moved](StableGlobalAlloc).
///
/// ```text
///     on a 64-bit machine; the first block: 64 KiB            another: 128 KiB
///    ┌─┬────────────┬──────────────────────────┬────────┐    ┌─┬───────────────┬────────┐
///    │t│ list heads │ chunks and gaps          │ record │    │t│ chunks, gaps  │ record │
///    └─┴────────────┴──────────────────────────┴────────┘    └─┴───────────────┴────────┘
///    ├─ heap: 65,504 bytes ────────────────────┼── 32 ──┤    ├─ 131,040 ───────┼── 32 ──┤
/// ```
///
/// A block goes back when nothing in it is in use any more; of these the latest is kept until there
/// is another, for the case that it is wanted again. The first block, which holds the allocator's
/// metadata, and all that are in use go back when the allocator is dropped.
///
/// Manual heap management ([`Talc::claim`], [`Talc::extend`], [`Talc::truncate`], [`Talc::resize`])
/// is forbidden with this source: it relies on a record of its own at the end of each heap.
///
/// A source serves one allocator. Moved to another it provides nothing, and when it is dropped while
/// its allocator is alive, its blocks are never given back.
///
/// [`AllocatorSource`](super::AllocatorSource) does the same with an `Allocator`. Its diagram shows
/// how blocks come and go.
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
#[derive(Debug)]
pub struct GlobalAllocSource<G: StableGlobalAlloc> {
    blocks: Blocks<From<G>>,
}

impl<G: StableGlobalAlloc> GlobalAllocSource<G> {
    /// Provides blocks of 64 KiB, or of as many times that as an allocation needs.
    pub const fn new(allocator: G) -> Self {
        Self::with_block_size(allocator, DEFAULT_BLOCK_SIZE)
    }

    /// Provides blocks of `block_size` bytes, or of as many times that as an allocation needs with
    /// all overhead. (If it is less than [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT), of that.)
    ///
    /// # Panics
    /// If that is not a power of two.
    pub const fn with_block_size(allocator: G, block_size: usize) -> Self {
        Self {
            blocks: Blocks::new(From(allocator), block_size),
        }
    }
}

/// What the blocks are allocated from.
#[derive(Debug)]
struct From<G>(G);

impl<G: StableGlobalAlloc> Backing for From<G> {
    fn obtain(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: a block's size is not zero.
        NonNull::new(unsafe { self.0.alloc(layout) })
    }

    unsafe fn give_back(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.dealloc(block.as_ptr(), layout) }
    }
}

// SAFETY: it only claims, through the allocator that it was called with, and keeps heaps or gives
// them up as a whole.
unsafe impl<G: StableGlobalAlloc + core::fmt::Debug> Source for GlobalAllocSource<G> {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        blocks::acquire(talc, layout, |source| &mut source.blocks)
    }

    fn check<B: Binning>(talc: &Talc<Self, B>) -> Result<(), Corruption> {
        blocks::check(talc, |source| &source.blocks)
    }

    #[inline]
    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        // SAFETY: the caller's duty; all heaps were acquired.
        unsafe { self.blocks.resize(chunk_base, heap_end, is_heap_base) }
    }
}
