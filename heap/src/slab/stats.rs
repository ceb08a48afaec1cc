//! Counts of slabs and blocks.

use core::fmt;

use super::size_class::{CLASSES, block_size, capacity};
use super::slab::Slab;
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

/// A slab, as [`SlabAllocator::visit`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabInfo {
    /// The address of the slab.
    pub base: usize,
    /// The bytes of a block.
    pub block_size: usize,
    /// The number of blocks in use.
    pub used: usize,
    /// The number of blocks.
    pub blocks: usize,
}

impl SlabInfo {
    fn of(slab: Slab) -> Self {
        Self {
            base: slab.page().addr().get(),
            block_size: block_size(slab.class()),
            used: usize::from(slab.used()),
            blocks: usize::from(capacity(slab.class())),
        }
    }
}

impl fmt::Display for SlabInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            base,
            block_size,
            used,
            blocks,
        } = self;
        write!(
            f,
            "a slab at {base:#x} of {blocks} blocks of {block_size} bytes, {used} in use"
        )
    }
}

impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    /// Returns the present state. O(slabs). Exact while no other CPU allocates or frees.
    pub fn stats(&self) -> Stats {
        let mut classes = core::array::from_fn(|class| ClassStats {
            block_size: block_size(class),
            ..ClassStats::default()
        });
        let held_back = self.cpus.with(|cpu| {
            let mut held_back = self.cell(cpu).counts.stats().held_back;
            for slab in self.shared.lock().all().iter() {
                if slab.holding_part() == Some(cpu) {
                    held_back += SLAB_SIZE;
                }
                let class = &mut classes[slab.class()];
                class.slabs += 1;
                class.used += usize::from(slab.used());
                class.blocks += usize::from(capacity(slab.class()));
            }
            held_back
        });
        Stats { classes, held_back }
    }

    /// Calls `visitor` with each slab, in no particular order. O(slabs).
    ///
    /// The list of slabs is locked meanwhile: a visitor that allocates or frees may wait for itself
    /// forever.
    pub fn visit(&self, mut visitor: impl FnMut(SlabInfo)) {
        self.cpus.with(|_| {
            let mut guard = self.shared.lock();
            guard.all().iter().map(SlabInfo::of).for_each(&mut visitor);
        });
    }

    /// Returns the slab that contains an address, or `None` if there is none or the list of slabs
    /// is locked. Waits for no lock, so that a report of a fault can use it. O(slabs).
    ///
    /// The list is locked meanwhile, outside [`Cpus::with`]: mask interrupts whose handlers
    /// allocate, since they would wait for this CPU.
    pub fn try_slab_of(&self, addr: usize) -> Option<SlabInfo> {
        let mut guard = self.shared.try_lock()?;
        let mut slabs = guard.all().iter().map(SlabInfo::of);
        slabs.find(|slab| addr - addr % SLAB_SIZE == slab.base)
    }
}
