//! Without the feature `hardened`, hardening is nothing: what `hardened` has, and that costs nothing.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::gaps::Gaps;
use super::node::{Gap, Link};
use super::source::Source;

pub(super) const TAIL_SIZE: usize = 0;
pub(super) const RECORD_SIZE: usize = 0;

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

pub(super) struct Notes;

impl Notes {
    pub(super) const fn new() -> Self {
        Self
    }

    /// # Safety
    /// `link` leads to a gap, or to none.
    #[inline(always)]
    pub(super) unsafe fn sound_gap<B: Binning>(&self, _: &Gaps<B>, link: *mut Link) -> Option<Gap> {
        // SAFETY: what a link leads to begins with its extent.
        unsafe { link.read().map(|node| Gap::at(node.cast())) }
    }
}

impl<B: Binning> Gaps<B> {
    #[inline(always)]
    pub(super) unsafe fn can_enter(&mut self, _bin: u32, _gap: Gap) -> bool {
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
    pub(super) fn report_notes(&mut self, _notes: &Notes) {}

    #[inline(always)]
    pub(super) fn admits(&mut self, _ptr: *mut u8, _layout: Layout) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn note_damaged_record(&mut self, _address: usize) {}

    #[inline(always)]
    pub(super) fn report_findings(&mut self) {}

    #[inline(always)]
    pub(super) fn knows_end(&self, _heap_end: NonNull<u8>) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn admits_end(&mut self, _heap_end: NonNull<u8>) -> bool {
        true
    }

    #[inline(always)]
    pub(super) unsafe fn look_for_writes(
        &mut self,
        _gap: Gap,
        _from: NonNull<u8>,
        _to: NonNull<u8>,
    ) {
    }

    #[inline(always)]
    pub(super) unsafe fn seal(&mut self, _block: Option<NonNull<u8>>, _layout: Layout) {}

    #[inline(always)]
    pub(super) unsafe fn unseal(&mut self, _old_end: NonNull<u8>) {}
}
