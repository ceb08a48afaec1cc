//! What the tests of slabs share.

use std::alloc::{GlobalAlloc, Layout, alloc_zeroed};
use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use heap::slab::{Cpus, OneThread, SLAB_SIZE, SlabAllocator};
use heap::source::{Claim, StableGlobalAlloc};
use heap::talc::TalcLock;

/// A Talc allocator over memory of its own.
pub(crate) type Talc = TalcLock<spin::Mutex<()>, Claim>;

/// Slabs for one thread.
pub(crate) type Slabs = SlabAllocator<Counted, OneThread, 1>;

/// Returns Talc over `size` bytes, which are never freed. They begin at a page, so that the same
/// blocks fit each time.
pub(crate) fn talc(size: usize) -> Talc {
    // SAFETY: the size is not zero in any test.
    let memory = unsafe { alloc_zeroed(layout(size, SLAB_SIZE)) };
    assert!(!memory.is_null(), "no memory for a test");
    // SAFETY: the memory has no other user.
    TalcLock::new(unsafe { Claim::new(memory, size) })
}

/// Returns slabs over `size` bytes.
pub(crate) fn slabs(size: usize) -> Slabs {
    SlabAllocator::new(Counted::new(size), OneThread::new())
}

/// Talc that counts its blocks, and refuses after a number of allocations.
#[derive(Debug)]
pub(crate) struct Counted {
    talc: Talc,
    /// The number of blocks in use.
    pub(crate) blocks: AtomicUsize,
    /// The number of calls.
    pub(crate) calls: AtomicUsize,
    /// The number of allocations that succeed before the others fail.
    pub(crate) remaining: AtomicUsize,
}

impl Counted {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            talc: talc(size),
            blocks: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            remaining: AtomicUsize::new(usize::MAX),
        }
    }

    /// Returns the number of blocks in use.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Returns the number of calls.
    #[cfg_attr(
        feature = "hardened",
        expect(dead_code, reason = "slabs serve nothing")
    )]
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Lets all allocations fail after `count` further ones.
    pub(crate) fn refuse_after(&self, count: usize) {
        self.remaining.store(count, Ordering::Relaxed);
    }

    fn may_allocate(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let one_less = |remaining: usize| match remaining {
            usize::MAX => Some(remaining),
            _ => remaining.checked_sub(1),
        };
        self.remaining
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    pub(crate) fn check(&self) {
        self.talc.lock().check().expect("Talc is intact");
    }
}

// SAFETY: all blocks are Talc's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.may_allocate() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's duty.
        let block = unsafe { self.talc.alloc(layout) };
        self.blocks
            .fetch_add(usize::from(!block.is_null()), Ordering::Relaxed);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's duty.
        unsafe { self.talc.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.may_allocate() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's duty.
        unsafe { self.talc.realloc(block, layout, new_size) }
    }
}

// SAFETY: blocks lie in leaked memory.
unsafe impl StableGlobalAlloc for Counted {}

/// A block with a pattern in all its bytes.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) ptr: *mut u8,
    pub(crate) layout: Layout,
    pattern: u8,
}

// SAFETY: the owner of the value has the block.
unsafe impl Send for Block {}

impl Block {
    /// Allocates and fills a block.
    pub(crate) fn new(heap: &impl GlobalAlloc, layout: Layout) -> Option<Self> {
        // SAFETY: no test asks for size zero.
        let ptr = NonNull::new(unsafe { heap.alloc(layout) })?.as_ptr();
        assert_eq!(ptr.addr() % layout.align(), 0, "{layout:?} at {ptr:?}");
        let mut block = Block {
            ptr,
            layout,
            pattern: 0,
        };
        block.fill();
        Some(block)
    }

    /// Fills the block with a pattern that depends on where it is.
    fn fill(&mut self) {
        thread_local!(static NEXT: Cell<u8> = const { Cell::new(1) });
        self.pattern = NEXT.replace(NEXT.get().wrapping_add(1)) ^ (self.ptr.addr() >> 4) as u8;
        // SAFETY: the block has this size.
        unsafe { self.ptr.write_bytes(self.pattern, self.layout.size()) };
    }

    /// Checks the first bytes.
    fn verify_first(&self, count: usize) {
        for offset in 0..count {
            // SAFETY: the block has more bytes.
            let byte = unsafe { self.ptr.add(offset).read() };
            assert_eq!(byte, self.pattern, "byte {offset} of {self:?}");
        }
    }

    pub(crate) fn verify(&self) {
        self.verify_first(self.layout.size());
    }

    /// Checks the contents, and frees the block.
    pub(crate) fn free(self, heap: &impl GlobalAlloc) {
        self.verify();
        // SAFETY: the block is in use with this layout.
        unsafe { heap.dealloc(self.ptr, self.layout) };
    }

    /// Resizes the block. Returns whether that succeeded.
    pub(crate) fn resize(&mut self, heap: &impl GlobalAlloc, size: usize) -> bool {
        // SAFETY: the block is in use with this layout, and no test asks for size zero.
        let ptr = unsafe { heap.realloc(self.ptr, self.layout, size) };
        if ptr.is_null() {
            self.verify();
            return false;
        }
        let kept = self.layout.size().min(size);
        self.ptr = ptr;
        self.layout = layout(size, self.layout.align());
        self.verify_first(kept);
        self.fill();
        true
    }
}

pub(crate) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a small layout")
}

/// Checks slabs and Talc, and that all pages are back after reaping, when no other thread runs.
pub(crate) fn assert_all_is_back<C: Cpus, const N: usize>(heap: &SlabAllocator<Counted, C, N>) {
    heap.check().expect("the slabs are intact");
    heap.reap();
    if N > 1 {
        // What one part shared may have been delivered by another.
        heap.reap();
    }
    assert_eq!(heap.stats().slabs(), 0, "{}", heap.stats());
    assert_eq!(heap.backing().blocks(), 0, "blocks of Talc are in use");
    heap.backing().check();
}
