//! An allocator behind a lock: for several threads, and as the `#[global_allocator]`.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};

use lock_api::{Mutex, MutexGuard, RawMutex};

use super::Talc;
use super::binning::{Binning, DefaultBinning};
use crate::source::Source;

/// A [`Talc`] in a [`lock_api`] mutex.
///
/// The lock is held while the allocator works, and never while memory is copied or cleared.
///
/// ```
/// use heap::talc::{TalcLock, source::Manual};
///
/// static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);
///
/// assert!(!HEAP.lock().is_metadata_established());
/// ```
pub struct TalcLock<R: RawMutex, S: Source, B: Binning = DefaultBinning> {
    mutex: Mutex<R, Talc<S, B>>,
}

impl<R: RawMutex, S: Source, B: Binning> TalcLock<R, S, B> {
    /// An allocator that has no memory yet.
    pub const fn new(source: S) -> Self {
        Self {
            mutex: Mutex::new(Talc::new(source)),
        }
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, R, Talc<S, B>> {
        self.mutex.lock()
    }

    /// Takes the lock unless it is held.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, R, Talc<S, B>>> {
        self.mutex.try_lock()
    }

    /// The allocator, which nobody else can be using.
    #[inline]
    pub fn get_mut(&mut self) -> &mut Talc<S, B> {
        self.mutex.get_mut()
    }

    /// The allocator without its lock.
    pub fn into_inner(self) -> Talc<S, B> {
        self.mutex.into_inner()
    }
}

// SAFETY: allocations are disjoint, fit their layouts, and stay where they are until freed.
unsafe impl<R: RawMutex, S: Source, B: Binning> GlobalAlloc for TalcLock<R, S, B> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller vouches for a size above zero.
        let block = unsafe { self.lock().allocate(layout) };
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches for pointer and layout.
        unsafe { self.lock().deallocate(ptr, layout) }
    }

    // `alloc_zeroed` as provided calls `alloc` and clears the block, when the lock is free again.

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for pointer, layout and new size.
        if unsafe { self.lock().try_realloc_in_place(ptr, layout, new_size) } {
            return ptr;
        }
        // SAFETY: the caller vouches that the new size, rounded up to the alignment, is no more
        // than `isize::MAX`.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the new size is larger than the old one, or this would have worked in place.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: the new block is larger than the old one and does not overlap it. What was
            // allocated with `layout` is freed with it.
            unsafe {
                ptr::copy_nonoverlapping(ptr, new, layout.size());
                self.dealloc(ptr, layout);
            }
        }
        new
    }
}

impl<R: RawMutex, S: Source, B: Binning> fmt::Debug for TalcLock<R, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(talc) => f.debug_tuple("TalcLock").field(&*talc).finish(),
            None => f.write_str("TalcLock(<locked>)"),
        }
    }
}
