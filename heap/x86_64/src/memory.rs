//! [`Memory`]: what the pages of a heap need of a kernel.

use core::ops::Range;
use core::ptr::{self, NonNull};

use x86_64::structures::paging::mapper::CleanUp;
use x86_64::structures::paging::page::PageRangeInclusive;
use x86_64::structures::paging::{Mapper, PhysFrame, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

use crate::frame_list::FrameList;
use crate::page_set::BATCH;

/// The size of a page and of a frame in bytes.
pub const PAGE_SIZE: usize = 4096;

/// The purpose of a frame. A kernel may count frames by it, or ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A page of the heap.
    Heap,
    /// A page table.
    PageTables,
    /// Boundary tags of the arenas.
    Tags,
}

/// Frames, page tables, and a mapping of physical memory.
///
/// ```text
///     physical memory    │ frame 0 │ frame 1 │ …                 allocate_frame, free_frame
///                        │
///     addresses          offset: all frames that are handed out, writable
///                        …
///                        window: pages of the heap               with_mapper, flush
/// ```
///
/// [`MapperMemory`](crate::MapperMemory) implements it for a mapper and a frame allocator. A kernel
/// with a frame allocator behind a lock of its own, or one that counts frames by their
/// [`Purpose`], implements the trait itself.
///
/// No method may allocate from the heap. Each may be called from interrupt handlers that use the
/// heap. So a lock must mask interrupts, as an [`InterruptLock`](crate::sync::InterruptLock) does.
///
/// # Safety
/// * A frame that is handed out is memory, and no other code uses it until it is freed.
/// * These frames, and the page tables of the mapper, are mapped at
///   [`physical_offset`](Self::physical_offset), writable, for ever. The offset never changes.
/// * The mapper changes the page tables that translate for the heap. If several address spaces
///   have the window of the heap, they share its level 3 tables, and the mapper unlinks none of
///   them (see [`keeps_tables`](Self::keeps_tables)).
/// * After [`flush`](Self::flush), no CPU translates the pages as before.
pub unsafe trait Memory: Sync {
    /// The type that changes page tables.
    type Mapper: Mapper<Size4KiB> + CleanUp;

    /// Runs `work` with the page tables, which are locked meanwhile.
    ///
    /// # Safety
    /// `work` changes only pages that the caller has mapped, or whose addresses it owns. It neither
    /// replaces the mapper nor allocates. ([`Mapper::unmap`] is a safe function, and can unmap a
    /// page that is in use.)
    unsafe fn with_mapper<R>(&self, work: impl FnOnce(&mut Self::Mapper) -> R) -> R;

    /// Allocates a frame, with undefined contents. `None`: no frame is free.
    fn allocate_frame(&self, purpose: Purpose) -> Option<PhysFrame>;

    /// Frees a frame. It is zero, if it was used.
    ///
    /// # Safety
    /// The frame was allocated for `purpose`, and no code uses it any more, at any address.
    unsafe fn free_frame(&self, frame: PhysFrame, purpose: Purpose);

    /// Returns the address that physical address 0 is mapped at.
    fn physical_offset(&self) -> VirtAddr;

    /// Allocates frames until `list` has `count`, or no frame is free.
    ///
    /// A kernel whose frames have a lock can take it once.
    fn allocate_frames(&self, list: &mut FrameList<BATCH>, count: usize, purpose: Purpose) {
        while list.as_slice().len() < count {
            let Some(frame) = self.allocate_frame(purpose) else {
                return;
            };
            list.push(frame);
        }
    }

    /// Frees frames. Each is zero, if it was used.
    ///
    /// A kernel whose frames have a lock can take it once.
    ///
    /// # Safety
    /// The same as for [`free_frame`](Self::free_frame), for each of the frames.
    unsafe fn free_frames(&self, frames: &[PhysFrame], purpose: Purpose) {
        for &frame in frames {
            // SAFETY: the caller owns each of the frames.
            unsafe { self.free_frame(frame, purpose) };
        }
    }

    /// Returns the number of free frames, if it is known: requests for more pages fail at once,
    /// before frames are allocated. By default it is `usize::MAX`.
    fn free_frame_count(&self) -> usize {
        usize::MAX
    }

    /// Removes pages from the TLB of each CPU, and waits until they are removed. Called without a
    /// lock held.
    ///
    /// By default, of this CPU; with the feature `smp`, of all that have [started](crate::smp).
    fn flush(&self, pages: PageRangeInclusive) {
        #[cfg(feature = "smp")]
        crate::smp::flush(pages);
        #[cfg(not(feature = "smp"))]
        crate::machine::flush(pages);
    }

    /// Returns whether page tables stay when they map nothing any more. They serve again when
    /// pages near them are mapped. By default they are freed.
    ///
    /// A kernel with several address spaces fills the level 4 entries of the window before it makes
    /// the first copy of them, and returns `true`.
    fn keeps_tables(&self) -> bool {
        false
    }

    /// Notes that `pages`, a part of the range that begins at `range`, are going to be unmapped.
    ///
    /// A kernel can tell from it what was at an address that faults. Does nothing by default.
    fn will_unmap(&self, pages: Range<usize>, range: usize) {
        let _ = (pages, range);
    }

    /// Returns whether the next page is not to be mapped: fault injection, for tests. By default no
    /// mapping fails.
    fn fails_to_map(&self) -> bool {
        false
    }
}

/// Returns a pointer to a frame.
pub(crate) fn pointer<T>(memory: &impl Memory, frame: PhysFrame) -> NonNull<T> {
    let address = memory.physical_offset() + frame.start_address().as_u64();
    NonNull::new(ptr::with_exposed_provenance_mut(address.as_u64() as usize))
        .expect("physical memory is mapped above address 0")
}

/// Returns the frame that `pointer` leads to.
pub(crate) fn frame_at(memory: &impl Memory, pointer: NonNull<u8>) -> PhysFrame {
    let address = VirtAddr::from_ptr(pointer.as_ptr()) - memory.physical_offset();
    PhysFrame::containing_address(PhysAddr::new(address))
}

/// Fills a frame with zeros.
///
/// # Safety
/// `memory` has handed out the frame, and no other code uses it.
pub(crate) unsafe fn clear(memory: &impl Memory, frame: PhysFrame) {
    let page = pointer::<u8>(memory, frame);
    // SAFETY: by the contract of `Memory`, frames that are handed out are mapped there, writable.
    // The caller guarantees that no other code uses this one.
    unsafe { page.write_bytes(0, PAGE_SIZE) };
}
