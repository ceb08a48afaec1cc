//! A bump allocator as the `#[global_allocator]`, for programs that free no memory.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use super::Bump;

// SAFETY: ranges are disjoint, fit their layouts, and live as long as the `Bump`.
unsafe impl<T> GlobalAlloc for Bump<T> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.get_layout(layout) {
            Some(allocation) => allocation.ptr.as_ptr(),
            None => ptr::null_mut(),
        }
    }

    /// Does nothing: the memory stays allocated.
    unsafe fn dealloc(&self, _ptr: *mut u8, _layout: Layout) {}

    /// Resizes in place if the new size is not larger, or if the block is the last one and the
    /// memory above it suffices. Otherwise copies the block, and the old one is lost.
    ///
    /// ```text
    ///  last block, to 12     before  │ other │ block 8 │ unused                    │
    ///                        after   │ other │ block 12     │ unused               │
    ///
    ///  not the last, to 12   before  │ block 8 │ other │ unused                    │
    ///                        after   │ lost    │ other │ block 12     │ unused     │
    /// ```
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if new_size <= layout.size() || self.region().try_grow(ptr, layout.size(), new_size) {
            return ptr;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: the new size is larger than the old one, and so not zero.
        let new = unsafe { GlobalAlloc::alloc(self, new_layout) };
        if !new.is_null() {
            // SAFETY: the new block is larger than the old one, and disjoint from it.
            unsafe { ptr::copy_nonoverlapping(ptr, new, layout.size()) };
        }
        new
    }
}
