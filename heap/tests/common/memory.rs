//! Memory for heaps.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// The contents of untouched memory.
pub(crate) const UNTOUCHED: u8 = 0xa5;

/// A range of memory, filled with [`UNTOUCHED`] and aligned to 4 MiB or its size.
pub(crate) struct Memory {
    base: *mut u8,
    layout: Layout,
}

// SAFETY: the value has exclusive access to its memory.
unsafe impl Send for Memory {}

impl Memory {
    pub(crate) fn new(size: usize) -> Self {
        let align = size.next_power_of_two().clamp(64, 4 << 20);
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the size is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        let memory = Self { base, layout };
        memory.fill(base, memory.end());
        memory
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn size(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn end(&self) -> *mut u8 {
        self.base.wrapping_add(self.size())
    }

    /// Fills a part with [`UNTOUCHED`] again.
    pub(crate) fn fill(&self, from: *mut u8, to: *mut u8) {
        self.assert_contains(from, to);
        // SAFETY: the range is in this memory.
        unsafe { from.write_bytes(UNTOUCHED, to.addr() - from.addr()) };
    }

    pub(crate) fn assert_untouched(&self, from: *mut u8, to: *mut u8) {
        self.assert_contains(from, to);
        // SAFETY: the range is in this memory, which is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(from, to.addr() - from.addr()) };
        // Comparing byte by byte takes much longer.
        if all_are(bytes, UNTOUCHED) {
            return;
        }
        if let Some(at) = bytes.iter().position(|&byte| byte != UNTOUCHED) {
            panic!("byte {at} of {from:p}..{to:p} was written to");
        }
    }

    /// Returns the contents.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: the range is in this memory, which is initialised.
        unsafe { std::slice::from_raw_parts(self.base, self.size()) }.to_vec()
    }

    fn assert_contains(&self, from: *mut u8, to: *mut u8) {
        assert!(self.base <= from && from <= to && to <= self.end());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// Returns whether all bytes are equal to `byte`.
pub(crate) fn all_are(bytes: &[u8], byte: u8) -> bool {
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == byte && *rest == bytes[..rest.len()],
    }
}
