//! Boundary tags for the arenas, made of whole frames that are reached through the mapping of
//! physical memory: no page is mapped for them, so the arenas can use them to map pages.

use core::ptr::NonNull;

use heap::vmem::{Page, PageSupply, TagPool};

use super::frames::{self, Purpose};
use super::{PageLock, physical};

/// What the arenas take their boundary tags from.
pub type Tags = &'static TagPool<PageLock, TagFrames>;

/// The pool of boundary tags that all arenas share.
pub static TAGS: TagPool<PageLock, TagFrames> = TagPool::new(PageLock::new(), TagFrames);

/// Frames for boundary tags.
pub struct TagFrames;

// SAFETY: a frame is handed out once, and is mapped forever.
unsafe impl PageSupply for TagFrames {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let frame = frames::allocate(Purpose::Tags)?;
        Some(physical::pointer(frame.start_address()))
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let frame = physical::frame_at(page.cast());
        // SAFETY: it came from `allocate_page` and is not used any more, as the caller promises.
        unsafe { physical::clear(frame) };
        // SAFETY: `allocate_page` has allocated it for tags, and the caller gives it up.
        unsafe { frames::give_back(frame, Purpose::Tags) };
    }
}
