//! What an allocation takes of a heap, and what a heap takes before its first allocation.
//!
//! ```text
//!      base of the heap        free memory begins
//!      ├──────────┬─┬──────────┬─────────┬──────────────────────────┬─────────────────────┬──────┤
//!      │ not used │t│ metadata │ slack   │ allocation: size() bytes │ CHUNK_OVERHEAD + …  │ free │
//!      └──────────┴─┴──────────┴─────────┴──────────────────────────┴─────────────────────┴──────┘
//!      ├─ heap overhead ───────┤         ├─ chunk: from a multiple of align() ────────────┤
//!                              ├─ at most max_size() bytes ───────────────────────────────┤
//! ```

use core::alloc::Layout;

use super::binning::Binning;
use super::chunk::{CHUNK_UNIT, HEAP_OVERHEAD, chunk_size, unit_ceil};
use super::free_lists::FreeLists;

/// What an allocation takes of the free memory in a heap.
///
/// ```text
///     100 bytes aligned to 64, on a 64-bit machine
///
///     multiple of 16      multiple of 64                       end_above
///     ├─ slack: up to 48 ─┼─ 100 bytes ───────┼─ overhead: 12 ─┤   max_size: 160
///                         ├─ chunk: 112 ───────────────────────┤
/// ```
///
/// A [`Source`](super::source::Source) needs it to tell how much memory to provide. A new heap
/// takes [`next_heap_overhead`](super::Talc::next_heap_overhead) more.
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, ChunkRequirement};
///
/// let requirement = ChunkRequirement::new(Layout::from_size_align(100, 64)?);
/// let chunk = (100 + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT);
/// assert_eq!(requirement.chunk_size(), chunk);
/// assert_eq!(requirement.max_size(), chunk + 64 - CHUNK_UNIT);
/// assert_eq!(requirement.end_above(0x1010), Some(0x1040 + chunk));
/// # Ok::<(), core::alloc::LayoutError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRequirement {
    chunk_size: usize,
    align: usize,
}

impl ChunkRequirement {
    /// Returns the requirement of an allocation of `layout`.
    #[inline]
    pub const fn new(layout: Layout) -> Self {
        let align = layout.align();
        Self {
            chunk_size: chunk_size(layout.size()),
            align: if align < CHUNK_UNIT {
                CHUNK_UNIT
            } else {
                align
            },
        }
    }

    /// Returns the bytes of the chunk: a multiple of [`CHUNK_UNIT`], at least two units.
    #[inline]
    pub const fn chunk_size(self) -> usize {
        self.chunk_size
    }

    /// Returns the alignment of the chunk: at least [`CHUNK_UNIT`].
    #[inline]
    pub const fn align(self) -> usize {
        self.align
    }

    /// Returns the bytes of free memory in which the chunk fits wherever they lie: its size and the
    /// slack that its alignment may cost.
    #[inline]
    pub const fn max_size(self) -> usize {
        // A layout's size and alignment sum to at most isize::MAX + 1, so this cannot overflow.
        self.chunk_size + (self.align - CHUNK_UNIT)
    }

    /// Returns the end of a chunk that is cut from the bottom of free memory at `base`, or `None`
    /// if the end is beyond the address space.
    #[inline]
    pub const fn end_above(self, base: usize) -> Option<usize> {
        match base.checked_next_multiple_of(self.align) {
            Some(aligned) => aligned.checked_add(self.chunk_size),
            None => None,
        }
    }
}

/// The size of the chunk with the list heads, which lies at the base of the first heap.
pub(super) const fn metadata_chunk_size<B: Binning>() -> usize {
    chunk_size(FreeLists::<B>::METADATA_SIZE)
}

/// Bytes from the base of a heap, a multiple of [`CHUNK_UNIT`], to its lowest allocation.
pub(super) const fn heap_overhead<B: Binning>(is_first_heap: bool) -> usize {
    let base_tag = unit_ceil(HEAP_OVERHEAD).expect("it is a few words");
    if is_first_heap {
        base_tag + metadata_chunk_size::<B>()
    } else {
        base_tag
    }
}
