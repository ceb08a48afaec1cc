//! The frame allocator of this kernel. It knows nothing of the heap.

use core::ptr;

use bootloader_api::info::{MemoryRegionKind, MemoryRegions};
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

/// Frames of usable memory: those that were never used, in order, and a list of freed ones. Each
/// freed frame has the address of the next in its first bytes.
pub struct UsableFrames {
    regions: [(u64, u64); 32],
    freed: Option<PhysFrame>,
    offset: VirtAddr,
    in_use: usize,
}

impl UsableFrames {
    /// # Safety
    /// All memory is mapped at `offset`, and no code uses memory that `regions` calls usable.
    pub unsafe fn new(regions: &MemoryRegions, offset: VirtAddr) -> Self {
        let mut free = [(0, 0); 32];
        let usable = regions
            .iter()
            .filter(|region| region.kind == MemoryRegionKind::Usable)
            // The lowest memory may be needed to start other CPUs.
            .map(|region| (region.start.max(0x10_0000), region.end))
            .filter(|(start, end)| start < end);
        for (slot, region) in free.iter_mut().zip(usable) {
            *slot = region;
        }
        Self {
            regions: free,
            freed: None,
            offset,
            in_use: 0,
        }
    }

    /// Returns the number of frames that are in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Returns where the address of the next freed frame is.
    fn link(&self, frame: PhysFrame) -> *mut u64 {
        let address = self.offset + frame.start_address().as_u64();
        ptr::with_exposed_provenance_mut(address.as_u64() as usize)
    }
}

// SAFETY: each frame is handed out once, until it is freed.
unsafe impl FrameAllocator<Size4KiB> for UsableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = if let Some(frame) = self.freed {
            // SAFETY: the frame is in the list, so it has the address of the next, or 0.
            let next = unsafe { self.link(frame).read() };
            self.freed = (next != 0).then(|| PhysFrame::containing_address(PhysAddr::new(next)));
            frame
        } else {
            let (start, _) = self
                .regions
                .iter_mut()
                .find(|(start, end)| start.next_multiple_of(4096) + 4096 <= *end)?;
            let address = start.next_multiple_of(4096);
            *start = address + 4096;
            PhysFrame::containing_address(PhysAddr::new(address))
        };
        self.in_use += 1;
        Some(frame)
    }
}

impl FrameDeallocator<Size4KiB> for UsableFrames {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        let next = self.freed.map_or(0, |next| next.start_address().as_u64());
        // SAFETY: the caller guarantees that no code uses the frame, which is mapped there.
        unsafe { self.link(frame).write(next) };
        self.freed = Some(frame);
        self.in_use -= 1;
    }
}
