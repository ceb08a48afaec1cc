//! Counts of slabs and blocks.

use core::fmt;

use super::size_class::{CLASSES, block_size, capacity};
use super::{Cpus, SLAB_SIZE, SlabAllocator};
use crate::source::StableGlobalAlloc;

/// The slabs of one block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassStats {
    /// The bytes of a block.
    pub block_size: usize,
    /// The number of slabs.
    pub slabs: usize,
    /// The number of blocks in use. Blocks that wait to be brought to another CPU's slab count.
    pub used: usize,
    /// The number of blocks that the slabs have.
    pub blocks: usize,
}

/// The state of a [`SlabAllocator`]: see [`SlabAllocator::stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    classes: [ClassStats; CLASSES],
    held_back: usize,
}

impl Stats {
    /// Returns the slabs by block size, from the smallest up.
    pub fn classes(&self) -> &[ClassStats] {
        &self.classes
    }

    /// Returns the number of slabs.
    pub fn slabs(&self) -> usize {
        self.classes.iter().map(|class| class.slabs).sum()
    }

    /// Returns the bytes of all slabs.
    pub fn bytes(&self) -> usize {
        self.slabs() * SLAB_SIZE
    }

    /// Returns the bytes of all blocks in use.
    pub fn used_bytes(&self) -> usize {
        let bytes = |class: &ClassStats| class.used * class.block_size;
        self.classes.iter().map(bytes).sum()
    }

    /// Returns the bytes that the calling CPU holds back, at most
    /// [`MAX_HELD_BACK`](super::MAX_HELD_BACK).
    pub const fn held_back(&self) -> usize {
        self.held_back
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block size  slabs     used   blocks")?;
        for class in self.classes.iter().filter(|class| class.slabs > 0) {
            let ClassStats {
                block_size,
                slabs,
                used,
                blocks,
            } = class;
            write!(f, "\n{block_size:>10} {slabs:>6} {used:>8} {blocks:>8}")?;
        }
        Ok(())
    }
}

impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    /// Returns the present state. O(partial slabs).
    ///
    /// The slabs of other CPUs or threads that run count as full. With one CPU, or when the others
    /// do not run, the counts are exact.
    pub fn stats(&self) -> Stats {
        // What is known of slabs that are not full: their number, and that of their used blocks.
        let mut partial = [(0, 0); CLASSES];
        let mut count = |slab: super::slab::Slab| {
            let (slabs, used) = &mut partial[slab.class()];
            *slabs += 1;
            *used += usize::from(slab.used());
        };
        let held_back = self.with_local(|local, _| {
            local.slabs().for_each(&mut count);
            local.held_back()
        });
        self.cpus.with_unused(|cpu| {
            // SAFETY: `Cpus` guarantees that nothing else uses the part meanwhile.
            let local = unsafe { &*self.cell(cpu).local.get() };
            local.slabs().for_each(&mut count);
        });
        self.cpus.with(|_| {
            let mut guard = self.shared.lock();
            guard
                .lists()
                .iter()
                .flat_map(|list| list.iter())
                .for_each(&mut count);
        });
        let classes = core::array::from_fn(|class| {
            let slabs = self.shared.slabs(class);
            let capacity = usize::from(capacity(class));
            let (partial, used) = partial[class];
            ClassStats {
                block_size: block_size(class),
                slabs,
                used: used + slabs.saturating_sub(partial) * capacity,
                blocks: slabs * capacity,
            }
        });
        Stats { classes, held_back }
    }
}
