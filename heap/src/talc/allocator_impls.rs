//! `GlobalAlloc` and `Allocator` for the wrappers around a [`Talc`].

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::Talc;
use super::binning::Binning;
use super::source::Source;
use super::zeroed::Uncleared;

/// A [`Talc`] that is used through shared references.
///
/// `GlobalAlloc` and `Allocator` are implemented by these methods. Memory is copied and cleared
/// while the allocator is not borrowed.
pub(super) trait SharedTalc {
    type Source: Source;
    type Binning: Binning;

    /// Lends the allocator exclusively to `work`. Afterwards, when the allocator is free again, it
    /// reports misuse that `hardened` has found.
    fn with<R>(&self, work: impl FnOnce(&mut Talc<Self::Source, Self::Binning>) -> R) -> R;

    /// Allocates. Zero-sized requests always succeed.
    #[inline]
    fn allocate_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return NonNull::new(ptr::without_provenance_mut(layout.align()));
        }
        // SAFETY: the size is not zero.
        unsafe { self.allocate_sized(layout) }
    }

    /// Allocates, and asks the source for memory when the heaps have too little.
    ///
    /// # Safety
    /// The size is not zero.
    #[inline]
    unsafe fn allocate_sized(&self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the size is not zero.
        self.with(|talc| unsafe { talc.allocate(layout) })
    }

    /// [Allocates](Self::allocate_sized) memory that has yet to be cleared.
    ///
    /// # Safety
    /// The size is not zero.
    #[inline]
    unsafe fn allocate_uncleared(&self, layout: Layout) -> Option<Uncleared> {
        // SAFETY: the size is not zero.
        self.with(|talc| unsafe { talc.allocate_uncleared(layout) })
    }

    /// Allocates, and clears the bytes that are not known to be zero.
    #[inline]
    fn allocate_zeroed_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return self.allocate_block(layout);
        }
        // SAFETY: the size is not zero.
        let block = unsafe { self.allocate_uncleared(layout) }?;
        // SAFETY: the block was just allocated, and is not freed before it is returned.
        Some(unsafe { block.clear() })
    }

    /// Frees a block. A zero-sized block takes no memory.
    ///
    /// # Safety
    /// The block is a live allocation of this allocator, made with `layout` or last resized to it.
    #[inline]
    unsafe fn deallocate_block(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the block is a live allocation of this layout.
            self.with(|talc| unsafe { talc.deallocate(block.as_ptr(), layout) });
        }
    }

    /// Resizes a block: in place if the new alignment and size allow that, or else by allocating
    /// another, copying and freeing. Returns `None`, and changes nothing, if that fails.
    ///
    /// # Safety
    /// The block is a live allocation of this allocator, made with `old` or last resized to it.
    unsafe fn resize_block(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        if cfg!(feature = "hardened")
            && old.size() != 0
            && !self.with(|talc| talc.validate_block(block.as_ptr(), old))
        {
            return None;
        }
        let is_aligned = block.addr().get() & (new.align() - 1) == 0;
        if may_stay(old, new)
            && is_aligned
            && self.with(|talc| {
                // SAFETY: the block is live, and neither size is zero.
                let stays = unsafe { talc.try_realloc_in_place(block.as_ptr(), old, new.size()) };
                // The redzone records the alignment, which may have changed.
                // SAFETY: a block that stays has the chunk for the new size.
                unsafe { talc.write_redzone(stays.then_some(block), new) };
                stays
            })
        {
            return Some(block);
        }
        let other = self.allocate_block(new)?;
        let kept = old.size().min(new.size());
        // SAFETY: both blocks have this many bytes and do not overlap, because the other is new.
        unsafe { ptr::copy_nonoverlapping(block.as_ptr(), other.as_ptr(), kept) };
        // SAFETY: the block is a live allocation of layout `old`, and is not used after this.
        unsafe { self.deallocate_block(block, old) };
        Some(other)
    }

    /// [Resizes](Self::resize_block) a block for `GlobalAlloc::realloc`.
    ///
    /// # Safety
    /// * The block is a live allocation of this allocator, made with `layout` or last resized to
    ///   it.
    /// * `new_size`, rounded up to the alignment, is at most `isize::MAX`.
    unsafe fn realloc_block(
        &self,
        block: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: an allocation is not null.
        let block = unsafe { NonNull::new_unchecked(block) };
        // SAFETY: the size, rounded up to the alignment, is at most `isize::MAX`.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the block is a live allocation of this layout.
        unsafe { self.resize_block(block, layout, new) }
    }
}

/// Returns whether to try resizing in place. Zero-sized blocks have no place.
#[inline]
fn may_stay(old: Layout, new: Layout) -> bool {
    let grows = new.size() > old.size();
    old.size() != 0
        && new.size() != 0
        && !cfg!(feature = "disable-realloc-in-place")
        && !(grows && cfg!(feature = "disable-grow-in-place"))
}

/// Aborts the program when it is dropped by unwinding, because a `GlobalAlloc` must not unwind. (A
/// source or a hook that panics would cause that.)
pub(super) struct AbortOnUnwind;

impl AbortOnUnwind {
    /// Runs `work`, and aborts if it unwinds.
    #[inline]
    pub(super) fn during<R>(work: impl FnOnce() -> R) -> R {
        let guard = AbortOnUnwind;
        let result = work();
        core::mem::forget(guard);
        result
    }
}

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        // A panic while another one unwinds aborts.
        panic!("a global allocator must not unwind");
    }
}

/// Implements `GlobalAlloc` for a type that implements [`SharedTalc`].
macro_rules! global_alloc {
    ([$($generics:tt)*] $type:ty) => {
        // SAFETY: blocks are disjoint, fit their layouts, and stay in place until they are freed.
        unsafe impl<$($generics)*> core::alloc::GlobalAlloc for $type {
            #[inline]
            unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
                let block = AbortOnUnwind::during(|| {
                    // SAFETY: `GlobalAlloc` requires a size above zero.
                    unsafe { self.allocate_sized(layout) }
                });
                block.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
            }

            #[inline]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: core::alloc::Layout) {
                AbortOnUnwind::during(|| {
                    // SAFETY: `GlobalAlloc` requires a live block and its layout.
                    self.with(|talc| unsafe { talc.deallocate(ptr, layout) });
                });
            }

            #[inline]
            unsafe fn alloc_zeroed(&self, layout: core::alloc::Layout) -> *mut u8 {
                let block = AbortOnUnwind::during(|| self.allocate_zeroed_block(layout));
                block.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
            }

            unsafe fn realloc(
                &self,
                ptr: *mut u8,
                layout: core::alloc::Layout,
                new_size: usize,
            ) -> *mut u8 {
                let block = AbortOnUnwind::during(|| {
                    // SAFETY: `GlobalAlloc` requires a live block, its layout, and a new size
                    // that, rounded up to the alignment, is at most `isize::MAX`.
                    unsafe { self.realloc_block(ptr, layout, new_size) }
                });
                block.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
            }
        }
    };
}

/// Implements `Allocator` for a type that implements [`SharedTalc`]: the trait of `allocator-api2`
/// and, with `nightly`, also that of `core`.
macro_rules! allocators {
    ([$($generics:tt)*] $type:ty) => {
        $crate::talc::allocator!(allocator_api2::alloc, [$($generics)*] $type);
        #[cfg(feature = "nightly")]
        $crate::talc::allocator!(core::alloc, [$($generics)*] $type);
    };
}

macro_rules! allocator {
    ($($api:ident)::+, [$($generics:tt)*] $type:ty) => {
        // SAFETY: blocks are disjoint, fit their layouts, and stay in place until they are freed,
        // even when the allocator is moved.
        unsafe impl<$($generics)*> $($api)::+::Allocator for $type {
            #[inline]
            fn allocate(
                &self,
                layout: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                let block = self.allocate_block(layout).ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, layout.size()))
            }

            #[inline]
            fn allocate_zeroed(
                &self,
                layout: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                let block = self.allocate_zeroed_block(layout).ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, layout.size()))
            }

            #[inline]
            unsafe fn deallocate(
                &self,
                block: core::ptr::NonNull<u8>,
                layout: core::alloc::Layout,
            ) {
                // SAFETY: `Allocator` requires a live block and its layout.
                unsafe { self.deallocate_block(block, layout) }
            }

            unsafe fn grow(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                debug_assert!(new.size() >= old.size());
                // SAFETY: `Allocator` requires a live block and its layout.
                let block = unsafe { self.resize_block(block, old, new) };
                let block = block.ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, new.size()))
            }

            unsafe fn grow_zeroed(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                // SAFETY: `Allocator` requires a live block and its layout.
                let block = unsafe { $($api)::+::Allocator::grow(self, block, old, new)? };
                // SAFETY: the block has the new size, which is at least the old one.
                let added = unsafe { block.cast::<u8>().add(old.size()) };
                // SAFETY: the added bytes are the rest of the block.
                unsafe { added.write_bytes(0, new.size() - old.size()) };
                Ok(block)
            }

            unsafe fn shrink(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                debug_assert!(new.size() <= old.size());
                // SAFETY: `Allocator` requires a live block and its layout.
                let block = unsafe { self.resize_block(block, old, new) };
                let block = block.ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, new.size()))
            }
        }
    };
}

pub(super) use global_alloc;
pub(crate) use {allocator, allocators};
