//! Holes that nearly fit: a bounded search of the free lists fails although a gap fits.

use std::alloc::Layout;

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};

use super::PAGE;
use super::actor::Actor;
use crate::common::random::Choices;

impl Actor<'_, '_> {
    /// Fills all memory with blocks of one size, and frees every second block, the top one first.
    /// Then requests sizes that fit in few of these holes: slightly larger, or smaller but aligned.
    ///
    /// ```text
    ///     ├─ hole ─┼─ block ─┼─ hole ─┼─ block ─┼─ hole ─┼─ block ─┼─ rest ─┼─ hole ─┤ end
    ///        2nd                3rd                1st                         4th     in the list
    /// ```
    pub(crate) fn make_holes(&self, choices: &mut impl Choices) {
        let size = match choices.below(3) {
            0 => choices.pick(&self.stack.usual),
            _ => (1 << (12 + choices.below(4))) + choices.below(1 << 12),
        };
        let window = self.stack.window;
        if !choices.chance(4) {
            // Nothing can grow.
            window.limit(window.lent() / PAGE);
        }
        let mut blocks: Vec<_> = std::iter::from_fn(|| self.block(layout(size, 8), false))
            .take(MOST_BLOCKS)
            .collect();
        let (rest, end) = self.top();
        let is_top =
            |block: &*mut u8| block.addr() + size <= end && block.addr() + 2 * size > end - rest;
        if let Some(index) = blocks.iter().position(is_top) {
            self.free_at(blocks.swap_remove(index));
            if rest > 2 * CHUNK_UNIT {
                self.block(layout(rest - CHUNK_OVERHEAD, 8), false);
            }
            let top = self.block(layout(size, 8), false);
            blocks.sort_unstable();
            top.into_iter().for_each(|top| self.free_at(top));
        }
        let second = |parity: usize| blocks.iter().skip(parity).step_by(2);
        second(0).for_each(|&block| self.free_at(block));
        for _ in 0..1 + choices.below(4) {
            let wanted = if choices.chance(4) {
                layout(size + choices.below(1 + size / 8), 8)
            } else {
                let align = size.next_power_of_two() << choices.below(2);
                layout(1 + choices.below(1 + size / 4), align.min(1 << 16))
            };
            self.block(wanted, choices.chance(4));
        }
        if !choices.chance(4) {
            second(1).for_each(|&block| self.free_at(block));
        }
        window.limit(window.pages());
    }

    /// Frees the block at an address, unless an interrupt has freed or moved it.
    fn free_at(&self, block: *mut u8) {
        let block = self.shadow.borrow_mut().take_from(block);
        if let Some(block) = block {
            self.free_block(block);
        }
    }

    /// Returns the free bytes at the top of the heap that grows, and the end of that heap.
    fn top(&self) -> (usize, usize) {
        let talc = self.stack.heap.lock();
        let first = talc.arena_heaps().next();
        first.map_or((0, 0), |heap| {
            // SAFETY: `arena_heaps` lists heaps of this allocator.
            let reserved = unsafe { talc.reserved(heap.end) }.up_to;
            let end = heap.end.addr().get();
            (end - reserved.addr().get(), end)
        })
    }
}

/// Blocks that fill most heaps.
const MOST_BLOCKS: usize = 80;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}
