//! The page frames of physical memory: who may use which.
//!
//! Frames of 4 KiB are kept in groups of 512, aligned to 2 MiB, in a table with one entry for each
//! 2 MiB from address 0 to the end of usable memory; holes are groups without frames. Groups that
//! are entirely free are in one list, groups that are partly free in another, so that allocating
//! and freeing a frame of either size takes constant time. Small frames are taken from partly free
//! groups first: whole groups stay whole as long as possible.
//!
//! This file is logic only: nothing here touches the frames. The functions in this module work on
//! the one allocator of the kernel.

mod global;
mod group;
mod list;
mod table;
#[cfg(test)]
mod tests;

use core::fmt;
use core::ops::Range;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size2MiB, Size4KiB};

pub(super) use global::{add, give_back, install};
pub use global::{allocate, allocate_2mib, check, free, free_2mib, try_usage, usage};
use group::Rejected;
pub use group::{GROUP_FRAMES, Group};
use list::List;
pub(super) use table::place_table;

/// The size of a frame in bytes.
pub const FRAME_SIZE: u64 = 4096;

/// The size of a group in bytes.
const GROUP_SIZE: u64 = GROUP_FRAMES as u64 * FRAME_SIZE;

/// Memory below is left alone: firmware and other CPUs that start up have their uses for it.
pub const LOWEST_ADDRESS: u64 = 0x10_0000;

/// What a frame is used for. Counted apart, so that accounts can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pages of the kernel heap.
    Heap,
    /// Page tables that the kernel added to those of the bootloader.
    PageTables,
    /// Boundary tags of the arenas.
    Tags,
    /// Everything else.
    Other,
}

/// How many frames there are, in units of 4 KiB, and what they are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All that the allocator has.
    pub total: usize,
    /// Free ones.
    pub free: usize,
    /// Used for pages of the kernel heap.
    pub heap: usize,
    /// Used for page tables.
    pub page_tables: usize,
    /// Used for boundary tags.
    pub tags: usize,
    /// Used for everything else.
    pub other: usize,
}

impl Usage {
    /// Frames used, for whatever purpose.
    pub fn used(&self) -> usize {
        self.heap + self.page_tables + self.tags + self.other
    }

    fn used_for(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Heap => &mut self.heap,
            Purpose::PageTables => &mut self.page_tables,
            Purpose::Tags => &mut self.tags,
            Purpose::Other => &mut self.other,
        }
    }
}

/// A frame that cannot be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The frame was never the allocator's.
    Foreign {
        /// The address of the frame.
        address: PhysAddr,
    },
    /// The frame, or part of it, is free already.
    DoubleFree {
        /// The address of the frame.
        address: PhysAddr,
    },
    /// So many frames are not in use for that purpose.
    WrongPurpose {
        /// The address of the frame.
        address: PhysAddr,
        /// What the caller says it was used for.
        purpose: Purpose,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { address } => {
                write!(f, "the frame at {address:#x} was never handed out")
            }
            Self::DoubleFree { address } => write!(f, "the frame at {address:#x} is free already"),
            Self::WrongPurpose { address, purpose } => {
                write!(
                    f,
                    "the frame at {address:#x} is not one of those for {purpose:?}"
                )
            }
        }
    }
}

impl core::error::Error for FrameError {}

/// Groups with free frames, by how many they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Every frame is free.
    Whole,
    /// Some frames are free, but not all.
    Partial,
}

impl Kind {
    fn of(free_count: usize) -> Option<Self> {
        match free_count {
            0 => None,
            GROUP_FRAMES => Some(Self::Whole),
            _ => Some(Self::Partial),
        }
    }
}

/// The allocator of page frames.
#[derive(Debug)]
pub struct Frames<'t> {
    /// The group at index `i` begins at `i` × 2 MiB.
    table: &'t mut [Group],
    /// For each kind the groups of that kind.
    lists: [List; 2],
    usage: Usage,
}

impl<'t> Frames<'t> {
    /// The number of groups in a table for memory that ends at `end`; `None` if no table can have
    /// so many.
    pub fn groups_below(end: u64) -> Option<usize> {
        let groups = usize::try_from(end.div_ceil(GROUP_SIZE)).ok()?;
        (groups < group::NONE as usize).then_some(groups)
    }

    /// An allocator without frames. Memory beyond what the table covers cannot be added.
    ///
    /// # Panics
    /// If the table has 2³² entries or more, which is far beyond any physical address.
    pub fn new(table: &'t mut [Group]) -> Self {
        assert!(
            table.len() < group::NONE as usize,
            "the table of frames is too long"
        );
        table.fill(Group::EMPTY);
        Self {
            table,
            lists: [List::EMPTY; 2],
            usage: Usage::default(),
        }
    }

    /// Adds the frames that lie entirely in `addresses`, free. Those that are there already stay as
    /// they are; those below [`LOWEST_ADDRESS`] are left out.
    pub fn add(&mut self, addresses: Range<u64>) {
        let start = addresses.start.max(LOWEST_ADDRESS).div_ceil(FRAME_SIZE);
        let end = addresses.end / FRAME_SIZE;
        self.for_each_group(start..end, Group::manage);
    }

    /// Removes every frame that `addresses` touches. Meant for frames that are free.
    pub fn remove(&mut self, addresses: Range<u64>) {
        let start = addresses.start / FRAME_SIZE;
        let end = addresses.end.div_ceil(FRAME_SIZE);
        self.for_each_group(start..end, Group::withdraw);
    }

    fn for_each_group(&mut self, frames: Range<u64>, change: impl Fn(&mut Group, Range<usize>)) {
        let per_group = GROUP_FRAMES as u64;
        let end = frames.end.min(self.table.len() as u64 * per_group);
        let mut frame = frames.start;
        while frame < end {
            // Both fit: the group is in the table.
            let index = (frame / per_group) as usize;
            let base = frame - frame % per_group;
            let next = end.min(base + per_group);
            let managed = self.table[index].managed_count();
            self.change(index, |group| {
                change(group, (frame - base) as usize..(next - base) as usize);
            });
            self.usage.total += self.table[index].managed_count();
            self.usage.total -= managed;
            frame = next;
        }
    }

    /// A frame of 4 KiB, with whatever is in it.
    pub fn allocate(&mut self, purpose: Purpose) -> Option<PhysFrame<Size4KiB>> {
        let index = self.first(Kind::Partial).or(self.first(Kind::Whole))?;
        let frame = self.change(index, Group::allocate)?;
        *self.usage.used_for(purpose) += 1;
        let address = index as u64 * GROUP_SIZE + frame as u64 * FRAME_SIZE;
        Some(PhysFrame::containing_address(PhysAddr::new(address)))
    }

    /// A frame of 2 MiB, with whatever is in it.
    pub fn allocate_2mib(&mut self, purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
        let index = self.first(Kind::Whole)?;
        self.change(index, Group::allocate_whole);
        *self.usage.used_for(purpose) += GROUP_FRAMES;
        let address = PhysAddr::new(index as u64 * GROUP_SIZE);
        Some(PhysFrame::containing_address(address))
    }

    /// Takes back a frame of 4 KiB, also one that was allocated as part of 2 MiB.
    ///
    /// # Errors
    /// When it cannot be a frame in use for that purpose; nothing is changed then.
    pub fn free(&mut self, frame: PhysFrame<Size4KiB>, purpose: Purpose) -> Result<(), FrameError> {
        let address = frame.start_address();
        let within = (address.as_u64() % GROUP_SIZE / FRAME_SIZE) as usize;
        self.give_back(address, purpose, 1, |group| group.free(within))
    }

    /// Takes back a frame of 2 MiB.
    ///
    /// # Errors
    /// When not all of it is in use, or not for that purpose; nothing is changed then.
    pub fn free_2mib(
        &mut self,
        frame: PhysFrame<Size2MiB>,
        purpose: Purpose,
    ) -> Result<(), FrameError> {
        let address = frame.start_address();
        self.give_back(address, purpose, GROUP_FRAMES, Group::free_whole)
    }

    fn give_back(
        &mut self,
        address: PhysAddr,
        purpose: Purpose,
        count: usize,
        free: impl FnOnce(&mut Group) -> Result<(), Rejected>,
    ) -> Result<(), FrameError> {
        let index = usize::try_from(address.as_u64() / GROUP_SIZE)
            .ok()
            .filter(|&index| index < self.table.len())
            .ok_or(FrameError::Foreign { address })?;
        if *self.usage.used_for(purpose) < count {
            return Err(FrameError::WrongPurpose { address, purpose });
        }
        self.change(index, free)
            .map_err(|rejected| match rejected {
                Rejected::NotManaged => FrameError::Foreign { address },
                Rejected::AlreadyFree => FrameError::DoubleFree { address },
            })?;
        *self.usage.used_for(purpose) -= count;
        Ok(())
    }

    /// Changes a group, keeping the lists and the number of free frames right.
    fn change<T>(&mut self, index: usize, change: impl FnOnce(&mut Group) -> T) -> T {
        let before = self.table[index].free_count();
        let result = change(&mut self.table[index]);
        let after = self.table[index].free_count();
        self.usage.free += after;
        self.usage.free -= before;
        let (before, after) = (Kind::of(before), Kind::of(after));
        if before != after {
            if let Some(kind) = before {
                self.lists[kind as usize].remove(self.table, index);
            }
            if let Some(kind) = after {
                self.lists[kind as usize].push(self.table, index);
            }
        }
        result
    }

    fn first(&self, kind: Kind) -> Option<usize> {
        self.lists[kind as usize].first()
    }

    /// How many frames there are.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Compares the numbers with the table. Takes time in proportion to the table.
    ///
    /// # Errors
    /// Says what does not agree.
    pub fn check(&self) -> Result<(), &'static str> {
        let free: usize = self.table.iter().map(Group::free_count).sum();
        if free != self.usage.free {
            return Err("the number of free frames differs from what the groups say");
        }
        let managed: usize = self.table.iter().map(Group::managed_count).sum();
        if managed != self.usage.total {
            return Err("the number of frames differs from what the groups say");
        }
        if self.usage.used() + free != managed {
            return Err("the frames used and the frames free are not all the frames");
        }
        Ok(())
    }
}
