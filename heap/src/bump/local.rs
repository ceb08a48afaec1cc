//! A bump allocator as a `LocalAlloc`, whose allocations live as long as it is borrowed.

use core::ptr;

use alloc_traits::{AllocTime, Allocation, LocalAlloc, NonZeroLayout};

use super::Bump;

// SAFETY: ranges are disjoint, fit their layouts, and are there as long as the `Bump` is.
unsafe impl<'alloc, T> LocalAlloc<'alloc> for Bump<T> {
    fn alloc(&'alloc self, layout: NonZeroLayout) -> Option<Allocation<'alloc>> {
        Some(Allocation {
            ptr: self.get_layout(layout.into())?.ptr,
            layout,
            lifetime: AllocTime::default(),
        })
    }

    /// Does nothing.
    unsafe fn dealloc(&'alloc self, _: Allocation<'alloc>) {}

    /// In place if the block is aligned as it shall be, and if it is to be no larger, or is the last
    /// one and there is room above it.
    unsafe fn realloc(
        &'alloc self,
        alloc: Allocation<'alloc>,
        layout: NonZeroLayout,
    ) -> Option<Allocation<'alloc>> {
        let (old_size, new_size) = (alloc.layout.size().get(), layout.size().get());
        let is_aligned = alloc.ptr.addr().get() & (layout.align() - 1) == 0;
        let old = alloc.ptr.as_ptr();
        if is_aligned && (new_size <= old_size || self.region().try_grow(old, old_size, new_size)) {
            return Some(Allocation { layout, ..alloc });
        }
        let new = LocalAlloc::alloc(self, layout)?;
        // SAFETY: both blocks have as many bytes, and the new one is another.
        unsafe { ptr::copy_nonoverlapping(old, new.ptr.as_ptr(), old_size.min(new_size)) };
        Some(new)
    }
}
