//! A supply of boundary tags with fault injection, which counts its loans.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heap::vmem::{BoundaryTag, Page, TagSupply};

use super::injection::{Call, Injection};
use super::interrupt::interrupt;

/// A supply of tags and pages from the memory of the host.
pub struct Supply<'a> {
    injection: &'a Injection,
    /// Tags and pages that are lent.
    out: AtomicUsize,
}

impl<'a> Supply<'a> {
    pub fn new(injection: &'a Injection) -> Self {
        Self {
            injection,
            out: AtomicUsize::new(0),
        }
    }

    /// Returns how many tags and pages are lent.
    pub fn out(&self) -> usize {
        self.out.load(SeqCst)
    }

    fn take<T>(&self) -> Option<NonNull<T>> {
        let refused = self.injection.refuses(Call::Tag);
        interrupt(Call::Tag, 0);
        self.injection.note(Call::Tag, !refused);
        if refused {
            return None;
        }
        // SAFETY: neither tags nor pages are zero-sized.
        let memory = NonNull::new(unsafe { alloc(Layout::new::<T>()) }.cast())?;
        self.out.fetch_add(1, SeqCst);
        Some(memory)
    }

    /// # Safety
    /// `take` returned `memory`, which is not used any more.
    unsafe fn put<T>(&self, memory: NonNull<T>) {
        self.out.fetch_sub(1, SeqCst);
        // SAFETY: the caller vouches that `take` returned the memory. The pattern exposes later
        // reads.
        unsafe {
            memory.cast::<u8>().write_bytes(0xdd, size_of::<T>());
            dealloc(memory.as_ptr().cast(), Layout::new::<T>());
        }
    }
}

// SAFETY: each tag and each page is a separate allocation of the host.
unsafe impl TagSupply for &Supply<'_> {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        self.take()
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        // SAFETY: the caller returns memory that this supply lent, and no longer uses it.
        unsafe { self.put(tag) };
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        self.take()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the caller returns memory that this supply lent, and no longer uses it.
        unsafe { self.put(page) };
    }
}
