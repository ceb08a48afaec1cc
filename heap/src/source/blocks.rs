//! Heaps in blocks of another allocator: what [`GlobalAllocSource`](super::GlobalAllocSource) and
//! [`AllocatorSource`](super::AllocatorSource) have in common.
//!
//! ```text
//!     base of the block                    end of the heap, record: 32 bytes on 64-bit machines
//!      ├─┬──────────────────────────────────────┬───────┬──────────┬──────┬──────┤
//!      │t│ heap                                 │ first │ previous │ next │ size │
//!      └─┴──────────────────────────────────────┴───────┴──────────┴──────┴──────┘
//!      base tag
//! ```
//!
//! A block is one heap while anything in it is in use. Talc tells a source only where a heap ends,
//! so the record of the block begins exactly there. The first block holds the allocator's metadata,
//! and is freed last.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::span::Span;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, ChunkRequirement, Talc};
use crate::talc::owner::OwnerRef;
use crate::talc::source::Source;
use crate::talc::{Corruption, Rule};

/// The default of the number that block sizes are multiples of: 64 KiB.
pub(super) const DEFAULT_BLOCK_SIZE: usize = 1 << 16;

/// Bytes between the end of a heap, a multiple of the unit, and the end of its block.
const RECORD_SIZE: usize = size_of::<BlockRecord>().next_multiple_of(CHUNK_UNIT);

/// An allocator that blocks come from.
pub(super) trait BackingAllocator {
    /// Allocates a block. The size of `layout` is not zero.
    fn allocate(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees a block.
    ///
    /// # Safety
    /// This allocator allocated the block with this layout, and the caller no longer uses it.
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout);
}

/// The record above the heap in each block.
struct BlockRecord {
    /// The record of the first block, which identifies the source that the block belongs to.
    first: NonNull<BlockRecord>,
    /// The previous block in the list. The first block is its own predecessor.
    previous: NonNull<BlockRecord>,
    next: Option<NonNull<BlockRecord>>,
    /// Bytes of the block, this record included.
    size: usize,
}

/// Returns the block that `record` lies in, and the layout with which it was allocated.
///
/// # Safety
/// `record` is the valid record of a block.
unsafe fn block_of(record: NonNull<BlockRecord>) -> (NonNull<u8>, Layout) {
    // SAFETY: the caller vouches that the record is valid.
    let size = unsafe { (*record.as_ptr()).size };
    // SAFETY: the record lies at the top of a block of `size` bytes.
    let base = unsafe { record.cast::<u8>().byte_sub(size - RECORD_SIZE) };
    // SAFETY: the block was allocated with the layout of this size and alignment.
    let layout = unsafe { Layout::from_size_align_unchecked(size, CHUNK_UNIT) };
    (base, layout)
}

/// The blocks that a source has allocated.
#[derive(Debug)]
pub(super) struct Blocks<A: BackingAllocator> {
    /// Dropped after the blocks are freed: it may lie in memory that they use.
    backing: ManuallyDrop<A>,
    /// The allocator that the blocks are for.
    owner: OwnerRef,
    /// The first block of the doubly linked list of all blocks that are heaps.
    first: Option<NonNull<BlockRecord>>,
    /// The block that was a heap and became empty last. It stays until another becomes empty, so
    /// that one allocation more and one less do not allocate and free a block each time.
    spare: Option<NonNull<BlockRecord>>,
    /// A power of two. The size of each block is a multiple of it.
    block_size: usize,
}

// SAFETY: the records are reached through this value only, and blocks may be freed on any thread to
// which the backing allocator may be sent.
unsafe impl<A: BackingAllocator + Send> Send for Blocks<A> {}

impl<A: BackingAllocator> Blocks<A> {
    pub(super) const fn new(backing: A, block_size: usize) -> Self {
        assert!(
            block_size.is_power_of_two(),
            "the block size is not a power of two"
        );
        Self {
            backing: ManuallyDrop::new(backing),
            owner: OwnerRef::new(),
            first: None,
            spare: None,
            block_size: if block_size < CHUNK_UNIT {
                CHUNK_UNIT
            } else {
                block_size
            },
        }
    }

    /// Implements [`Source::resize`]: keeps a heap as it is, unless it is empty.
    ///
    /// # Safety
    /// As for [`Source::resize`], and [`acquire`] claimed the heap.
    #[inline]
    pub(super) unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        // SAFETY: `acquire` claimed the heap, which is empty if `is_heap_base`.
        if is_heap_base && unsafe { self.retire(heap_end) } {
            chunk_base
        } else {
            heap_end
        }
    }

    /// Makes the block of an empty heap the spare block, and frees the spare block before it.
    /// Returns `false` if the heap belongs to another source.
    ///
    /// # Safety
    /// An empty heap that [`acquire`] claimed ends at `heap_end`.
    #[cold]
    unsafe fn retire(&mut self, heap_end: *mut u8) -> bool {
        // SAFETY: a heap lies below `heap_end`, which is therefore not null.
        let record = unsafe { NonNull::new_unchecked(heap_end) }.cast::<BlockRecord>();
        // SAFETY: a valid record begins where each heap ends.
        let first = unsafe { (*record.as_ptr()).first };
        if self.first != Some(first) {
            return false;
        }
        // SAFETY: the heap is in the list of its source. The first block holds the metadata, so an
        // empty block is not the first.
        unsafe { self.unlink(record) };
        if let Some(spare) = self.spare.replace(record) {
            // SAFETY: the record of a spare block is valid, and no heap lies in the block.
            unsafe { self.free_block(spare) };
        }
        true
    }

    /// Returns a block whose heap has room for `layout`: the spare block if it is large enough, or
    /// a new one.
    fn take_block(
        &mut self,
        layout: Layout,
        heap_overhead: usize,
    ) -> Option<(NonNull<u8>, Layout)> {
        let layout = self.block_layout(layout, heap_overhead)?;
        if let Some(spare) = self.spare {
            // SAFETY: the record of a spare block is valid.
            let (base, spare_layout) = unsafe { block_of(spare) };
            if spare_layout.size() >= layout.size() {
                self.spare = None;
                return Some((base, spare_layout));
            }
        }
        Some((self.backing.allocate(layout)?, layout))
    }

    /// Returns the layout of the smallest block whose heap has room for `layout`.
    fn block_layout(&self, layout: Layout, heap_overhead: usize) -> Option<Layout> {
        let size = ChunkRequirement::new(layout)
            .max_size()
            .checked_add(heap_overhead + RECORD_SIZE)?
            .checked_next_multiple_of(self.block_size)?;
        Layout::from_size_align(size, CHUNK_UNIT).ok()
    }

    /// Frees the block that `record` lies in.
    ///
    /// # Safety
    /// `record` is the valid record of a block, and neither is used afterwards.
    unsafe fn free_block(&self, record: NonNull<BlockRecord>) {
        // SAFETY: the caller vouches that the record is valid.
        let (block, layout) = unsafe { block_of(record) };
        // SAFETY: `take_block` allocated the block with this layout, and the caller vouches that
        // it is not used afterwards.
        unsafe { self.backing.deallocate(block, layout) };
    }

    /// Writes the record of a block, which is now a heap, and enters it as the second of the list,
    /// or as the first if the list is empty.
    ///
    /// # Safety
    /// `record` lies [`RECORD_SIZE`] below the top of a block of `size` bytes, which is in no list.
    unsafe fn link(&mut self, record: NonNull<BlockRecord>, size: usize) {
        let first = *self.first.get_or_insert(record);
        let next = if first == record {
            None
        } else {
            // SAFETY: records of blocks in the list are valid.
            unsafe { (*first.as_ptr()).next.replace(record) }
        };
        let new = BlockRecord {
            first,
            previous: first,
            next,
            size,
        };
        // SAFETY: the caller vouches that `record` is the room for a record in the block.
        unsafe { record.write(new) };
        if let Some(next) = next {
            // SAFETY: `next` was in the list before, so its record is valid.
            unsafe { (*next.as_ptr()).previous = record };
        }
    }

    /// Takes a block out of the list.
    ///
    /// # Safety
    /// `record` is in the list, and not the first.
    unsafe fn unlink(&mut self, record: NonNull<BlockRecord>) {
        // SAFETY: the caller vouches that the record is in the list, where records are valid.
        let BlockRecord { previous, next, .. } = unsafe { record.read() };
        // SAFETY: the record is not the first, so its predecessor is another valid record.
        unsafe { (*previous.as_ptr()).next = next };
        if let Some(next) = next {
            // SAFETY: the links of a record in the list lead to valid records.
            unsafe { (*next.as_ptr()).previous = previous };
        }
    }
}

/// Frees all blocks, and drops the backing allocator. If the allocator that owns the heaps still
/// exists, both are leaked: it may use the blocks. The spare block is freed in any case.
impl<A: BackingAllocator> Drop for Blocks<A> {
    fn drop(&mut self) {
        if let Some(spare) = self.spare {
            // SAFETY: the record of a spare block is valid, and no heap lies in the block.
            unsafe { self.free_block(spare) };
        }
        if self.owner.is_owner_alive() {
            return;
        }
        let mut next = self.first;
        while let Some(record) = next {
            // SAFETY: records in the list are valid, and this block is not freed yet.
            next = unsafe { (*record.as_ptr()).next };
            // SAFETY: the allocator of the heap was dropped, and the link to the next block was
            // read.
            unsafe { self.free_block(record) };
        }
        // SAFETY: `drop` runs once, and all blocks are freed.
        unsafe { ManuallyDrop::drop(&mut self.backing) };
    }
}

/// Implements [`Source::acquire`] for a source whose blocks `blocks` returns.
pub(super) fn acquire<S: Source, B: Binning, A: BackingAllocator>(
    talc: &mut Talc<S, B>,
    layout: Layout,
    blocks: impl Fn(&mut S) -> &mut Blocks<A>,
) -> Result<(), ()> {
    let heap_overhead = talc.next_heap_overhead();
    let source = blocks(&mut talc.source);
    if !source.owner.is_bound_to(&talc.owner_token) {
        return Err(());
    }
    let (base, layout) = source.take_block(layout, heap_overhead).ok_or(())?;
    let heap_size = layout.size() - RECORD_SIZE;
    // SAFETY: the block is larger than the heap, by the size of a record.
    let record: NonNull<BlockRecord> = unsafe { base.byte_add(heap_size) }.cast();
    // SAFETY: the source owns the block, and no heap lies in it.
    let heap_end = unsafe { talc.claim(base.as_ptr(), heap_size) };
    if heap_end.is_none() {
        let backing = &blocks(&mut talc.source).backing;
        // SAFETY: `take_block` allocated the block with this layout, and no heap was claimed in it.
        unsafe { backing.deallocate(base, layout) };
        return Err(());
    }
    debug_assert_eq!(heap_end, Some(record.cast()));
    // SAFETY: a heap was claimed, so the flag exists.
    let flag = unsafe { talc.owner_flag() };
    let source = blocks(&mut talc.source);
    // SAFETY: the record lies above the heap at the top of the block, which is in no list.
    unsafe { source.link(record, layout.size()) };
    // SAFETY: the flag lies in the first heap, whose block is freed only after the flag is set.
    unsafe { source.owner.bind(&mut talc.owner_token, flag) };
    Ok(())
}

/// Implements [`Source::check`] for a source whose blocks `blocks` returns.
pub(super) fn check<S: Source, B: Binning, A: BackingAllocator>(
    talc: &Talc<S, B>,
    blocks: impl Fn(&S) -> &Blocks<A>,
) -> Result<(), Corruption> {
    let blocks = blocks(&talc.source);
    if !blocks.owner.is_bound_to(&talc.owner_token) {
        return Ok(());
    }
    let (mut previous, mut next) = (blocks.first, blocks.first);
    while let Some(at) = next {
        // SAFETY: records in the list are valid, and nothing writes to them while the allocator is
        // borrowed.
        let record = unsafe { at.as_ref() };
        if Some(record.first) != blocks.first || Some(record.previous) != previous {
            let (address, rule) = (at.addr().get(), Rule::Record("its place in the list"));
            return Err(Corruption { address, rule });
        }
        // SAFETY: records in the list are valid.
        let (base, _) = unsafe { block_of(at) };
        // SAFETY: the heap in the block begins at its base, and ends where the record begins.
        unsafe { talc.check_heap(Span::new(base.as_ptr(), at.cast().as_ptr()))? };
        (previous, next) = (Some(at), record.next);
    }
    Ok(())
}
