//! The kernel heap: the global allocator of every program that links this library.

pub mod decay;
#[cfg(feature = "hardened")]
pub mod misuse;

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Deref;

use heap_x86_64::SlabHeap;

use crate::memory::{HeapArena, PAGE_SIZE, Tags, frames, mapped_pages, stacks};

/// The global allocator. Allocations fail until [`crate::init`] has attached the arena.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: KernelHeap = KernelHeap::new();

/// A heap that grows and shrinks by pages of the arena "heap pages". Interrupt handlers may use the
/// heap too. Its methods are those of [`SlabHeap`].
pub struct KernelHeap {
    slabs: SlabHeap<Tags>,
}

/// The memory of the heap and of the layers below it, in bytes unless a field says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// The bytes that all heaps retain.
    pub claimed: usize,
    /// The bytes of `claimed` that are in holes: pages inside the heaps that were unmapped.
    pub holes: usize,
    /// The bytes that are mapped: `claimed` without `holes`, and the pages in the release queue.
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
            // SAFETY: `boot::init` and `cpus` call `start_cpu` first. A non-maskable interrupt ends
            // in a report that does not allocate.
            slabs: unsafe { SlabHeap::new() },
        }
    }

    /// Attaches the arena that the heap takes its memory from.
    ///
    /// # Safety
    /// Memory that `arena` allocates must be mapped and used by the caller of the arena only.
    /// Neither the arena nor any layer below may allocate from this heap.
    pub(crate) unsafe fn attach(&self, arena: &'static HeapArena) {
        #[cfg(feature = "hardened")]
        self.core().lock().set_hook(misuse::report);
        // SAFETY: the caller guarantees what the heap requires of its arena.
        unsafe { self.slabs.attach(arena) };
    }

    /// Returns the present state of the heap. O(gaps).
    pub fn stats(&self) -> Stats {
        let talc = self.core().lock();
        let heaps = talc.arena_heaps().count();
        let (free, gaps) = talc
            .gaps()
            .fold((0, 0), |(free, gaps), gap| (free + gap.size(), gaps + 1));
        let (claimed, holes) = (talc.source.claimed(), talc.source.hole_bytes());
        drop(talc);
        let usage = frames::usage();
        Stats {
            claimed,
            holes,
            mapped: mapped_pages::mapped() * PAGE_SIZE - stacks::allocated(),
            free,
            gaps,
            heaps,
            heap_frames: usage.heap - stacks::allocated() / PAGE_SIZE,
            frames: usage.used(),
        }
    }
}

impl Deref for KernelHeap {
    type Target = SlabHeap<Tags>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.slabs
    }
}

// SAFETY: all operations are those of `SlabHeap`.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.slabs.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.slabs.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.slabs.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { self.slabs.realloc(block, layout, size) }
    }
}
