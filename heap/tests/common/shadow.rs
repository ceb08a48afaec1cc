//! A model of live allocations: their addresses and contents.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::programs::tell;
use super::random::Random;

/// An allocation, and the key to its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub ptr: *mut u8,
    pub layout: Layout,
    id: u64,
}

impl Display for Block {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (size, align) = (self.layout.size(), self.layout.align());
        write!(f, "{size} bytes at {:p}, align {align},", self.ptr)
    }
}

impl Block {
    /// Returns the block after a move to `ptr`.
    pub(crate) fn moved_to(self, ptr: *mut u8) -> Self {
        Self { ptr, ..self }
    }

    /// Returns the contents from byte `from` on, in parts: the first byte of each, and the expected
    /// bytes.
    fn parts(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, &'static [u8])> {
        let phase = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 20;
        let starts = (from..to).step_by(PERIOD);
        starts.map(move |start| {
            let offset = phase.wrapping_add(start) % PERIOD;
            (start, &PATTERN[offset..][..PERIOD.min(to - start)])
        })
    }

    fn fill(&self, from: usize) {
        for (start, part) in self.parts(from, self.layout.size()) {
            // SAFETY: the part lies in the block, whose layout has its size.
            unsafe {
                self.ptr
                    .add(start)
                    .copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
        }
    }

    /// Asserts that the first `size` bytes are as they were written.
    pub(crate) fn assert_intact(&self, size: usize) {
        for (start, part) in self.parts(0, size) {
            // SAFETY: the block is at least this large, and was filled.
            let found = unsafe { std::slice::from_raw_parts(self.ptr.add(start), part.len()) };
            if found != part {
                let at = (0..part.len()).find(|&at| found[at] != part[at]).unwrap();
                panic!(
                    "byte {} of {self:?} is {:#04x}, and was {:#04x}",
                    start + at,
                    found[at],
                    part[at]
                );
            }
        }
    }
}

/// The period of contents, which is not a multiple of a page, so that pages differ.
const PERIOD: usize = 2039;

/// Two periods of contents, so that a part as long as one period can begin anywhere in the first.
static PATTERN: [u8; 2 * PERIOD] = {
    let mut bytes = [0; 2 * PERIOD];
    let mut word: u32 = 1;
    let mut index = 0;
    while index < PERIOD {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[index] = (word >> 24) as u8;
        bytes[index + PERIOD] = bytes[index];
        index += 1;
    }
    bytes
};

/// All live blocks. Entering a block fills it; taking it out verifies it.
#[derive(Default)]
pub(crate) struct Shadow {
    blocks: Vec<Block>,
    /// The end of each block, by its base.
    ranges: BTreeMap<usize, usize>,
    next_id: u64,
}

impl Shadow {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.layout.size()).sum()
    }

    /// Enters a new allocation and fills it.
    pub(crate) fn insert(&mut self, ptr: *mut u8, layout: Layout) {
        let block = Block {
            ptr,
            layout,
            id: self.next_id,
        };
        self.next_id += 1;
        tell(format_args!("{block} is allocated"));
        self.enter(block);
        block.fill(0);
    }

    fn enter(&mut self, block: Block) {
        let (base, end) = (block.ptr.addr(), block.ptr.addr() + block.layout.size());
        assert!(base % block.layout.align() == 0, "{block:?} is misaligned");
        if let Some((&below, &below_end)) = self.ranges.range(..end).next_back() {
            assert!(
                below_end <= base,
                "{block:?} overlaps {below:#x}..{below_end:#x}"
            );
        }
        self.ranges.insert(base, end);
        self.blocks.push(block);
    }

    /// Takes out any block. Layouts determine the choice, so that it is mostly the same with a
    /// block more or less, and failing programs can be shortened. (With thousands of blocks, which
    /// such programs do not have, that would take too long.)
    pub(crate) fn take(&mut self, random: &mut Random) -> Option<Block> {
        if self.blocks.len() > 1000 {
            let index = random.below(self.blocks.len());
            return Some(self.take_at(index));
        }
        let draw = random.word();
        let key = |index: &usize| {
            let layout = self.blocks[*index].layout;
            Random::new(draw ^ (layout.size() << 5 | layout.align().ilog2() as usize) as u64).word()
        };
        let index = (0..self.blocks.len()).min_by_key(key)?;
        Some(self.take_at(index))
    }

    /// Takes out the block that begins at an address, if one does.
    pub(crate) fn take_from(&mut self, ptr: *mut u8) -> Option<Block> {
        let index = self.blocks.iter().position(|block| block.ptr == ptr)?;
        Some(self.take_at(index))
    }

    /// Takes out the block at an index.
    pub(crate) fn take_at(&mut self, index: usize) -> Block {
        let block = self.blocks.swap_remove(index);
        self.ranges.remove(&block.ptr.addr());
        tell(format_args!("{block} is freed or resized"));
        block.assert_intact(block.layout.size());
        block
    }

    /// Puts back a block that was resized and perhaps moved. Verifies the bytes that both sizes
    /// have in common, and fills the rest.
    pub(crate) fn put_back(&mut self, block: Block, ptr: *mut u8, new_size: usize) {
        let old_size = block.layout.size();
        let layout = Layout::from_size_align(new_size, block.layout.align()).unwrap();
        let block = Block {
            ptr,
            layout,
            ..block
        };
        tell(format_args!("{block} is what it has become"));
        self.enter(block);
        block.assert_intact(old_size.min(new_size));
        block.fill(old_size.min(new_size));
    }

    pub(crate) fn assert_all_intact(&self) {
        for block in &self.blocks {
            block.assert_intact(block.layout.size());
        }
    }

    /// Asserts that every block lies in one of the ranges.
    pub(crate) fn assert_within(&self, ranges: &[(usize, usize)]) {
        for (&base, &end) in &self.ranges {
            assert!(
                ranges.iter().any(|&(from, to)| from <= base && end <= to),
                "{base:#x}..{end:#x} lies in no heap"
            );
        }
    }
}
