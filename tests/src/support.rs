//! Helpers for several test files.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;

use kernel::heap::{HEAP, Stats};
use kernel::memory::frames::{self, Purpose, Usage};
use kernel::memory::{self, HeapArena, PAGE_SIZE, heap_pages, kernel_addresses};
use x86_64::structures::paging::{PhysFrame, Size2MiB};

/// Returns the arena of the heap's pages, for tests that allocate from it.
pub(crate) fn heap_pages_arena() -> &'static HeapArena {
    // SAFETY: each test frees, resizes and discards only segments that it has allocated, and adds
    // no span.
    unsafe { memory::heap_pages_arena() }
}

/// Returns the arena of the window's addresses, for tests that allocate from it.
pub(crate) fn kernel_addresses_arena() -> &'static HeapArena {
    // SAFETY: each test frees and resizes only segments that it has allocated, and adds no span.
    unsafe { memory::kernel_addresses_arena() }
}

/// A frame that a test owns, and that is freed on drop.
pub(crate) struct OwnedFrame(PhysFrame);

impl OwnedFrame {
    /// Allocates a frame. Returns `None` if no frame is free.
    pub(crate) fn take() -> Option<Self> {
        frames::allocate(Purpose::Other).map(Self)
    }

    /// Returns the frame.
    pub(crate) fn get(&self) -> PhysFrame {
        self.0
    }
}

impl Drop for OwnedFrame {
    fn drop(&mut self) {
        // SAFETY: `take` has allocated the frame, and only this value has it. Tests access its
        // memory only while they borrow this value.
        unsafe { frames::free(self.0, Purpose::Other) }.expect("it is allocated");
    }
}

/// A limit on free memory: the frames beyond the limit are allocated until it is dropped.
pub(crate) struct Limit {
    large: Vec<PhysFrame<Size2MiB>>,
    small: Vec<OwnedFrame>,
}

impl Limit {
    pub(crate) fn new(bytes: usize) -> Self {
        let wanted = bytes / PAGE_SIZE;
        let mut limit = Self {
            large: Vec::with_capacity(frames::usage().free / 512),
            small: Vec::new(),
        };
        while frames::usage().free >= wanted + 512
            && let Some(frame) = frames::allocate_2mib(Purpose::Other)
        {
            limit.large.push(frame);
        }
        let others = frames::usage().free.saturating_sub(wanted);
        limit.small.reserve_exact(others);
        while frames::usage().free > wanted && limit.small.len() < limit.small.capacity() {
            let frame = OwnedFrame::take();
            limit.small.push(frame.expect("frames are free"));
        }
        assert!(frames::usage().free <= wanted);
        limit
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        for frame in self.large.drain(..) {
            // SAFETY: `new` has allocated the frame, and no code uses it.
            unsafe { frames::free_2mib(frame, Purpose::Other) }.expect("it is allocated");
        }
    }
}

/// Returns `size` bytes on the heap that all have the value `byte`. The compiler cannot optimise
/// the allocation away, as it may for a block that the program does not use.
pub(crate) fn filled(byte: u8, size: usize) -> Vec<u8> {
    black_box(vec![byte; size])
}

/// A xorshift generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Returns a size of at most `1 << (logs - 1)`. All powers of two are equally likely.
    pub(crate) fn size(&mut self, logs: usize) -> usize {
        let log = self.below(logs);
        1 + self.below(1 << log)
    }
}

/// The counts of all layers after the heap has unmapped its free memory. Snapshots before and after
/// code that leaks no memory are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    stats: Stats,
    usage: Usage,
    pages: usize,
    addresses: usize,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        HEAP.reap();
        let (mut stats, mut usage) = (HEAP.stats(), frames::usage());
        // The pool of boundary tags retains some pages, whose number the harness checks.
        stats.frames -= usage.tags;
        usage.free += core::mem::take(&mut usage.tags);
        Self {
            stats,
            usage,
            pages: heap_pages().allocated_space(),
            addresses: kernel_addresses().allocated_space(),
        }
    }
}

/// Blocks of the kernel heap. Each is filled with a byte, and verified before it is freed.
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    bytes: usize,
    next: u8,
}

#[derive(Clone, Copy)]
struct Block {
    base: *mut u8,
    layout: Layout,
    fill: u8,
}

impl Block {
    fn fill(&self, from: usize) {
        // SAFETY: the block is live, and `from` is at most its size.
        unsafe {
            self.base
                .add(from)
                .write_bytes(self.fill, self.layout.size() - from)
        };
    }

    fn verify(&self, size: usize) {
        // SAFETY: the block is live, and its first `size` bytes were written.
        let bytes = unsafe { core::slice::from_raw_parts(self.base, size) };
        assert!(
            bytes.iter().all(|&byte| byte == self.fill),
            "the block at {:p}, {:?}, changed",
            self.base,
            self.layout
        );
    }
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Blocks {
            blocks: Vec::new(),
            bytes: 0,
            next: 1,
        }
    }

    /// Returns the number of bytes in all blocks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Allocates and fills a block. Returns `None` if the allocation fails.
    pub(crate) fn allocate(&mut self, layout: Layout) -> Option<*mut u8> {
        self.blocks.try_reserve(1).ok()?;
        // SAFETY: the tests pass no size of zero.
        self.add(unsafe { HEAP.alloc(layout) }, layout)
    }

    /// Allocates a zeroed block, verifies that it is zero, and fills it.
    pub(crate) fn allocate_zeroed(&mut self, layout: Layout) -> Option<*mut u8> {
        self.blocks.try_reserve(1).ok()?;
        // SAFETY: the tests pass no size of zero.
        let base = unsafe { HEAP.alloc_zeroed(layout) };
        if !base.is_null() {
            let block = Block {
                base,
                layout,
                fill: 0,
            };
            block.verify(layout.size());
        }
        self.add(base, layout)
    }

    /// Fills a block, and adds it to the list, which has the capacity.
    fn add(&mut self, base: *mut u8, layout: Layout) -> Option<*mut u8> {
        if base.is_null() {
            return None;
        }
        let block = Block {
            base,
            layout,
            fill: self.next,
        };
        self.next = self.next.wrapping_add(1);
        block.fill(0);
        self.blocks.push(block);
        self.bytes += layout.size();
        Some(base)
    }

    /// Changes the size of a random block at random.
    pub(crate) fn reallocate(&mut self, random: &mut Random) {
        if self.blocks.is_empty() {
            return;
        }
        let index = random.below(self.blocks.len());
        let Block { base, layout, fill } = self.blocks[index];
        let size = random.size(15);
        // SAFETY: the block is live, and has this layout.
        let base = unsafe { HEAP.realloc(base, layout, size) };
        if base.is_null() {
            return;
        }
        let common = layout.size().min(size);
        let layout = Layout::from_size_align(size, layout.align()).expect("a small layout");
        let block = Block { base, layout, fill };
        block.verify(common);
        block.fill(common);
        self.bytes = self.bytes - self.blocks[index].layout.size() + size;
        self.blocks[index] = block;
    }

    /// Frees a random block, if the list has one.
    pub(crate) fn free_any(&mut self, random: &mut Random) {
        if !self.blocks.is_empty() {
            let block = self.blocks.swap_remove(random.below(self.blocks.len()));
            self.free(block);
        }
    }

    /// Frees every second block, from a random block on.
    pub(crate) fn free_half(&mut self, random: &mut Random) {
        let mut index = random.below(self.blocks.len() + 1);
        while index < self.blocks.len() {
            let block = self.blocks.swap_remove(index);
            self.free(block);
            index += 1;
        }
    }

    /// Verifies all blocks.
    pub(crate) fn verify(&self) {
        for block in &self.blocks {
            block.verify(block.layout.size());
        }
    }

    fn free(&mut self, block: Block) {
        block.verify(block.layout.size());
        self.bytes -= block.layout.size();
        // SAFETY: the block is live, and is not in the list any more.
        unsafe { HEAP.dealloc(block.base, block.layout) };
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        while let Some(block) = self.blocks.pop() {
            self.free(block);
        }
    }
}
