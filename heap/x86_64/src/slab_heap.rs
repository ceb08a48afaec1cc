//! [`SlabHeap`]: small blocks from slabs, larger ones from Talc, over an arena of pages.

use core::alloc::{GlobalAlloc, Layout};

use heap::slab::{self, SlabAllocator, SlabCorruption, SlabInfo};
use heap::source::{ArenaSource, DecayInterval, PageHeap};
use heap::talc::TalcLock;
use heap::vmem::{Arena, TagSupply};

use crate::machine;
use crate::sync::{InterruptLock, InterruptsEnabled, ThisCpu};
use crate::tags::PageLock;

/// A heap that interrupt handlers may use too. Allocations fail until it has an arena.
///
/// ```text
///     up to 496 bytes ──> slabs ── pages ──┐
///     more ────────────────────────────────┴──> Talc ── heaps ──> arena of pages ──> frames
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
/// Pages that stay free for an [interval](DecayInterval) are unmapped too, wherever they are: those
/// inside a heap leave a *hole*, whose addresses stay the heap's. An allocation for which nothing
/// else has room maps as much of a hole as it needs.
pub struct SlabHeap<A: TagSupply + 'static> {
    slabs: SlabAllocator<InterruptPageHeap<A>, ThisCpu, { ThisCpu::COUNT }>,
}

/// What is behind the slabs: Talc over pages of an arena.
pub type InterruptPageHeap<A> = PageHeap<'static, InterruptLock, A, PageLock, InterruptsEnabled>;

impl<A: TagSupply> SlabHeap<A> {
    /// Creates a heap without an arena.
    ///
    /// # Safety
    /// As for [`ThisCpu::new`]: without the feature `smp`, the code that uses the heap runs on one
    /// CPU. No handler that masking interrupts does not keep out uses the heap.
    pub const unsafe fn new() -> Self {
        // SAFETY: the caller guarantees the same.
        let cpu = unsafe { ThisCpu::new() };
        Self {
            slabs: SlabAllocator::new(PageHeap::new(ArenaSource::detached()), cpu),
        }
    }

    /// Takes memory from `arena` from now on. Returns `false` and changes nothing if the heap has
    /// an arena already.
    ///
    /// # Safety
    /// * What `arena` allocates is mapped and writable memory, and used by the caller of the arena
    ///   only.
    /// * Neither the arena nor any layer below may allocate from this heap.
    pub unsafe fn attach(&self, arena: &'static Arena<'static, 'static, A, PageLock>) -> bool {
        // SAFETY: the caller guarantees what the heap requires of its arena.
        unsafe { self.pages().attach(arena) }
    }

    /// Returns the allocator behind the slabs.
    #[inline]
    fn pages(&self) -> &InterruptPageHeap<A> {
        self.slabs.backing()
    }

    /// Returns the allocator behind the slabs, behind its lock.
    ///
    /// Code that holds the lock must not allocate from the heap: the lock panics if it does.
    #[inline]
    pub fn core(&self) -> &TalcLock<InterruptLock, ArenaSource<'static, A, PageLock>> {
        self.pages().talc()
    }

    /// Returns the counts of slabs and of their blocks. O(slabs).
    pub fn slabs(&self) -> slab::Stats {
        self.slabs.stats()
    }

    /// Returns what each CPU has done with slabs, and what it holds back. O(slabs).
    pub fn slabs_of_cpus(&self) -> [slab::CpuStats; ThisCpu::COUNT] {
        self.slabs.cpu_stats()
    }

    /// Calls `visitor` with each slab. O(slabs).
    ///
    /// The list of slabs is locked meanwhile: `visitor` must not allocate, free, print, or wait for
    /// a lock.
    pub fn visit_slabs(&self, visitor: impl FnMut(SlabInfo)) {
        self.slabs.visit(visitor);
    }

    /// Returns the slab that contains an address. Waits for no lock. O(slabs).
    pub fn try_slab_of(&self, address: usize) -> Option<SlabInfo> {
        // The list of slabs is locked meanwhile, which handlers wait for.
        machine::enter();
        let slab = self.slabs.try_slab_of(address);
        machine::leave();
        slab
    }

    /// Checks the invariants of the slabs that are not full. O(their blocks).
    ///
    /// # Errors
    /// Returns the first invariant that is broken.
    pub fn check_slabs(&self) -> Result<(), SlabCorruption> {
        self.slabs.check()
    }

    /// Unmaps the pages in the release queue, even if interrupts are masked. Returns the number of
    /// bytes that went back to the arena. See [`PageHeap::drain`].
    ///
    /// # Panics
    /// Panics if the arena does not know a segment that it allocated: the arena is corrupt.
    pub fn drain(&self) -> usize {
        self.pages().drain()
    }

    /// Gives back free slabs. Then unmaps the pages that have been free since the last call: inside
    /// the heaps, where they leave holes, and at their tops. Returns the number of bytes that went
    /// back. (Holes at a top count, though they are not mapped any more.)
    ///
    /// Apart from the slabs, this is done at [intervals](DecayInterval) anyway. Code that waits for
    /// work may call it too.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn decay(&self) -> usize {
        self.slabs.reap();
        self.pages().decay()
    }

    /// Does what a kernel does that is idle for a few seconds: [decays](Self::decay) 24 times.
    /// Returns the number of bytes that went back, as `decay` does.
    ///
    /// A program that measures memory calls this function before, so that its figures do not depend
    /// on how fast the machine is.
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn settle(&self) -> usize {
        // What a heap is expected to need falls by a quarter in each idle interval.
        (0..24).map(|_| self.decay()).sum()
    }

    /// Gives back all free slabs. Then unmaps all free pages of the heaps, and all empty heaps
    /// except the first. Returns the number of bytes that went back. (Holes at a top count, though
    /// they are not mapped any more.)
    ///
    /// # Panics
    /// Panics as [`drain`](Self::drain) does.
    pub fn reap(&self) -> usize {
        self.slabs.reap();
        self.pages().reap()
    }

    /// Gives back the slabs of this CPU that are free. See [`SlabAllocator::reap_own`].
    pub fn reap_own(&self) {
        self.slabs.reap_own();
    }

    /// Sets how often pages decay. Returns the interval before. See
    /// [`PageHeap::set_decay_interval`].
    pub fn set_decay_interval(&self, interval: DecayInterval) -> DecayInterval {
        self.pages().set_decay_interval(interval)
    }

    /// Counts a tick of a timer, whose handler may call this function. See
    /// [`PageHeap::count_tick`].
    pub fn count_tick(&self) {
        self.pages().count_tick();
    }
}

// SAFETY: all operations are those of `SlabAllocator`.
unsafe impl<A: TagSupply> GlobalAlloc for SlabHeap<A> {
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
