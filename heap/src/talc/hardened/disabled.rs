//! No-op versions of the functions of `hardened`, for builds without that feature.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::free_lists::FreeLists;
use super::gap_header::{Gap, Link};
use super::source::Source;

pub(super) const REDZONE_SIZE: usize = 0;
pub(super) const HEAP_RECORD_SIZE: usize = 0;

pub(super) struct Heaps;

impl Heaps {
    pub(super) const fn new() -> Self {
        Self
    }

    #[inline(always)]
    pub(super) unsafe fn insert(&mut self, _: NonNull<u8>, _: NonNull<u8>, _: NonNull<u8>) {}

    #[inline(always)]
    pub(super) fn remove(&mut self, _end: NonNull<u8>) {}

    #[inline(always)]
    pub(super) fn move_end(&mut self, _old_end: NonNull<u8>, _new_end: NonNull<u8>) {}
}

pub(super) struct Findings;

impl Findings {
    pub(super) const fn new() -> Self {
        Self
    }

    /// # Safety
    /// `link` leads to a gap, or to none.
    #[inline(always)]
    pub(super) unsafe fn follow_link<B: Binning>(
        &self,
        _: &FreeLists<B>,
        link: *mut Link,
    ) -> Option<Gap> {
        // SAFETY: the link is a list head or in the header of a gap, which are initialised.
        let header = unsafe { link.read() }?;
        // SAFETY: the link leads to a gap.
        Some(unsafe { Gap::at(header.cast()) })
    }
}

impl<B: Binning> FreeLists<B> {
    #[inline(always)]
    pub(super) unsafe fn can_insert(&mut self, _bin: u32, _gap: Gap) -> bool {
        true
    }
}

pub(super) struct Reporting;

impl Reporting {
    pub(super) const fn new() -> Self {
        Self
    }
}

pub(super) struct Deferred;

impl Deferred {
    #[inline(always)]
    pub(super) fn report(self) {}
}

#[inline(always)]
pub(super) unsafe fn poison(_from: NonNull<u8>, _to: NonNull<u8>) {}

impl<S: Source, B: Binning> Talc<S, B> {
    #[inline(always)]
    pub(super) fn deferring<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> (R, Deferred) {
        (work(self), Deferred)
    }

    #[inline(always)]
    pub(super) fn report_findings(&mut self, _findings: &Findings) {}

    #[inline(always)]
    pub(super) fn validate_block(&mut self, _ptr: *mut u8, _layout: Layout) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn note_damaged_record(&mut self, _address: usize) {}

    #[inline(always)]
    pub(super) fn report_pending_finding(&mut self) {}

    #[inline(always)]
    pub(super) fn is_known_heap_end(&self, _heap_end: NonNull<u8>) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn validate_heap_end(&mut self, _heap_end: NonNull<u8>) -> bool {
        true
    }

    #[inline(always)]
    pub(super) unsafe fn validate_poison(
        &mut self,
        _gap: Gap,
        _from: NonNull<u8>,
        _to: NonNull<u8>,
    ) {
    }

    #[inline(always)]
    pub(super) unsafe fn write_redzone(&mut self, _block: Option<NonNull<u8>>, _layout: Layout) {}

    #[inline(always)]
    pub(super) unsafe fn clear_redzone(&mut self, _old_end: NonNull<u8>) {}
}
