//! Pairs of a free and an allocation among many live blocks.

use std::alloc::Layout;

use crate::arena::Arena;
use crate::peer::Peer;
use crate::random::Random;

/// Live blocks of random sizes at one alignment, among as many that were freed in random order.
pub struct Live<P> {
    /// Boxed, because `dlmalloc` must not move after its first allocation.
    peer: Box<P>,
    blocks: Vec<(*mut u8, Layout)>,
    align: usize,
    random: Random,
    _arena: Arena,
}

impl<P: Peer> Live<P> {
    /// Allocates twice `count` blocks of 8 to 127 bytes, and frees half of them.
    pub fn new(count: usize, align: usize) -> Self {
        // Buddy systems make each block as large as its alignment, and free lists add to that.
        let arena = Arena::new((4 * count * (align + 192)).next_multiple_of(1 << 20));
        // SAFETY: only this peer uses the arena.
        let peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
        let random = Random::new(count as u64);
        let mut live = Self {
            peer: Box::new(peer),
            blocks: Vec::new(),
            align,
            random,
            _arena: arena,
        };
        for _ in 0..2 * count {
            live.allocate();
        }
        for _ in 0..count {
            live.free();
        }
        live
    }

    fn allocate(&mut self) {
        let size = 8 + self.random.below(120);
        let layout = Layout::from_size_align(size, self.align).expect("a small layout");
        // SAFETY: the size is not zero.
        let block = unsafe { self.peer.allocate(layout) };
        assert!(!block.is_null(), "out of memory");
        self.blocks.push((block, layout));
    }

    fn free(&mut self) {
        let index = self.random.below(self.blocks.len());
        let (block, layout) = self.blocks.swap_remove(index);
        // SAFETY: the block is live.
        unsafe { self.peer.deallocate(block, layout) };
    }

    /// Frees a random block and allocates another.
    pub fn pair(&mut self) {
        self.free();
        self.allocate();
    }
}
