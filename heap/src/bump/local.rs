//! A bump allocator as a `LocalAlloc`, whose allocations live as long as the borrow of it.

use core::ptr;

use alloc_traits::{AllocTime, Allocation, LocalAlloc, NonZeroLayout};

use super::Bump;

// SAFETY: ranges are disjoint, fit their layouts, and live as long as the `Bump`.
unsafe impl<'alloc, T> LocalAlloc<'alloc> for Bump<T> {
    fn alloc(&'alloc self, layout: NonZeroLayout) -> Option<Allocation<'alloc>> {
        Some(Allocation {
            ptr: self.get_layout(layout.into())?.ptr,
            layout,
            lifetime: AllocTime::default(),
        })
    }

    /// Does nothing: the memory stays allocated.
    unsafe fn dealloc(&'alloc self, _: Allocation<'alloc>) {}

    /// Resizes in place if the block has the new alignment, and the new size is not larger or the
    /// block is the last one and the memory above it suffices. Otherwise copies the block.
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
        // SAFETY: both blocks have at least the copied bytes, and they are disjoint.
        unsafe { ptr::copy_nonoverlapping(old, new.ptr.as_ptr(), old_size.min(new_size)) };
        Some(new)
    }
}
