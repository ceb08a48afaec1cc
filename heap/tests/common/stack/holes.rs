//! Holes that nearly fit: memory in which a search of bounded length finds nothing although there is something.

use std::alloc::Layout;

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};

use super::PAGE;
use super::actor::Actor;
use crate::common::random::Choices;

impl Actor<'_, '_> {
    /// Makes many holes of one size, with small blocks between, of which the one at the top of its heap is found
    /// last; and asks for what fits in few of them: a little more, or less with an alignment.
    ///
    /// ```text
    ///     ├─ hole ─┼ block ┼─ hole ─┼ block ┼─ hole ─┼ block ┼─ rest ─┼─ hole ─┤ the heap's end
    ///        3rd              2nd              1st                       4th     in the list
    /// ```
    pub fn make_holes(&self, choices: &mut impl Choices) {
        let size = choices.pick(&self.stack.usual);
        let mut holes = Vec::new();
        for _ in 0..4 + choices.below(12) {
            holes.extend(self.block(layout(size, 8), false));
            self.block(layout(1 + choices.below(40), 8), false);
        }
        let chunk = (size + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT);
        if let Some(rest) = self.top().checked_sub(chunk + CHUNK_OVERHEAD)
            && rest > 0
        {
            self.block(layout(rest, 8), false);
        }
        holes.extend(self.block(layout(size, 8), false));

        let window = self.stack.window;
        if choices.chance(2) {
            window.limit(window.lent() / PAGE);
        }
        if choices.chance(4) {
            holes.reverse();
        }
        while let Some(hole) = holes.pop() {
            // An interrupt may have freed or moved it.
            let block = self.shadow.borrow_mut().take_from(hole);
            if let Some(block) = block {
                self.free_block(block);
            }
        }
        for _ in 0..1 + choices.below(4) {
            let wanted = if choices.chance(4) {
                layout(size + choices.below(1 + size / 8), 8)
            } else {
                let align = size.next_power_of_two() << choices.below(3);
                layout(1 + choices.below(1 + size / 4), align.min(1 << 16))
            };
            self.block(wanted, choices.chance(4));
        }
        window.limit(window.pages());
    }

    /// Bytes that are free at the top of the heap that grows.
    fn top(&self) -> usize {
        let talc = self.stack.heap.lock();
        let first = talc.arena_heaps().next();
        first.map_or(0, |heap| {
            // SAFETY: it is the end of a heap of this allocator.
            let reserved = unsafe { talc.reserved(heap.end) }.up_to;
            heap.end.addr().get() - reserved.addr().get()
        })
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}
