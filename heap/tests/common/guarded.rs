//! Memory between guard pages, which fault on access and so reveal wild pointers.

use std::ffi::{c_int, c_void};
use std::ptr::without_provenance_mut;

const PAGE: usize = 4096;

unsafe extern "C" {
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
    fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int;
}

/// Pages with a guard page on either side.
pub(crate) struct Guarded {
    mapping: *mut u8,
    pages: usize,
}

impl Guarded {
    /// Maps memory near an address where no memory is mapped yet, so that each run has the same
    /// addresses.
    pub(crate) fn new(near: usize, pages: usize) -> Self {
        const READ_WRITE: c_int = 1 | 2;
        const PRIVATE_ANONYMOUS: c_int = 0x2 | 0x20;
        let near = without_provenance_mut(near);
        let length = (pages + 2) * PAGE;
        // SAFETY: the mapping is new, and the pages in its middle become accessible.
        let mapping = unsafe {
            let mapping = mmap(near, length, 0, PRIVATE_ANONYMOUS, -1, 0).cast::<u8>();
            assert_ne!(mapping.addr(), usize::MAX, "mmap fails");
            let failed = mprotect(mapping.add(PAGE).cast(), pages * PAGE, READ_WRITE);
            assert_eq!(failed, 0, "mprotect fails");
            mapping
        };
        Self { mapping, pages }
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.mapping.wrapping_add(PAGE)
    }

    pub(crate) fn size(&self) -> usize {
        self.pages * PAGE
    }

    pub(crate) fn contains(&self, address: usize) -> bool {
        (self.base().addr()..self.base().addr() + self.size()).contains(&address)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the range was mapped with this size.
        unsafe { munmap(self.mapping.cast(), (self.pages + 2) * PAGE) };
    }
}
