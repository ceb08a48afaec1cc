//! The kernel heap: the global allocator of whatever links this library.

#[cfg(feature = "hardened")]
pub mod misuse;
#[cfg(not(feature = "hardened"))]
mod misuse {
    //! Nothing is looked for, and nothing found.

    pub struct Found;

    #[inline]
    pub fn take<T>(_: &T) -> Found {
        Found
    }

    #[inline]
    pub fn tell(_: Found) {}

    #[inline]
    pub fn refuses<T>(_: &mut T, _: *mut u8, _: core::alloc::Layout) -> bool {
        false
    }
}

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use heap::source::{ArenaSource, DrainError};
use heap::talc::TalcLock;
use heap::vmem;
use x86_64::instructions::interrupts;

use crate::memory::{HeapArena, PageLock, Tags, frames, mapped_pages};
use crate::sync::InterruptLock;

/// The global allocator. Allocations fail until [`crate::init`] has attached the arena to it.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: KernelHeap = KernelHeap::new();

type Core = TalcLock<InterruptLock, ArenaSource<'static, Tags, PageLock>>;

/// A heap that grows and shrinks by pages of the arena "heap pages". May be used from interrupt handlers.
///
/// The lock masks interrupts while it is held, which is for a constant time, but for growth: that maps up to 2 MiB,
/// or as much as the layout demands. Pages are given back after unlocking, with interrupts as the caller has them;
/// while those are masked (in a handler, for instance) the pages wait for the next call that has them
/// enabled, or for [`drain`](Self::drain).
pub struct KernelHeap {
    talc: Core,
}

/// What the heap and the memory beneath it hold, in bytes unless it says frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// What all heaps keep.
    pub claimed: usize,
    /// What is mapped for them: `claimed`, and what is on its way back.
    pub mapped: usize,
    /// Free bytes inside the heaps, and how many gaps they are in.
    pub free: usize,
    /// See `free`.
    pub gaps: usize,
    /// How many heaps there are.
    pub heaps: usize,
    /// Frames mapped for the heaps.
    pub heap_frames: usize,
    /// All frames in use: those, page tables, boundary tags and what else the kernel took.
    pub frames: usize,
}

impl KernelHeap {
    const fn new() -> Self {
        KernelHeap {
            talc: TalcLock::new(ArenaSource::detached()),
        }
    }

    /// Makes the heap take its memory from `arena` from now on.
    ///
    /// # Safety
    /// What `arena` allocates must be mapped memory that nobody else uses, and neither the arena nor anything
    /// beneath it may allocate from this heap.
    pub(crate) unsafe fn attach(&self, arena: &'static HeapArena) {
        let mut talc = self.talc.lock();
        #[cfg(feature = "hardened")]
        talc.set_hook(misuse::note);
        // SAFETY: the caller vouches for the arena. The source stays the one that is there.
        unsafe { talc.as_mut().source.attach(arena) };
    }

    /// The allocator core, locked by whoever calls [`TalcLock::lock`]. Nothing may be allocated while it is.
    pub fn core(&self) -> &Core {
        &self.talc
    }

    /// Gives queued pages back, whether interrupts are masked or not. Returns how many bytes that were.
    ///
    /// Pages that the arena cannot take now stay in the queue: those of a segment that is being resized, and all
    /// while there is no boundary tag for what becomes free.
    ///
    /// # Panics
    /// When the arena does not know a segment that it gave: it is corrupt.
    pub fn drain(&self) -> usize {
        match self.talc.drain() {
            Ok(bytes) => bytes,
            Err(
                refused @ DrainError {
                    error: vmem::Error::NoSuchAllocation { .. } | vmem::Error::WrongSize { .. },
                    ..
                },
            ) => panic!("{refused}"),
            Err(DrainError { drained, .. }) => drained,
        }
    }

    /// Gives back everything that is free at the top of a heap, and every heap but the first that is empty.
    /// Returns how many bytes that were.
    pub fn reap(&self) -> usize {
        let mut talc = self.talc.lock();
        talc.trim();
        let found = misuse::take(&talc);
        drop(talc);
        let drained = self.drain();
        misuse::tell(found);
        drained
    }

    /// What the heap holds just now. O(gaps).
    pub fn stats(&self) -> Stats {
        let talc = self.talc.lock();
        let heaps = talc.arena_heaps().count();
        let (free, gaps) = talc
            .gaps()
            .fold((0, 0), |(free, gaps), gap| (free + gap.size(), gaps + 1));
        let claimed = talc.source.claimed();
        drop(talc);
        let usage = frames::usage();
        Stats {
            claimed,
            mapped: mapped_pages::mapped() * crate::memory::PAGE_SIZE,
            free,
            gaps,
            heaps,
            heap_frames: usage.heap,
            frames: usage.used(),
        }
    }

    /// Tries once more, after everything that can be given back was, when an allocation has failed.
    #[cold]
    fn retry(&self, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
        self.reap();
        allocate()
    }

    fn allocate(&self, layout: Layout) -> *mut u8 {
        let mut talc = self.talc.lock();
        // SAFETY: the sizes that `GlobalAlloc` is called with are not zero.
        let block = unsafe { talc.allocate(layout) };
        let found = misuse::take(&talc);
        drop(talc);
        misuse::tell(found);
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Drains if there is something to drain, and interrupts are enabled.
    #[inline]
    fn settle(&self, has_pending_releases: bool) {
        if has_pending_releases && interrupts::are_enabled() {
            self.drain();
        }
    }
}

// SAFETY: `Talc` is an allocator, and the lock makes it exclusive. Blocks stay where they are until they are
// freed: only memory above the last block of a heap is ever given back.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.allocate(layout);
        if block.is_null() {
            self.retry(|| self.allocate(layout))
        } else {
            block
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut talc = self.talc.lock();
        // SAFETY: the caller vouches for the block and its layout.
        unsafe { talc.deallocate(block, layout) };
        let has_pending_releases = talc.source.has_pending_releases();
        let found = misuse::take(&talc);
        drop(talc);
        misuse::tell(found);
        self.settle(has_pending_releases);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let mut talc = self.talc.lock();
        // SAFETY: the allocator and its source stay what they are.
        if misuse::refuses(unsafe { talc.as_mut() }, block, layout) {
            let found = misuse::take(&talc);
            drop(talc);
            misuse::tell(found);
            return ptr::null_mut();
        }
        // SAFETY: the caller vouches for the block and its layout, and that `size` is not zero.
        let in_place = unsafe { talc.try_realloc_in_place(block, layout, size) };
        let has_pending_releases = talc.source.has_pending_releases();
        let found = misuse::take(&talc);
        drop(talc);
        misuse::tell(found);
        if in_place {
            self.settle(has_pending_releases);
            return block;
        }
        // SAFETY: the caller vouches that `size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks are live and apart, and have at least the smaller of the two sizes.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the caller gives the old block up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}
