//! Memory for an allocator to work in.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// A range of memory, aligned to 4 MiB, so that no result depends on where it happens to lie.
pub struct Arena {
    base: *mut u8,
    layout: Layout,
}

impl Arena {
    /// `size` bytes, which are more than none.
    pub fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 4 << 20).expect("a size of memory");
        assert!(size > 0);
        // SAFETY: the size is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Self { base, layout }
    }

    /// Its first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was allocated so.
        unsafe { dealloc(self.base, self.layout) }
    }
}
