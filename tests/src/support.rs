//! What several test files use.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;

use kernel::heap::{HEAP, Stats};
use kernel::memory::frames::{self, Purpose, Usage};
use kernel::memory::{self, HeapArena, heap_pages, kernel_addresses};
use x86_64::structures::paging::PhysFrame;

/// The arena of the heap's pages, for tests that allocate from it.
pub fn heap_pages_arena() -> &'static HeapArena {
    // SAFETY: each test frees and resizes only what it has allocated, and adds no span.
    unsafe { memory::heap_pages_arena() }
}

/// The arena of the window's addresses, for tests that allocate from it.
pub fn kernel_addresses_arena() -> &'static HeapArena {
    // SAFETY: each test frees and resizes only what it has allocated, and adds no span.
    unsafe { memory::kernel_addresses_arena() }
}

/// A frame that a test owns: it is given back when dropped.
pub struct OwnedFrame(PhysFrame);

impl OwnedFrame {
    /// Takes a frame; `None` when none is free.
    pub fn take() -> Option<Self> {
        frames::allocate(Purpose::Other).map(Self)
    }

    /// Which one it is.
    pub fn get(&self) -> PhysFrame {
        self.0
    }
}

impl Drop for OwnedFrame {
    fn drop(&mut self) {
        // SAFETY: `take` has allocated it, and it cannot be copied; whoever has used its memory has
        // borrowed it meanwhile.
        unsafe { frames::free(self.0, Purpose::Other) }.expect("it was taken");
    }
}

/// `size` bytes on the heap, each of them `byte`. The compiler may not leave the allocation out, nor what comes
/// of it: an allocation whose result nobody sees need not happen.
pub fn filled(byte: u8, size: usize) -> Vec<u8> {
    black_box(vec![byte; size])
}

/// A xorshift generator: repeatable variety.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A size of at most `1 << (logs - 1)`, small ones as often as large ones.
    pub fn size(&mut self, logs: usize) -> usize {
        let log = self.below(logs);
        1 + self.below(1 << log)
    }
}

/// What all layers hold when the heap has given back what it can. Equal before and after whatever frees what it
/// allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    stats: Stats,
    usage: Usage,
    pages: usize,
    addresses: usize,
}

impl Snapshot {
    pub fn take() -> Self {
        HEAP.reap();
        let (mut stats, mut usage) = (HEAP.stats(), frames::usage());
        // The pool of boundary tags keeps some pages, and the harness sees to it that they are few.
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

/// Blocks of the kernel heap, each filled with a byte of its own, which is read back before it is freed.
pub struct Blocks {
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
        // SAFETY: the block is live, and `from` is within it.
        unsafe {
            self.base
                .add(from)
                .write_bytes(self.fill, self.layout.size() - from)
        };
    }

    fn verify(&self, size: usize) {
        // SAFETY: the block is live, and was filled.
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
    pub fn new() -> Self {
        Blocks {
            blocks: Vec::new(),
            bytes: 0,
            next: 1,
        }
    }

    /// Bytes in all blocks.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Allocates and fills a block. `None` when the heap refuses.
    pub fn allocate(&mut self, layout: Layout) -> Option<*mut u8> {
        self.blocks.try_reserve(1).ok()?;
        // SAFETY: the tests ask for no size of zero.
        self.keep(unsafe { HEAP.alloc(layout) }, layout)
    }

    /// The same for a block that is to be clear, which is verified.
    pub fn allocate_zeroed(&mut self, layout: Layout) -> Option<*mut u8> {
        self.blocks.try_reserve(1).ok()?;
        // SAFETY: the tests ask for no size of zero.
        let base = unsafe { HEAP.alloc_zeroed(layout) };
        if !base.is_null() {
            let block = Block {
                base,
                layout,
                fill: 0,
            };
            block.verify(layout.size());
        }
        self.keep(base, layout)
    }

    /// Fills a block, for which there is room in the list.
    fn keep(&mut self, base: *mut u8, layout: Layout) -> Option<*mut u8> {
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

    /// Changes a random block's size at random.
    pub fn reallocate(&mut self, random: &mut Random) {
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
        let kept = layout.size().min(size);
        let layout = Layout::from_size_align(size, layout.align()).expect("a small layout");
        let block = Block { base, layout, fill };
        block.verify(kept);
        block.fill(kept);
        self.bytes = self.bytes - self.blocks[index].layout.size() + size;
        self.blocks[index] = block;
    }

    /// Frees a random block, if there is one.
    pub fn free_any(&mut self, random: &mut Random) {
        if !self.blocks.is_empty() {
            let block = self.blocks.swap_remove(random.below(self.blocks.len()));
            self.free(block);
        }
    }

    /// Frees every second block, from a random one on.
    pub fn free_half(&mut self, random: &mut Random) {
        let mut index = random.below(self.blocks.len() + 1);
        while index < self.blocks.len() {
            let block = self.blocks.swap_remove(index);
            self.free(block);
            index += 1;
        }
    }

    /// Checks all contents.
    pub fn verify(&self) {
        for block in &self.blocks {
            block.verify(block.layout.size());
        }
    }

    fn free(&mut self, block: Block) {
        block.verify(block.layout.size());
        self.bytes -= block.layout.size();
        // SAFETY: the block is live, and is forgotten.
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
