//! A supply of boundary tags that refuses now and then, and counts.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use heap::vmem::{BoundaryTag, Page, TagSupply};

use super::injection::{Call, Injection};
use super::interrupt::interrupt;

/// Tags and pages of the host's memory.
pub struct Supply<'a> {
    injection: &'a Injection,
    /// How many tags and pages are out.
    out: AtomicUsize,
}

impl<'a> Supply<'a> {
    pub fn new(injection: &'a Injection) -> Self {
        Self {
            injection,
            out: AtomicUsize::new(0),
        }
    }

    /// How many tags and pages are out.
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
        // SAFETY: neither tags nor pages have size zero.
        let memory = NonNull::new(unsafe { alloc(Layout::new::<T>()) }.cast())?;
        self.out.fetch_add(1, SeqCst);
        Some(memory)
    }

    /// # Safety
    /// `memory` came from `take`, and is not used any more.
    unsafe fn put<T>(&self, memory: NonNull<T>) {
        self.out.fetch_sub(1, SeqCst);
        // SAFETY: the caller vouches for it. It is overwritten so that a later reader notices.
        unsafe {
            memory.cast::<u8>().write_bytes(0xdd, size_of::<T>());
            dealloc(memory.as_ptr().cast(), Layout::new::<T>());
        }
    }
}

// SAFETY: each tag and each page is an allocation of the host of its own.
unsafe impl TagSupply for &Supply<'_> {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        self.take()
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        // SAFETY: the caller gives back what it got.
        unsafe { self.put(tag) };
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        self.take()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the caller gives back what it got.
        unsafe { self.put(page) };
    }
}
