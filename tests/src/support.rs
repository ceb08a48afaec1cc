//! What several test files use.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;

use kernel::heap::HEAP;

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
        let base = unsafe { HEAP.alloc(layout) };
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
