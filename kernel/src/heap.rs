//! The kernel heap: the global allocator of every program that links this library.

pub mod decay;
#[cfg(feature = "hardened")]
pub mod misuse;

use core::alloc::{GlobalAlloc, Layout};

use heap::slab::{self, SlabAllocator, SlabCorruption, SlabInfo};
use heap::source::{ArenaSource, DrainError, StableGlobalAlloc};
use heap::talc::TalcLock;
use heap::talc::sync::ReclaimHooks;
use heap::vmem;
use x86_64::instructions::interrupts;

use crate::memory::{HeapArena, PAGE_SIZE, PageLock, Tags, frames, mapped_pages};
use crate::sync::{InterruptLock, ThisCpu};

/// The global allocator. Allocations fail until [`crate::init`] has attached the arena.
#[cfg_attr(target_os = "none", global_allocator)]
pub static HEAP: KernelHeap = KernelHeap::new();

/// The source of the heap's memory: the arena "heap pages".
type PageSource = ArenaSource<'static, Tags, PageLock>;

/// A heap that grows and shrinks by pages of the arena "heap pages". Interrupt handlers may use the
/// heap too.
///
/// ```text
///     up to 496 bytes ──> slabs ── pages ──┐
///     more ────────────────────────────────┴──> Talc ── heaps ──> "heap pages" ──> frames
/// ```
///
/// Interrupts are masked while a slab is used, and while Talc's lock is held. `alloc` and `dealloc`
/// do each for a constant time, except for an allocation that is refused. Growth maps up to 2 MiB,
/// or as much as the layout needs, while the lock is free: 16 pages at a time with interrupts
/// masked.
///
/// Free pages at the top of a heap go to a release queue. They are unmapped after unlocking, if
/// interrupts are enabled then. Otherwise (in a handler, for instance) they wait for the next call
/// that frees memory of Talc with interrupts enabled, or for [`drain`](Self::drain).
///
/// Pages that stay free for an [interval](decay::Interval) are unmapped too, wherever they are:
/// those inside a heap leave a *hole*, whose addresses stay the heap's. An allocation for which
/// nothing else has room maps as much of a hole as it needs.
pub struct KernelHeap {
    slabs: SlabAllocator<PageHeap, ThisCpu, { ThisCpu::COUNT }>,
}

/// Talc over pages of the arena: what is behind the slabs.
struct PageHeap {
    talc: TalcLock<InterruptLock, PageSource>,
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
            slabs: SlabAllocator::new(
                PageHeap {
                    talc: TalcLock::new(ArenaSource::detached()),
                },
                ThisCpu::new(),
            ),
        }
    }

    /// Attaches the arena that the heap takes its memory from.
    ///
    /// # Safety
    /// Memory that `arena` allocates must be mapped and used by the caller of the arena only.
    /// Neither the arena nor any layer below may allocate from this heap.
    pub(crate) unsafe fn attach(&self, arena: &'static HeapArena) {
        let mut talc = self.core().lock();
        #[cfg(feature = "hardened")]
        talc.set_hook(misuse::report);
        // SAFETY: the allocator is not replaced, and its source only gets an arena.
        let talc = unsafe { talc.as_mut() };
        // SAFETY: the caller guarantees what the source requires of its arena.
        unsafe { talc.source.attach(arena) };
    }

    /// Returns the allocator behind the slabs, behind its lock.
    ///
    /// Code that holds the lock must not allocate from the heap: the kernel panics if it does.
    pub fn core(&self) -> &TalcLock<InterruptLock, PageSource> {
        &self.slabs.backing().talc
    }

    /// Returns the counts of slabs and of their blocks. O(slabs).
    pub fn slabs(&self) -> slab::Stats {
        self.slabs.stats()
    }

    /// Calls `visitor` with each slab. O(slabs).
    ///
    /// The list of slabs is locked meanwhile: `visitor` must not allocate or free.
    pub fn visit_slabs(&self, visitor: impl FnMut(SlabInfo)) {
        self.slabs.visit(visitor);
    }

    /// Returns the slab that contains an address. Waits for no lock. O(slabs).
    pub(crate) fn try_slab_of(&self, address: usize) -> Option<SlabInfo> {
        self.slabs.try_slab_of(address)
    }

    /// Checks the invariants of the slabs that are not full. O(their blocks).
    ///
    /// # Errors
    /// Returns the first invariant that is broken.
    pub fn check_slabs(&self) -> Result<(), SlabCorruption> {
        self.slabs.check()
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
        self.slabs.backing().drain()
    }

    /// Gives back free slabs. Then unmaps the pages that have been free since the last call: inside
    /// the heaps, where they leave holes, and at their tops. Returns the number of bytes that were
    /// unmapped.
    ///
    /// Apart from the slabs, this is done [at intervals](decay) anyway. Code that waits for work
    /// may call it too.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn decay(&self) -> usize {
        self.slabs.reap();
        self.slabs.backing().decay()
    }

    /// Does what a kernel does that is idle for a few seconds: [decays](Self::decay) 24 times.
    /// Returns the number of bytes that were unmapped.
    ///
    /// The demonstration calls this function before it measures, so that its figures do not depend
    /// on how fast the machine is.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn settle(&self) -> usize {
        // What a heap is expected to need falls by a quarter in each idle interval.
        (0..24).map(|_| self.decay()).sum()
    }

    /// Gives back all free slabs. Then unmaps all free pages of the heaps, and all empty heaps
    /// except the first. Returns the number of bytes that were unmapped.
    pub fn reap(&self) -> usize {
        self.slabs.reap();
        self.slabs.backing().reap()
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
            mapped: mapped_pages::mapped() * PAGE_SIZE,
            free,
            gaps,
            heaps,
            heap_frames: usage.heap,
            frames: usage.used(),
        }
    }
}

impl PageHeap {
    /// Unmaps the spans of the release queue. Returns the number of bytes that were unmapped.
    ///
    /// # Panics
    /// If the arena refuses a span as one that it did not allocate.
    fn drain(&self) -> usize {
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

    /// Unmaps all free pages of the heaps, and all empty heaps except the first. Returns the number
    /// of bytes that were unmapped.
    fn reap(&self) -> usize {
        self.talc.trim();
        self.drain() + self.talc.punch()
    }

    /// Unmaps the pages that have been free since the last call. Returns the number of bytes that
    /// were unmapped.
    fn decay(&self) -> usize {
        decay::begin_interval();
        let holes = self.talc.decay();
        holes + self.drain()
    }
}

impl ReclaimHooks<PageSource> for PageHeap {
    #[inline]
    fn is_due(&self, source: &PageSource) -> bool {
        decay::count_free() || source.has_pending_releases()
    }

    /// Drains the release queue, and makes a pass if one is due, if interrupts are enabled.
    #[inline]
    fn release(&self) {
        if !interrupts::are_enabled() {
            return;
        }
        if decay::is_due() {
            self.decay();
        } else {
            self.drain();
        }
    }

    fn reclaim(&self) {
        self.reap();
    }
}

// SAFETY: all operations are those of `TalcLock`. A block stays where it is until it is freed: only
// pages without a block are unmapped.
unsafe impl GlobalAlloc for PageHeap {
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

// SAFETY: blocks lie in pages of the arena, wherever the allocator is.
unsafe impl StableGlobalAlloc for PageHeap {}

// SAFETY: all operations are those of `SlabAllocator`.
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
