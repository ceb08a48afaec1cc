//! The kernel heap: the global allocator of every program that links this library.

#[cfg(feature = "hardened")]
pub mod misuse;

use core::alloc::{GlobalAlloc, Layout};

use heap::source::{ArenaSource, DrainError};
use heap::talc::TalcLock;
use heap::talc::sync::ReclaimHooks;
use heap::vmem;
use x86_64::instructions::interrupts;

use crate::memory::{HeapArena, PAGE_SIZE, PageLock, Tags, frames, mapped_pages};
use crate::sync::InterruptLock;

/// The global allocator. Allocations fail until [`crate::init`] has attached the arena.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: KernelHeap = KernelHeap::new();

/// The source of the heap's memory: the arena "heap pages".
type PageSource = ArenaSource<'static, Tags, PageLock>;

/// A heap that grows and shrinks by pages of the arena "heap pages". Interrupt handlers may use the
/// heap too.
///
/// The lock masks interrupts while it is held. `alloc` and `dealloc` hold it for a constant time,
/// except for growth and for an allocation that is refused. Growth maps up to 2 MiB, or as much as
/// the layout needs.
///
/// Free pages go to a release queue. They are unmapped after unlocking, if interrupts are enabled
/// then. Otherwise (in a handler, for instance) they wait for the next call with interrupts
/// enabled, or for [`drain`](Self::drain).
pub struct KernelHeap {
    talc: TalcLock<InterruptLock, PageSource>,
}

/// The memory of the heap and of the layers below it, in bytes unless a field says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// The bytes that all heaps retain.
    pub claimed: usize,
    /// The bytes that are mapped: `claimed`, and the pages in the release queue.
    pub mapped: usize,
    /// The free bytes inside the heaps.
    pub free: usize,
    /// The number of gaps that the free bytes are in.
    pub gaps: usize,
    /// The number of heaps.
    pub heaps: usize,
    /// The frames that are mapped for the heaps.
    pub heap_frames: usize,
    /// All frames in use: for heaps, page tables, boundary tags and other purposes.
    pub frames: usize,
}

impl KernelHeap {
    const fn new() -> Self {
        KernelHeap {
            talc: TalcLock::new(ArenaSource::detached()),
        }
    }

    /// Attaches the arena that the heap takes its memory from.
    ///
    /// # Safety
    /// Memory that `arena` allocates must be mapped and used by the caller of the arena only.
    /// Neither the arena nor any layer below may allocate from this heap.
    pub(crate) unsafe fn attach(&self, arena: &'static HeapArena) {
        let mut talc = self.talc.lock();
        #[cfg(feature = "hardened")]
        talc.set_hook(misuse::report);
        // SAFETY: the allocator is not replaced, and its source only gets an arena.
        let talc = unsafe { talc.as_mut() };
        // SAFETY: the caller guarantees what the source requires of its arena.
        unsafe { talc.source.attach(arena) };
    }

    /// Returns the allocator behind its lock.
    ///
    /// Code that holds the lock must not allocate from the heap: the kernel panics if it does.
    pub fn core(&self) -> &TalcLock<InterruptLock, PageSource> {
        &self.talc
    }

    /// Unmaps the pages in the release queue, even if interrupts are masked. Returns the number of
    /// bytes that were unmapped.
    ///
    /// Two kinds of pages stay in the queue: those of a segment that is being resized, and all
    /// pages for which the arena has no boundary tag at the moment.
    ///
    /// # Panics
    /// Panics if the arena does not know a segment that it allocated: the arena is corrupt.
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

    /// Unmaps all free memory at the tops of heaps, and all empty heaps except the first. Returns
    /// the number of bytes that were unmapped.
    pub fn reap(&self) -> usize {
        // SAFETY: trimming replaces neither the allocator nor its source.
        unsafe { self.talc.run_locked(|talc| talc.trim()) };
        self.drain()
    }

    /// Returns the present state of the heap. O(gaps).
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
            mapped: mapped_pages::mapped() * PAGE_SIZE,
            free,
            gaps,
            heaps,
            heap_frames: usage.heap,
            frames: usage.used(),
        }
    }
}

impl ReclaimHooks<PageSource> for KernelHeap {
    #[inline]
    fn is_due(source: &PageSource) -> bool {
        source.has_pending_releases()
    }

    /// Drains the release queue, if interrupts are enabled.
    #[inline]
    fn release(&self) {
        if interrupts::are_enabled() {
            self.drain();
        }
    }

    fn reclaim(&self) {
        self.reap();
    }
}

// SAFETY: all operations are those of `TalcLock`. A block stays where it is until it is freed: only
// memory above the last block of a heap is unmapped.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.talc.reclaiming(self).realloc(block, layout, size) }
    }
}
