//! The kernel's memory, as the pages of its heap need it.

use core::ops::Range;

use heap_x86_64::{BATCH, FrameList, Memory, Purpose};
use x86_64::VirtAddr;
use x86_64::structures::paging::{OffsetPageTable, PhysFrame};

use super::recently_unmapped::{self, UnmappedRange};
use super::{fault_injection, frames, page_table, physical};

/// The kernel's frames and page tables.
pub struct HeapMemory;

impl From<Purpose> for frames::Purpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Heap => Self::Heap,
            Purpose::PageTables => Self::PageTables,
            Purpose::Tags => Self::Tags,
        }
    }
}

// SAFETY: the kernel's one allocator hands each frame out once. The bootloader has mapped all
// physical memory at the offset, and that of memory stays mapped; frames that are mapped read-only
// are never handed out. The kernel has one address space, and the default of
// `flush` reaches each CPU.
unsafe impl Memory for HeapMemory {
    type Mapper = OffsetPageTable<'static>;

    #[inline]
    unsafe fn with_mapper<R>(&self, work: impl FnOnce(&mut Self::Mapper) -> R) -> R {
        work(&mut page_table::page_tables().lock())
    }

    fn allocate_frame(&self, purpose: Purpose) -> Option<PhysFrame> {
        frames::allocate(purpose.into())
    }

    unsafe fn free_frame(&self, frame: PhysFrame, purpose: Purpose) {
        // SAFETY: the caller owns the frame.
        unsafe { frames::free_or_panic(frame, purpose.into()) };
    }

    fn physical_offset(&self) -> VirtAddr {
        physical::offset()
    }

    fn allocate_frames(&self, list: &mut FrameList<BATCH>, count: usize, purpose: Purpose) {
        frames::allocate_into(list, count, purpose.into());
    }

    unsafe fn free_frames(&self, frames: &[PhysFrame], purpose: Purpose) {
        // SAFETY: the caller owns the frames.
        unsafe { frames::free_all_or_panic(frames, purpose.into()) };
    }

    fn free_frame_count(&self) -> usize {
        frames::usage().free
    }

    fn will_unmap(&self, pages: Range<usize>, range: usize) {
        recently_unmapped::record(UnmappedRange::new(pages.start, pages.len(), range));
    }

    #[inline]
    fn fails_to_map(&self) -> bool {
        fault_injection::MAPPINGS.fails()
    }
}
