//! Replays a workload, operation by operation, on any allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use heap::Span;
use kernel::trace::Operation;

use super::region::Table;

/// The blocks of a running workload.
///
/// With `VERIFY`, each block is filled with the pattern of its slot, and verified when it is freed
/// or reallocated. Otherwise only the first byte of a block is written.
pub(crate) struct Replayer<'h, H: GlobalAlloc, const VERIFY: bool> {
    heap: &'h H,
    slots: Table<Block>,
    /// The number of bytes in live blocks.
    pub live: usize,
    /// The largest number of live bytes so far.
    pub peak: usize,
    /// The number of failed allocations.
    pub failed: usize,
    /// The number of blocks whose contents had changed.
    pub damaged: usize,
}

#[derive(Clone, Copy)]
struct Block {
    /// Null while the slot is empty.
    base: *mut u8,
    layout: Layout,
}

const EMPTY: Block = Block {
    base: ptr::null_mut(),
    layout: Layout::new::<()>(),
};

impl<'h, H: GlobalAlloc, const VERIFY: bool> Replayer<'h, H, VERIFY> {
    /// Creates a replayer with `slots` empty slots. Returns `None` if no memory is left for their
    /// table, which does not lie on the heap.
    pub(crate) fn new(heap: &'h H, slots: usize) -> Option<Self> {
        Some(Replayer {
            heap,
            slots: Table::new(slots, EMPTY)?,
            live: 0,
            peak: 0,
            failed: 0,
            damaged: 0,
        })
    }

    /// Returns the number of slots.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the addresses of the live blocks, in slot order. O(slots).
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Span> {
        self.slots
            .iter()
            .filter(|block| !block.base.is_null())
            .filter_map(|block| Span::from_base_size(block.base, block.layout.size()))
    }

    /// Returns whether `slot` has a block.
    pub(crate) fn holds(&self, slot: usize) -> bool {
        !self.slots[slot].base.is_null()
    }

    /// Replays one operation. Skips operations on a block whose allocation failed.
    ///
    /// What is inlined is the same for all allocators, or else their instructions could not be
    /// compared.
    #[inline(never)]
    pub(crate) fn replay(&mut self, operation: Operation) {
        match operation {
            Operation::Allocate { slot, layout } => {
                // SAFETY: operations of a workload have no size of zero.
                let base = unsafe { self.heap.alloc(layout) };
                if base.is_null() {
                    self.failed += 1;
                    return;
                }
                self.put(slot, Block { base, layout });
            }
            Operation::Free { slot } => self.free(slot),
            Operation::Reallocate { slot, size } => {
                let Block { base, layout } = self.slots[slot];
                if base.is_null() {
                    return;
                }
                self.verify(slot, layout.size().min(size));
                let Ok(new) = Layout::from_size_align(size, layout.align()) else {
                    return;
                };
                // SAFETY: the slot has a live block with this layout, and `size` is not zero.
                let moved = unsafe { self.heap.realloc(base, layout, size) };
                if moved.is_null() {
                    self.failed += 1;
                    return;
                }
                self.live -= layout.size();
                self.slots[slot] = Block {
                    base: moved,
                    layout: new,
                };
                self.verify(slot, layout.size().min(size));
                self.put(
                    slot,
                    Block {
                        base: moved,
                        layout: new,
                    },
                );
            }
        }
    }

    /// Frees the block in `slot`, if the slot has one.
    #[inline(always)]
    pub(crate) fn free(&mut self, slot: usize) {
        let Block { base, layout } = self.slots[slot];
        if base.is_null() {
            return;
        }
        self.verify(slot, layout.size());
        self.slots[slot] = EMPTY;
        self.live -= layout.size();
        // SAFETY: the slot had a live block with this layout.
        unsafe { self.heap.dealloc(base, layout) };
    }

    /// Frees blocks in slot order, until at most `live` bytes are live. O(slots).
    pub(crate) fn free_down_to(&mut self, live: usize) {
        for slot in 0..self.slots.len() {
            if self.live <= live {
                break;
            }
            self.free(slot);
        }
    }

    /// Puts a new or resized block into `slot`, and writes to the block.
    fn put(&mut self, slot: usize, block: Block) {
        self.slots[slot] = block;
        self.live += block.layout.size();
        self.peak = self.peak.max(self.live);
        // SAFETY: the block is live, and its size is not zero.
        unsafe {
            block
                .base
                .write_bytes(pattern(slot), if VERIFY { block.layout.size() } else { 1 })
        };
    }

    /// Counts the block in `slot` as damaged if its first `size` bytes differ from the pattern.
    fn verify(&mut self, slot: usize, size: usize) {
        if VERIFY {
            let base = self.slots[slot].base;
            // SAFETY: the block is live, and its first `size` bytes were written.
            let bytes = unsafe { core::slice::from_raw_parts(base, size) };
            self.damaged += usize::from(bytes.iter().any(|&byte| byte != pattern(slot)));
        }
    }
}

impl<H: GlobalAlloc, const VERIFY: bool> Drop for Replayer<'_, H, VERIFY> {
    fn drop(&mut self) {
        self.free_down_to(0);
    }
}

/// Returns the byte that blocks in `slot` are filled with.
fn pattern(slot: usize) -> u8 {
    (slot as u8).wrapping_mul(0x9d) ^ 0xa5
}
