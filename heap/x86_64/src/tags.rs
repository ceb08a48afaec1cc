//! The supply of boundary tags for the arenas: whole frames, accessed through the mapping of
//! physical memory. Tags need no mapped page, so that the arenas can use them while they map pages.

use core::ptr::NonNull;

use heap::vmem::{LockApi, Page, PageSupply, TagPool};

use crate::memory::{self, Memory, Purpose};
use crate::sync::InterruptLock;

/// The lock of the arenas: it masks interrupts.
pub type PageLock = LockApi<InterruptLock>;

/// The supply of boundary tags of an arena.
pub type Tags<M> = &'static TagPool<PageLock, TagFrames<M>>;

/// The supply of frames for the pool of boundary tags.
pub struct TagFrames<M: 'static> {
    memory: &'static M,
}

impl<M: Memory> TagFrames<M> {
    /// Returns a supply of frames of `memory`.
    pub const fn new(memory: &'static M) -> Self {
        Self { memory }
    }
}

// SAFETY: `Memory` hands each frame out once, and its frames are mapped for ever.
unsafe impl<M: Memory> PageSupply for TagFrames<M> {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let frame = self.memory.allocate_frame(Purpose::Tags)?;
        Some(memory::pointer(self.memory, frame))
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let frame = memory::frame_at(self.memory, page.cast());
        // SAFETY: the caller guarantees that `allocate_page` has returned the page and that no code
        // uses it any more.
        unsafe { memory::clear(self.memory, frame) };
        // SAFETY: `allocate_page` has allocated the frame for tags, and the caller owns it.
        unsafe { self.memory.free_frame(frame, Purpose::Tags) };
    }
}
