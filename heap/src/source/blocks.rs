//! Heaps in blocks of another allocator: what [`GlobalAllocSource`](super::GlobalAllocSource) and
//! [`AllocatorSource`](super::AllocatorSource) have in common.
//!
//! ```text
//!     base of the block                    end of the heap
//!      ├─┬──────────────────────────────────────┬────────┤
//!      │t│ heap                                 │ record │
//!      └─┴──────────────────────────────────────┴────────┘
//!      base tag
//! ```
//!
//! Each block is one heap, for as long as anything in it is in use. The first one holds the
//! allocator's metadata, and so goes last.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::span::Span;
use crate::talc::base::binning::Binning;
use crate::talc::base::{CHUNK_UNIT, Footprint, Talc};
use crate::talc::owner::OwnerRef;
use crate::talc::source::Source;
use crate::talc::{Corruption, Rule};

/// Blocks are this large, or twice this, and so on: 64 KiB.
pub(super) const DEFAULT_BLOCK_SIZE: usize = 1 << 16;

/// Bytes for a record. The heap below it ends at a multiple of the unit.
const RECORD_SIZE: usize = size_of::<Record>().next_multiple_of(CHUNK_UNIT);

/// What lies above the heap in each block.
struct Record {
    /// The record of the first block. It says whose this block is.
    first: NonNull<Record>,
    /// The block before this one in the list. The first is before itself.
    previous: NonNull<Record>,
    next: Option<NonNull<Record>>,
    /// Bytes of the block.
    size: usize,
}

/// The block that a record is in.
///
/// # Safety
/// The record is a block's, and valid.
unsafe fn block_of(record: NonNull<Record>) -> (NonNull<u8>, Layout) {
    // SAFETY: the record is valid, and lies at the top of a block of this size, which had this layout.
    unsafe {
        let size = (*record.as_ptr()).size;
        let base = record.cast::<u8>().byte_sub(size - RECORD_SIZE);
        (base, Layout::from_size_align_unchecked(size, CHUNK_UNIT))
    }
}

/// Another allocator.
pub(super) trait Backing {
    /// Allocates. The layout's size is not zero.
    fn obtain(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Frees.
    ///
    /// # Safety
    /// The block was obtained from here with this layout, and nobody uses it any more.
    unsafe fn give_back(&self, block: NonNull<u8>, layout: Layout);
}

/// The blocks that a source has obtained.
#[derive(Debug)]
pub(super) struct Blocks<A: Backing> {
    /// It goes only after the blocks, which may be its own memory.
    backing: ManuallyDrop<A>,
    /// To the allocator that the blocks are for.
    owner: OwnerRef,
    /// It begins the list of all blocks that are heaps.
    first: Option<NonNull<Record>>,
    /// A block that is no heap any more.
    ///
    /// It is kept until another becomes empty, so that a block is not obtained and given back each
    /// time when there is one allocation more, and one less.
    spare: Option<NonNull<Record>>,
    /// Sizes are multiples of this, a power of two.
    block_size: usize,
}

// SAFETY: the blocks belong to it, and go where it goes.
unsafe impl<A: Backing + Send> Send for Blocks<A> {}

impl<A: Backing> Blocks<A> {
    pub(super) const fn new(backing: A, block_size: usize) -> Self {
        assert!(
            block_size.is_power_of_two(),
            "the block size is no power of two"
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

    /// As [`Source::resize`]: a heap stays as it is, unless nothing is left in it.
    ///
    /// # Safety
    /// As there. The heap was [acquired](acquire).
    #[inline]
    pub(super) unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        // SAFETY: the caller's duty.
        if is_heap_base && unsafe { self.retire(heap_end) } {
            chunk_base
        } else {
            heap_end
        }
    }

    /// Makes a heap the spare block, and gives the last spare block back. `false` if the heap is not
    /// of this source.
    ///
    /// # Safety
    /// A heap that was [acquired](acquire) and in which nothing is left ends at `heap_end`.
    #[cold]
    unsafe fn retire(&mut self, heap_end: *mut u8) -> bool {
        // SAFETY: above each heap there is a record, and records lead to such. An empty heap is not
        // that with the metadata, and so not the first. The last spare block is nobody's.
        unsafe {
            let record = NonNull::new_unchecked(heap_end).cast::<Record>();
            if self.first != Some((*record.as_ptr()).first) {
                return false;
            }
            self.remove(record);
            if let Some(spare) = self.spare.replace(record) {
                self.give_back(spare);
            }
        }
        true
    }

    /// Returns a block that has room for an allocation of `layout` above `heap_overhead` bytes,
    /// wherever in its heap the allocation lies.
    fn obtain(&mut self, layout: Layout, heap_overhead: usize) -> Option<(NonNull<u8>, Layout)> {
        let layout = self.block_layout(layout, heap_overhead)?;
        if let Some(spare) = self.spare {
            // SAFETY: the record of a spare block is valid.
            let (base, spare_layout) = unsafe { block_of(spare) };
            if spare_layout.size() >= layout.size() {
                self.spare = None;
                return Some((base, spare_layout));
            }
        }
        Some((self.backing.obtain(layout)?, layout))
    }

    fn block_layout(&self, layout: Layout, heap_overhead: usize) -> Option<Layout> {
        let size = Footprint::new(layout)
            .max_size()
            .checked_add(heap_overhead + RECORD_SIZE)?
            .checked_next_multiple_of(self.block_size)?;
        Layout::from_size_align(size, CHUNK_UNIT).ok()
    }

    /// # Safety
    /// The record is a block's, and neither of them is used any more.
    unsafe fn give_back(&self, record: NonNull<Record>) {
        // SAFETY: the record is still valid, and the block was obtained so.
        unsafe {
            let (block, layout) = block_of(record);
            self.backing.give_back(block, layout);
        }
    }

    /// Enters a block, which is now a heap.
    ///
    /// # Safety
    /// There is room for the record at the top of a block of `size` bytes, which is in no list.
    unsafe fn insert(&mut self, record: NonNull<Record>, size: usize) {
        let first = *self.first.get_or_insert(record);
        let next = if first == record {
            None
        } else {
            // SAFETY: records of blocks in the list are valid.
            unsafe { (*first.as_ptr()).next.replace(record) }
        };
        // SAFETY: the caller gives room for the record; the others are valid.
        unsafe {
            record.write(Record {
                first,
                previous: first,
                next,
                size,
            });
            if let Some(next) = next {
                (*next.as_ptr()).previous = record;
            }
        }
    }

    /// Takes a block out of the list.
    ///
    /// # Safety
    /// The record is in the list, and not the first.
    unsafe fn remove(&mut self, record: NonNull<Record>) {
        // SAFETY: records of blocks in the list are valid, and lead to such.
        unsafe {
            let (previous, next) = ((*record.as_ptr()).previous, (*record.as_ptr()).next);
            (*previous.as_ptr()).next = next;
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
        }
    }
}

/// Gives everything back, and drops the backing allocator. If the allocator that the blocks are for is
/// still there, both are left, for it may be using the blocks.
impl<A: Backing> Drop for Blocks<A> {
    fn drop(&mut self) {
        if let Some(spare) = self.spare {
            // SAFETY: nobody uses a spare block.
            unsafe { self.give_back(spare) };
        }
        if self.owner.is_owner_alive() {
            return;
        }
        let mut next = self.first;
        while let Some(record) = next {
            // SAFETY: nobody uses the blocks, and the list goes on before the record is gone.
            unsafe {
                next = (*record.as_ptr()).next;
                self.give_back(record);
            }
        }
        // SAFETY: this is done once, and nothing is allocated from it any more.
        unsafe { ManuallyDrop::drop(&mut self.backing) };
    }
}

/// As [`Source::check`], for a source that has its `blocks`.
pub(super) fn check<S: Source, B: Binning, A: Backing>(
    talc: &Talc<S, B>,
    blocks: impl Fn(&S) -> &Blocks<A>,
) -> Result<(), Corruption> {
    let blocks = blocks(&talc.source);
    if !blocks.owner.is_bound_to(&talc.owner_token) {
        return Ok(());
    }
    let (mut previous, mut next) = (blocks.first, blocks.first);
    while let Some(at) = next {
        // SAFETY: records of blocks in the list are valid, and nothing writes to them while the allocator is
        // borrowed.
        let record = unsafe { at.as_ref() };
        if Some(record.first) != blocks.first || Some(record.previous) != previous {
            let (address, rule) = (at.addr().get(), Rule::Record("its place in the list"));
            return Err(Corruption { address, rule });
        }
        // SAFETY: the heap in the block ends where the record begins.
        unsafe { talc.check_heap(Span::new(block_of(at).0.as_ptr(), at.cast().as_ptr()))? };
        (previous, next) = (Some(at), record.next);
    }
    Ok(())
}

/// As [`Source::acquire`], for a source that has its `blocks`.
pub(super) fn acquire<S: Source, B: Binning, A: Backing>(
    talc: &mut Talc<S, B>,
    layout: Layout,
    blocks: impl Fn(&mut S) -> &mut Blocks<A>,
) -> Result<(), ()> {
    if !blocks(&mut talc.source)
        .owner
        .is_bound_to(&talc.owner_token)
    {
        return Err(());
    }
    let heap_overhead = talc.next_heap_overhead();
    let (base, layout) = blocks(&mut talc.source)
        .obtain(layout, heap_overhead)
        .ok_or(())?;
    let heap_size = layout.size() - RECORD_SIZE;
    // SAFETY: the block is ours, and the record lies at its top. Up to there it is the allocator's
    // from now on, until nothing in it is in use or the allocator is gone.
    unsafe {
        let record: NonNull<Record> = base.byte_add(heap_size).cast();
        let heap_end = talc.claim(base.as_ptr(), heap_size);
        if heap_end.is_none() {
            blocks(&mut talc.source).backing.give_back(base, layout);
            return Err(());
        }
        debug_assert_eq!(heap_end, Some(record.cast()));
        blocks(&mut talc.source).insert(record, layout.size());
        let flag = talc.owner_flag();
        blocks(&mut talc.source)
            .owner
            .bind(&mut talc.owner_token, flag);
    }
    Ok(())
}
