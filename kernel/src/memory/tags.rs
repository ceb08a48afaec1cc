//! The supply of boundary tags for the arenas: whole frames, accessed through the mapping of
//! physical memory. Tags need no mapped page, so that the arenas can use them while they map pages.

use core::ptr::NonNull;

use heap::vmem::{Page, PageSupply, TagPool};

use super::frames::{self, Purpose};
use super::{PageLock, physical};

/// The supply of boundary tags of an arena.
pub type Tags = &'static TagPool<PageLock, TagFrames>;

/// The pool of boundary tags that all arenas share.
pub static TAGS: TagPool<PageLock, TagFrames> = TagPool::new(PageLock::new(), TagFrames);

/// The supply of frames for the pool of boundary tags.
pub struct TagFrames;

// SAFETY: the allocator hands each frame out once, and physical memory is mapped for ever.
unsafe impl PageSupply for TagFrames {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let frame = frames::allocate(Purpose::Tags)?;
        Some(physical::pointer(frame.start_address()))
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let frame = physical::frame_at(page.cast());
        // SAFETY: the caller guarantees that `allocate_page` has returned the page and that no code
        // uses it any more.
        unsafe { physical::clear(frame) };
        // SAFETY: `allocate_page` has allocated the frame for tags, and the caller owns it.
        unsafe { frames::free_or_panic(frame, Purpose::Tags) };
    }
}
