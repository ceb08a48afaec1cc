//! Plays a workload, operation by operation, on any allocator.

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use kernel::trace::Operation;

/// The blocks of a running workload.
///
/// With `VERIFY` every block is filled with a pattern of its slot, which is read back when the block is freed
/// or reallocated; otherwise only its first byte is written, as a program would at least.
pub struct Replayer<'h, H: GlobalAlloc, const VERIFY: bool> {
    heap: &'h H,
    slots: Vec<Block>,
    /// Bytes in live blocks.
    pub live: usize,
    /// The most bytes that were live.
    pub peak: usize,
    /// Allocations that the heap refused.
    pub failed: usize,
    /// Blocks whose contents had changed.
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
    /// A workload that uses `slots` slots, all of them empty. `None` when there is no memory for their table.
    pub fn new(heap: &'h H, slots: usize) -> Option<Self> {
        let mut table = Vec::new();
        table.try_reserve_exact(slots).ok()?;
        table.resize(slots, EMPTY);
        Some(Replayer {
            heap,
            slots: table,
            live: 0,
            peak: 0,
            failed: 0,
            damaged: 0,
        })
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Puts the slots with blocks into `order`, the highest address first. Allocates nothing if there is room for all
    /// slots.
    pub fn highest_first(&self, order: &mut Vec<usize>) {
        order.clear();
        order.extend((0..self.slots.len()).filter(|&slot| self.holds(slot)));
        order.sort_unstable_by_key(|&slot| core::cmp::Reverse(self.slots[slot].base));
    }

    /// Whether a block is in `slot`.
    pub fn holds(&self, slot: usize) -> bool {
        !self.slots[slot].base.is_null()
    }

    /// Carries out one operation. What refers to a block whose allocation failed is passed over.
    pub fn play(&mut self, operation: Operation) {
        match operation {
            Operation::Allocate { slot, layout } => {
                // SAFETY: workloads hold no sizes of zero.
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
                // SAFETY: the slot holds a live block of this layout; `size` is not zero.
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

    /// Frees what is in `slot`, if anything.
    pub fn free(&mut self, slot: usize) {
        let Block { base, layout } = self.slots[slot];
        if base.is_null() {
            return;
        }
        self.verify(slot, layout.size());
        self.slots[slot] = EMPTY;
        self.live -= layout.size();
        // SAFETY: the slot held a live block of this layout.
        unsafe { self.heap.dealloc(base, layout) };
    }

    fn put(&mut self, slot: usize, block: Block) {
        self.slots[slot] = block;
        self.live += block.layout.size();
        self.peak = self.peak.max(self.live);
        // SAFETY: the block is live and not empty.
        unsafe {
            block
                .base
                .write_bytes(pattern(slot), if VERIFY { block.layout.size() } else { 1 })
        };
    }

    /// Counts the block in `slot` as damaged unless its first `size` bytes are as they were written.
    fn verify(&mut self, slot: usize, size: usize) {
        if VERIFY {
            let base = self.slots[slot].base;
            // SAFETY: the block is live and has at least `size` bytes, all of them written.
            let bytes = unsafe { core::slice::from_raw_parts(base, size) };
            self.damaged += usize::from(bytes.iter().any(|&byte| byte != pattern(slot)));
        }
    }
}

impl<H: GlobalAlloc, const VERIFY: bool> Drop for Replayer<'_, H, VERIFY> {
    fn drop(&mut self) {
        for slot in 0..self.slots.len() {
            self.free(slot);
        }
    }
}

/// The byte that a block in `slot` is filled with.
fn pattern(slot: usize) -> u8 {
    (slot as u8).wrapping_mul(0x9d) ^ 0xa5
}
