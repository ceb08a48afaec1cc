//! `GlobalAlloc` and `Allocator` for slabs.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use super::size_class::Granules;
use super::{Cpus, SlabAllocator};
use crate::source::StableGlobalAlloc;
use crate::talc::allocators;

// SAFETY: blocks of a slab are disjoint, at least as large and as strictly aligned as their layout,
// and stay in place until they are freed. Others are those of the allocator behind.
unsafe impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> GlobalAlloc
    for SlabAllocator<A, C, CPUS>
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees that the size is not zero.
        unsafe { self.allocate(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that the block is in use and has this layout.
        unsafe { self.deallocate(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Granules::of(layout).is_none() {
            // SAFETY: the caller guarantees that the size is not zero.
            return self.or_retry(|| unsafe { self.backing.alloc_zeroed(layout) });
        }
        // SAFETY: the caller guarantees that the size is not zero.
        let block = unsafe { self.allocate(layout) };
        if !block.is_null() {
            // SAFETY: the block has this size and is new.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that the size, rounded up to the alignment, fits.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (Granules::of(layout), Granules::of(new)) {
            (Some(old), Some(new)) if old.class() == new.class() && STAYS => return block,
            (None, None) => {
                // SAFETY: the block came from the allocator behind, with this layout.
                return self.or_retry(|| unsafe { self.backing.realloc(block, layout, new_size) });
            }
            _ => {}
        }
        // SAFETY: a block is not null.
        let old = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: the block is in use with this layout.
        match unsafe { self.move_block(old, layout, new) } {
            Some(other) => other.as_ptr(),
            // Slabs serve both sizes, and free a block by its slab: its size may be any larger one.
            None if STAYS && new_size < layout.size() && Granules::of(layout).is_some() => block,
            None => ptr::null_mut(),
        }
    }
}

/// Whether a block may stay in place when it is resized.
const STAYS: bool = cfg!(not(feature = "disable-realloc-in-place"));

// SAFETY: slabs lie in blocks of the allocator behind, which stay valid when it is moved.
unsafe impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> StableGlobalAlloc
    for SlabAllocator<A, C, CPUS>
{
}

/// What `Allocator` is implemented by.
impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    #[inline]
    fn allocate_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return NonNull::new(ptr::without_provenance_mut(layout.align()));
        }
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { self.alloc(layout) })
    }

    fn allocate_zeroed_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return self.allocate_block(layout);
        }
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { self.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn deallocate_block(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the block is in use with this layout.
            unsafe { self.dealloc(block.as_ptr(), layout) };
        }
    }

    /// Resizes a block, which may change its alignment too. Returns `None`, and changes nothing, if
    /// that fails.
    ///
    /// # Safety
    /// The block is in use, and has the layout `old`.
    unsafe fn resize_block(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        if old.size() != 0 && new.size() != 0 && old.align() == new.align() {
            // SAFETY: the block is in use with this layout, and the new size is one of a layout.
            return NonNull::new(unsafe { self.realloc(block.as_ptr(), old, new.size()) });
        }
        // SAFETY: the block is in use with this layout.
        unsafe { self.move_block(block, old, new) }
    }

    /// Allocates another block, copies the bytes that both have, and frees the first. Returns
    /// `None`, and changes nothing, if no other can be allocated.
    ///
    /// # Safety
    /// The block is in use, and has the layout `old`.
    #[inline]
    unsafe fn move_block(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        let other = self.allocate_block(new)?;
        let kept = old.size().min(new.size());
        // SAFETY: both blocks have this many bytes, and the other is new.
        unsafe { block.copy_to_nonoverlapping(other, kept) };
        // SAFETY: the block is in use with this layout, and is not used after this.
        unsafe { self.deallocate_block(block, old) };
        Some(other)
    }
}

allocators!([A: StableGlobalAlloc, C: Cpus, const CPUS: usize] SlabAllocator<A, C, CPUS>);
