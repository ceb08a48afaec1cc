//! What the wrappers around a [`Talc`] have in common: allocating through a shared reference.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::Talc;
use super::binning::Binning;
use super::source::Source;

/// A [`Talc`] that is used through shared references.
///
/// Its methods are what `GlobalAlloc` and `Allocator` are made of. They copy and clear memory while
/// nobody has the allocator.
pub(super) trait SharedTalc {
    type Source: Source;
    type Binning: Binning;

    /// Lends the allocator, which nobody else can use until `work` is done. What `hardened` has to
    /// report is reported after that.
    fn with<R>(&self, work: impl FnOnce(&mut Talc<Self::Source, Self::Binning>) -> R) -> R;

    /// Allocates. No bytes can always be had.
    #[inline]
    fn allocate_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return NonNull::new(ptr::without_provenance_mut(layout.align()));
        }
        // SAFETY: the size is not zero.
        self.with(|talc| unsafe { talc.allocate(layout) })
    }

    /// Allocates, and clears what is not known to be zero.
    #[inline]
    fn allocate_zeroed_block(&self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() == 0 {
            return self.allocate_block(layout);
        }
        // SAFETY: the size is not zero.
        let block = self.with(|talc| unsafe { talc.allocate_uncleared(layout) })?;
        // SAFETY: it is the caller's, who does not have it yet.
        Some(unsafe { block.clear() })
    }

    /// Frees.
    ///
    /// # Safety
    /// The block was allocated by this allocator, made or last resized to `layout`, and not freed.
    #[inline]
    unsafe fn deallocate_block(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's duty.
            self.with(|talc| unsafe { talc.deallocate(block.as_ptr(), layout) });
        }
    }

    /// Resizes a block: in place if it is aligned as it shall be, and can be as large, or else by
    /// allocating another, copying and freeing. `None` if that fails, and then nothing has changed.
    ///
    /// # Safety
    /// The block was allocated by this allocator, made or last resized to `old`, and not freed.
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
            // SAFETY: the caller vouches for the block. It has bytes, and shall have some.
            && self.with(|talc| unsafe {
                let stays = talc.try_realloc_in_place(block.as_ptr(), old, new.size());
                // It may have another alignment from now on.
                talc.write_redzone(stays.then_some(block), new);
                stays
            })
        {
            return Some(block);
        }
        let other = self.allocate_block(new)?;
        // SAFETY: both blocks have as many bytes, and the other is nobody else's. The first is no
        // longer used after this.
        unsafe {
            ptr::copy_nonoverlapping(block.as_ptr(), other.as_ptr(), old.size().min(new.size()));
            self.deallocate_block(block, old);
        }
        Some(other)
    }
}

/// Whether resizing in place is worth a try. Blocks without bytes are nowhere.
#[inline]
fn may_stay(old: Layout, new: Layout) -> bool {
    let grows = new.size() > old.size();
    old.size() != 0
        && new.size() != 0
        && !cfg!(feature = "disable-realloc-in-place")
        && !(grows && cfg!(feature = "disable-grow-in-place"))
}

/// Aborts the program when it is dropped, which happens when what follows it unwinds: a `GlobalAlloc` must
/// not. (A source or a hook that panics would make it.)
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
        // A panic while another unwinds aborts.
        panic!("a global allocator must not unwind");
    }
}

/// Implements `GlobalAlloc` for a type that is [`SharedTalc`].
macro_rules! global_alloc {
    ([$($generics:tt)*] $type:ty) => {
        // SAFETY: blocks are disjoint, fit their layouts, and stay where they are until freed.
        unsafe impl<$($generics)*> core::alloc::GlobalAlloc for $type {
            #[inline]
            unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
                let block = AbortOnUnwind::during(|| {
                    // SAFETY: the caller vouches for a size above zero.
                    self.with(|talc| unsafe { talc.allocate(layout) })
                });
                block.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
            }

            #[inline]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: core::alloc::Layout) {
                AbortOnUnwind::during(|| {
                    // SAFETY: the caller vouches for pointer and layout.
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
                // SAFETY: the caller vouches that the new size, rounded up to the alignment, is no
                // more than `isize::MAX`, and for pointer and layout. A block is not at null.
                let block = AbortOnUnwind::during(|| unsafe {
                    let new = core::alloc::Layout::from_size_align_unchecked(new_size, layout.align());
                    self.resize_block(core::ptr::NonNull::new_unchecked(ptr), layout, new)
                });
                block.map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr)
            }
        }
    };
}

/// Implements `Allocator` for a type that is [`SharedTalc`]: the one of `allocator-api2`, and the one of
/// `core` too where that is to be had.
macro_rules! allocators {
    ([$($generics:tt)*] $type:ty) => {
        $crate::talc::allocator_impls::allocator!(allocator_api2::alloc, [$($generics)*] $type);
        #[cfg(feature = "nightly")]
        $crate::talc::allocator_impls::allocator!(core::alloc, [$($generics)*] $type);
    };
}

macro_rules! allocator {
    ($($api:ident)::+, [$($generics:tt)*] $type:ty) => {
        // SAFETY: blocks are disjoint, fit their layouts, and stay where they are until freed,
        // wherever the allocator is moved to.
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
            unsafe fn deallocate(&self, block: core::ptr::NonNull<u8>, layout: core::alloc::Layout) {
                // SAFETY: the caller vouches for block and layout.
                unsafe { self.deallocate_block(block, layout) }
            }

            unsafe fn grow(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                debug_assert!(new.size() >= old.size());
                // SAFETY: the caller vouches for block and layout.
                let block = unsafe { self.resize_block(block, old, new) }.ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, new.size()))
            }

            unsafe fn grow_zeroed(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                // SAFETY: the caller vouches for block and layouts. What was added to the block is
                // in it.
                unsafe {
                    let block = $($api)::+::Allocator::grow(self, block, old, new)?;
                    let added = block.cast::<u8>().add(old.size());
                    added.write_bytes(0, new.size() - old.size());
                    Ok(block)
                }
            }

            unsafe fn shrink(
                &self,
                block: core::ptr::NonNull<u8>,
                old: core::alloc::Layout,
                new: core::alloc::Layout,
            ) -> Result<core::ptr::NonNull<[u8]>, $($api)::+::AllocError> {
                debug_assert!(new.size() <= old.size());
                // SAFETY: the caller vouches for block and layout.
                let block = unsafe { self.resize_block(block, old, new) }.ok_or($($api)::+::AllocError)?;
                Ok(core::ptr::NonNull::slice_from_raw_parts(block, new.size()))
            }
        }
    };
}

pub(super) use {allocator, allocators, global_alloc};
