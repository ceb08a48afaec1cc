//! The allocator of page frames of physical memory.
//!
//! ```text
//! table     ├─ group 0 ─┼─ group 1 ─┼─ group 2 ─┼─ group 3 ─┤   …   to the end of usable memory
//!            0 .. 2 MiB  2 .. 4 MiB  4 .. 6 MiB  6 .. 8 MiB
//!            a hole      partial ─┐  whole ─┐    full
//! lists     partial ──────────────┘         │
//!           whole ──────────────────────────┘
//! ```
//!
//! A group has 512 frames of 4 KiB and is aligned to 2 MiB. A hole in memory is a group without
//! frames. One list has the groups that are entirely free, another the groups that are partly free.
//! So allocating and freeing a frame of either size takes constant time. Small frames come from
//! partly free groups first, to keep fragmentation low: whole groups stay whole as long as
//! possible.
//!
//! [`Frames`] is pure logic, and never accesses the frames. The functions of this module work on
//! the kernel's one allocator.

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

pub(super) use global::{add, allocate_into, free_all_or_panic, free_or_panic, install};
pub use global::{allocate, allocate_2mib, check, free, free_2mib, try_usage, usage};
use group::Rejected;
pub use group::{GROUP_FRAMES, Group};
use list::List;
pub(super) use table::locate_table;

use super::PAGE_SIZE;

/// The size of a frame in bytes.
pub const FRAME_SIZE: u64 = PAGE_SIZE as u64;

/// The size of a group in bytes.
const GROUP_SIZE: u64 = GROUP_FRAMES as u64 * FRAME_SIZE;

/// The lowest address of a frame. Firmware, and other CPUs during their start, use memory below.
pub const LOWEST_ADDRESS: u64 = 0x10_0000;

/// The purpose of a frame. Frames are counted by purpose, for the [audit](crate::audit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pages of the kernel heap.
    Heap,
    /// Page tables that the kernel added to those of the bootloader.
    PageTables,
    /// Boundary tags of the arenas.
    Tags,
    /// All other purposes.
    Other,
}

/// The number of frames by purpose, in units of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All frames of the allocator.
    pub total: usize,
    /// Free frames.
    pub free: usize,
    /// Frames for pages of the kernel heap.
    pub heap: usize,
    /// Frames for page tables.
    pub page_tables: usize,
    /// Frames for boundary tags.
    pub tags: usize,
    /// Frames for all other purposes.
    pub other: usize,
}

impl Usage {
    /// Returns the number of frames in use, for all purposes.
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

/// The reason why a frame could not be freed. The allocator is unchanged then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The allocator does not manage the frame.
    Foreign {
        /// The address of the frame.
        address: PhysAddr,
    },
    /// The frame, or a part of it, is free already.
    DoubleFree {
        /// The address of the frame.
        address: PhysAddr,
    },
    /// Fewer frames are in use for `purpose` than the caller frees.
    WrongPurpose {
        /// The address of the frame.
        address: PhysAddr,
        /// The purpose that the caller named.
        purpose: Purpose,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { address } => {
                write!(f, "the frame at {address:#x} was never allocated")
            }
            Self::DoubleFree { address } => write!(f, "the frame at {address:#x} is free already"),
            Self::WrongPurpose { address, purpose } => {
                write!(f, "the frame at {address:#x} is not in use for {purpose:?}")
            }
        }
    }
}

impl core::error::Error for FrameError {}

/// The kinds of groups with free frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All frames are free.
    Whole,
    /// Some frames are free, but not all.
    Partial,
}

impl Kind {
    /// Returns the kind of a group with `free_count` free frames, if any is free.
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
    /// All groups: the group at index `i` begins at address `i` × 2 MiB.
    table: &'t mut [Group],
    /// For each [`Kind`], the groups of this kind.
    lists: [List; 2],
    usage: Usage,
}

impl<'t> Frames<'t> {
    /// Returns the number of groups for memory that ends at `end`, or `None` if no table can have
    /// as many.
    pub fn groups_below(end: u64) -> Option<usize> {
        let groups = usize::try_from(end.div_ceil(GROUP_SIZE)).ok()?;
        (groups < group::NONE as usize).then_some(groups)
    }

    /// Creates an allocator without frames. Memory that the table does not cover cannot be added.
    ///
    /// # Panics
    /// Panics if the table has 2³² − 1 entries or more, far above the highest physical address.
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

    /// Adds the frames that lie entirely in `addresses`, as free frames. Skips frames that the
    /// allocator manages already, and frames below [`LOWEST_ADDRESS`].
    pub fn add(&mut self, addresses: Range<u64>) {
        let start = addresses.start.max(LOWEST_ADDRESS).div_ceil(FRAME_SIZE);
        let end = addresses.end / FRAME_SIZE;
        self.for_each_group(start..end, Group::manage);
    }

    /// Removes all frames that overlap `addresses`. They should be free.
    pub fn remove(&mut self, addresses: Range<u64>) {
        let start = addresses.start / FRAME_SIZE;
        let end = addresses.end.div_ceil(FRAME_SIZE);
        self.for_each_group(start..end, Group::withdraw);
    }

    /// Changes the groups of a range of frames, and updates the number of frames.
    fn for_each_group(&mut self, frames: Range<u64>, change: impl Fn(&mut Group, Range<usize>)) {
        let per_group = GROUP_FRAMES as u64;
        let end = frames.end.min(self.table.len() as u64 * per_group);
        let mut frame = frames.start;
        while frame < end {
            // The casts are exact: the group is in the table.
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

    /// Allocates a frame of 4 KiB, with undefined contents. Constant time.
    pub fn allocate(&mut self, purpose: Purpose) -> Option<PhysFrame<Size4KiB>> {
        let index = self.first(Kind::Partial).or(self.first(Kind::Whole))?;
        let frame = self.change(index, Group::allocate)?;
        *self.usage.used_for(purpose) += 1;
        let address = index as u64 * GROUP_SIZE + frame as u64 * FRAME_SIZE;
        Some(PhysFrame::containing_address(PhysAddr::new(address)))
    }

    /// Allocates a frame of 2 MiB, with undefined contents. Constant time.
    pub fn allocate_2mib(&mut self, purpose: Purpose) -> Option<PhysFrame<Size2MiB>> {
        let index = self.first(Kind::Whole)?;
        self.change(index, Group::allocate_whole);
        *self.usage.used_for(purpose) += GROUP_FRAMES;
        let address = PhysAddr::new(index as u64 * GROUP_SIZE);
        Some(PhysFrame::containing_address(address))
    }

    /// Frees a frame of 4 KiB, which may be part of an allocated frame of 2 MiB. Constant time.
    ///
    /// # Errors
    /// Returns an error if the frame is not in use for `purpose`, as far as the counts tell.
    pub fn free(&mut self, frame: PhysFrame<Size4KiB>, purpose: Purpose) -> Result<(), FrameError> {
        let address = frame.start_address();
        let within = (address.as_u64() % GROUP_SIZE / FRAME_SIZE) as usize;
        self.free_in_group(address, purpose, 1, |group| group.free(within))
    }

    /// Frees a frame of 2 MiB. Constant time.
    ///
    /// # Errors
    /// Returns an error if not all of the frame is in use for `purpose`, as far as the counts tell.
    pub fn free_2mib(
        &mut self,
        frame: PhysFrame<Size2MiB>,
        purpose: Purpose,
    ) -> Result<(), FrameError> {
        let address = frame.start_address();
        self.free_in_group(address, purpose, GROUP_FRAMES, Group::free_whole)
    }

    /// Frees `count` frames at `address`, by means of `free`.
    fn free_in_group(
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

    /// Changes a group, and updates the lists and the number of free frames.
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

    /// Returns the first group of a kind.
    fn first(&self, kind: Kind) -> Option<usize> {
        self.lists[kind as usize].first()
    }

    /// Returns the number of frames by purpose.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Compares the numbers of frames with the table. O(groups).
    ///
    /// # Errors
    /// Describes the first mismatch.
    pub fn check(&self) -> Result<(), &'static str> {
        let free: usize = self.table.iter().map(Group::free_count).sum();
        if free != self.usage.free {
            return Err("the number of free frames differs from the sum over all groups");
        }
        let managed: usize = self.table.iter().map(Group::managed_count).sum();
        if managed != self.usage.total {
            return Err("the number of frames differs from the sum over all groups");
        }
        if self.usage.used() + free != managed {
            return Err("the frames in use and the free frames do not add up to all frames");
        }
        Ok(())
    }
}
