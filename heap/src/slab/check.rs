//! The invariants of slabs.

use core::fmt;
use core::ptr::NonNull;

use super::size_class::{block_size, capacity};
use super::slab::{Ownership, Slab};
use super::{Cpus, SLAB_SIZE, SlabAllocator};
use crate::source::StableGlobalAlloc;

/// An invariant of slabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlabRule {
    /// A free block is a block of its slab.
    FreeBlockInSlab,
    /// The blocks that are free, in use and never used are all blocks of a slab.
    BlocksAddUp,
    /// The slab belongs to the CPU, or to the shared lists, that lead to it.
    Owner,
    /// The slab's size class is that of the list that leads to it.
    Class,
}

impl fmt::Display for SlabRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FreeBlockInSlab => "a free block is not a block of its slab",
            Self::BlocksAddUp => "free and used blocks are not all blocks of the slab",
            Self::Owner => "the slab belongs to another CPU",
            Self::Class => "the slab has another size class",
        })
    }
}

/// A broken invariant, as [`SlabAllocator::check`] finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabCorruption {
    /// The address of the slab.
    pub slab: usize,
    /// The invariant.
    pub rule: SlabRule,
}

impl fmt::Display for SlabCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the slab at {:#x}: {}", self.slab, self.rule)
    }
}

impl core::error::Error for SlabCorruption {}

impl<A: StableGlobalAlloc, C: Cpus, const CPUS: usize> SlabAllocator<A, C, CPUS> {
    /// Checks the slabs of this CPU, of those that do not run, and of the shared lists.
    ///
    /// O(blocks in those slabs).
    ///
    /// # Errors
    /// The first invariant that is broken.
    pub fn check(&self) -> Result<(), SlabCorruption> {
        let mut result = self.cpus.with(|cpu| self.check_part(cpu));
        self.cpus.with_unused(|cpu| {
            if result.is_ok() {
                result = self.check_part(cpu);
            }
        });
        result?;
        self.cpus.with(|_| {
            let mut guard = self.shared.lock();
            for (class, list) in guard.partial_lists().iter().enumerate() {
                for slab in list.iter() {
                    check_class(slab, class)?;
                    check_slab(slab)?;
                    if slab.ownership() != Ownership::Shared {
                        return Err(corruption(slab, SlabRule::Owner));
                    }
                }
            }
            Ok(())
        })
    }

    fn check_part(&self, cpu: usize) -> Result<(), SlabCorruption> {
        // SAFETY: `Cpus` guarantees that nothing else uses the part meanwhile.
        let local = unsafe { self.local(cpu) };
        for slab in local.slabs() {
            check_slab(slab)?;
            // There are fewer parts than owners.
            if !slab.is_owned_by(cpu as u16) || slab.ownership() != Ownership::Owned {
                return Err(corruption(slab, SlabRule::Owner));
            }
        }
        for (class, list) in local.partial_lists().iter().enumerate() {
            list.iter().try_for_each(|slab| check_class(slab, class))?;
        }
        Ok(())
    }
}

fn corruption(slab: Slab, rule: SlabRule) -> SlabCorruption {
    SlabCorruption {
        slab: slab.page().addr().get(),
        rule,
    }
}

fn check_class(slab: Slab, class: usize) -> Result<(), SlabCorruption> {
    if slab.class() == class {
        Ok(())
    } else {
        Err(corruption(slab, SlabRule::Class))
    }
}

fn check_slab(slab: Slab) -> Result<(), SlabCorruption> {
    let size = block_size(slab.class());
    let mut next = slab.first_free();
    let mut free = 0;
    while let Some(block) = NonNull::new(next) {
        let offset = block.addr().get().wrapping_sub(slab.page().addr().get());
        if offset / size >= usize::from(capacity(slab.class())) || offset % size != 0 {
            return Err(corruption(slab, SlabRule::FreeBlockInSlab));
        }
        free += 1;
        if free > SLAB_SIZE / size {
            // The list is a circle.
            break;
        }
        // SAFETY: the block lies in the slab, and begins with the address of the next.
        next = unsafe { block.cast::<*mut u8>().read() };
    }
    let known = free + usize::from(slab.fresh_blocks()) + usize::from(slab.used());
    if known != usize::from(capacity(slab.class())) {
        return Err(corruption(slab, SlabRule::BlocksAddUp));
    }
    Ok(())
}
