//! Memory from an `Allocator`.

use core::alloc::Layout;
use core::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use super::blocks::{self, Backing, Blocks, DEFAULT_BLOCK_SIZE};
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::source::Source;

/// Provides heaps in blocks that it allocates from an [`Allocator`].
///
/// ```text
///      first block   b           c
///      in use        in use      in use
///      in use        spare       in use     all in b is freed: it is no heap, but kept
///      in use        in use      in use     more is needed: b, if that is large enough
///      in use        spare       in use
///      in use                    spare      all in c is freed too: b goes back
///                                           all go back when the allocator is dropped
/// ```
///
/// Each block is a heap with a record above it, as in the diagram of
/// [`GlobalAllocSource`](super::GlobalAllocSource).
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
/// ```
/// use allocator_api2::{alloc::Global, vec::Vec};
/// use heap::source::AllocatorSource;
/// use heap::talc::TalcCell;
///
/// let talc = TalcCell::new(AllocatorSource::new(Global));
/// let mut squares = Vec::new_in(&talc);
/// squares.extend((0..100).map(|n| n * n));
/// ```
#[derive(Debug)]
pub struct AllocatorSource<A: Allocator> {
    blocks: Blocks<From<A>>,
}

impl<A: Allocator> AllocatorSource<A> {
    /// Provides blocks of 64 KiB, or of as many times that as an allocation needs.
    pub const fn new(allocator: A) -> Self {
        Self::with_block_size(allocator, DEFAULT_BLOCK_SIZE)
    }

    /// Provides blocks of `block_size` bytes, or of as many times that as an allocation needs with
    /// all overhead. (If it is less than [`CHUNK_UNIT`](crate::talc::base::CHUNK_UNIT), of that.)
    ///
    /// # Panics
    /// If that is not a power of two.
    pub const fn with_block_size(allocator: A, block_size: usize) -> Self {
        Self {
            blocks: Blocks::new(From(allocator), block_size),
        }
    }
}

/// What the blocks are allocated from.
#[derive(Debug)]
struct From<A>(A);

impl<A: Allocator> Backing for From<A> {
    fn obtain(&self, layout: Layout) -> Option<NonNull<u8>> {
        Some(self.0.allocate(layout).ok()?.cast())
    }

    unsafe fn give_back(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { self.0.deallocate(block, layout) }
    }
}

// SAFETY: it only claims, through the allocator that it was called with, and keeps heaps or gives
// them up as a whole.
unsafe impl<A: Allocator + core::fmt::Debug> Source for AllocatorSource<A> {
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
