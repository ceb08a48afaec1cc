//! Memory for an allocator.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// A range of memory, aligned to 4 MiB, so that results do not depend on its address.
pub struct Arena {
    base: *mut u8,
    layout: Layout,
}

impl Arena {
    /// Allocates `size` bytes, which is not zero.
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

    /// Returns the address of the first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Returns the number of bytes.
    pub fn size(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}
