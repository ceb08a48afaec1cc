//! The page tables: mapping frames at pages, and taking them away again.
//!
//! Everything is done in batches of at most [`BATCH`] pages, because the lock of the page tables
//! masks interrupts. A batch is mapped as a whole or not at all.

use core::convert::Infallible;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::{CleanUp, MapToError};
use x86_64::structures::paging::page::PageRangeInclusive;
use x86_64::structures::paging::page_table::{PageTableEntry, PageTableLevel};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PageTableIndex,
    PhysFrame, Size4KiB,
};

use super::frame_list::FrameList;
use super::frames::{self, Purpose};
use super::walk::{self, Mapping};
use super::{fault_injection, physical};
use crate::sync::InterruptMutex;

/// How many pages are mapped or unmapped while the lock is held once.
pub const BATCH: usize = 64;

/// Up to so many pages are flushed one by one; for more the whole TLB is flushed.
const FLUSH_EACH: usize = 16;

/// Tables that a range of [`BATCH`] pages can be alone in: two of each of the three lower levels.
const TABLES: usize = 6;

static PAGE_TABLES: Once<InterruptMutex<OffsetPageTable<'static>>> = Once::new();

pub(super) fn page_tables() -> &'static InterruptMutex<OffsetPageTable<'static>> {
    PAGE_TABLES.get().expect("memory was not set up")
}

/// Why a batch was not mapped. Nothing is changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// There was no frame for a page table.
    NoFrame,
    /// A page of the range is mapped already.
    Mapped,
}

/// Takes over the page tables of the bootloader.
///
/// # Safety
/// All physical memory is mapped at [`physical::offset`], and nobody else changes page tables.
pub(super) unsafe fn init() {
    let (frame, _) = Cr3::read();
    let mut table = physical::pointer(frame.start_address());
    PAGE_TABLES.call_once(|| {
        // SAFETY: CR3 says where the level 4 table is, and by the caller's promise it is ours, and
        // all tables are reachable at the offset.
        InterruptMutex::new(unsafe { OffsetPageTable::new(table.as_mut(), physical::offset()) })
    });
}

/// Whether a level 4 entry maps nothing.
pub fn is_level_4_entry_unused(index: PageTableIndex) -> bool {
    page_tables().lock().level_4_table()[index].is_unused()
}

/// How many tables there are below a level 4 entry, and whether one of them is empty. Meant for
/// checks: the tables are locked while all of them are read.
pub(crate) fn tables_below(index: PageTableIndex) -> (usize, bool) {
    fn count(entry: &PageTableEntry, level: PageTableLevel) -> (usize, bool) {
        let huge = entry.flags().contains(PageTableFlags::HUGE_PAGE);
        let Some(level) = level.next_lower_level() else {
            return (0, false);
        };
        if entry.is_unused() || huge {
            return (0, false);
        }
        // SAFETY: the entry leads to a table, which nobody changes while the tables are locked.
        let table: &PageTable = unsafe { physical::pointer(entry.addr()).as_ref() };
        let empty = table.iter().all(PageTableEntry::is_unused);
        table
            .iter()
            .map(|entry| count(entry, level))
            .fold((1, empty), |sum, below| (sum.0 + below.0, sum.1 || below.1))
    }
    let tables = page_tables().lock();
    count(&tables.level_4_table()[index], PageTableLevel::Four)
}

/// Calls `visit` with everything that is mapped. The tables are locked meanwhile: it must not allocate.
pub fn for_each_mapping(mut visit: impl FnMut(&Mapping)) {
    let tables = page_tables().lock();
    let Ok(()) = walk::for_each_mapping(tables.level_4_table(), &mut |mapping| {
        visit(mapping);
        Ok::<(), Infallible>(())
    });
}

/// What is mapped at `address`.
pub fn mapping_at(address: VirtAddr) -> Option<Mapping> {
    walk::mapping_at(page_tables().lock().level_4_table(), address)
}

/// Maps `frames` at `first` and the pages that follow.
///
/// # Errors
/// When a table is missing and there is no frame for it, or a page is mapped already.
///
/// # Panics
/// If there are more than [`BATCH`] frames.
///
/// # Safety
/// The pages are nobody else's, and the frames are used in no way that conflicts with the flags.
pub(super) unsafe fn map(
    first: Page,
    frames: &[PhysFrame],
    flags: PageTableFlags,
) -> Result<(), MapError> {
    assert!(frames.len() <= BATCH);
    let parent_flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let mut tables = page_tables().lock();
    for (index, &frame) in frames.iter().enumerate() {
        let page = first + index as u64;
        let mapped = if fault_injection::MAPPINGS.fails() {
            Err(MapToError::FrameAllocationFailed)
        } else {
            // SAFETY: by the caller's promise.
            unsafe {
                tables.map_to_with_table_flags(page, frame, flags, parent_flags, &mut TableFrames)
            }
        };
        match mapped {
            // A page that was not mapped is not in the TLB.
            Ok(flush) => flush.ignore(),
            Err(error) => {
                let undone = unmap_locked(&mut tables, first, index, page);
                drop(tables);
                undone.flush().free_tables();
                return Err(match error {
                    MapToError::FrameAllocationFailed => MapError::NoFrame,
                    MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage => {
                        MapError::Mapped
                    }
                });
            }
        }
    }
    Ok(())
}

/// Unmaps `count` pages from `first` on; pages that are not mapped are passed over. Tables that map
/// nothing any more are unlinked.
///
/// # Panics
/// If there are more than [`BATCH`] pages.
///
/// # Safety
/// Nobody uses the pages.
pub(super) unsafe fn unmap(first: Page, count: usize) -> Unmapped {
    assert!(0 < count && count <= BATCH);
    let mut tables = page_tables().lock();
    unmap_locked(&mut tables, first, count, first + (count as u64 - 1))
}

/// Unmaps `count` pages from `first` on, and unlinks the tables that are empty up to `last`.
fn unmap_locked(
    tables: &mut OffsetPageTable<'static>,
    first: Page,
    count: usize,
    last: Page,
) -> Unmapped {
    let range = PageRangeInclusive {
        start: first,
        end: last,
    };
    let mut unmapped = Unmapped {
        range,
        frames: FrameList::new(),
        tables: FrameList::new(),
    };
    for page in Page::range(first, first + count as u64) {
        if let Ok((frame, flush)) = tables.unmap(page) {
            flush.ignore();
            unmapped.frames.push(frame);
        }
    }
    // SAFETY: the tables that are unlinked map nothing. Their frames are only collected here, and
    // freed after the TLB was flushed.
    unsafe { tables.clean_up_addr_range(range, &mut unmapped.tables) };
    unmapped
}

/// Makes a mapped page's flags others.
///
/// # Errors
/// When the page is not mapped as one of 4 KiB.
///
/// # Safety
/// The new flags conflict with no use of the page.
pub unsafe fn protect(page: Page, flags: PageTableFlags) -> Result<(), NotMapped> {
    let mut tables = page_tables().lock();
    // SAFETY: by the caller's promise.
    match unsafe { tables.update_flags(page, flags) } {
        Ok(flush) => {
            flush.flush();
            Ok(())
        }
        Err(_) => Err(NotMapped),
    }
}

/// A page is not mapped, or is part of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMapped;

/// The frames that were behind pages, of which the TLB may still hold translations.
#[must_use = "flush, then free the frames"]
pub(super) struct Unmapped {
    range: PageRangeInclusive,
    frames: FrameList<BATCH>,
    tables: FrameList<TABLES>,
}

impl Unmapped {
    /// Makes the CPU forget the pages. (Every CPU, once there are more: which is why no lock is held
    /// here.) Only then may frames and addresses be used again.
    pub fn flush(self) -> Flushed {
        if self.range.len() <= FLUSH_EACH as u64 {
            // Flushing any page also drops what is cached of upper levels, and so of the tables that
            // were unlinked.
            for page in self.range {
                tlb::flush(page.start_address());
            }
        } else {
            tlb::flush_all();
        }
        Flushed(self)
    }
}

/// The frames that were behind pages, which nothing reaches any more.
#[must_use = "free the frames"]
pub(super) struct Flushed(Unmapped);

impl Flushed {
    /// The frames that were mapped.
    pub fn frames(&self) -> &[PhysFrame] {
        self.0.frames.as_slice()
    }

    /// Frees the page tables that were unlinked.
    pub fn free_tables(&self) {
        for &frame in self.0.tables.as_slice() {
            // A table that maps nothing is clear.
            // SAFETY: `TableFrames` has allocated it, it was unlinked, and no TLB caches it any more.
            unsafe { frames::give_back(frame, Purpose::PageTables) };
        }
    }
}

/// Page tables are made of frames counted as such.
struct TableFrames;

// SAFETY: the frames are the allocator's, each handed out once.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::allocate(Purpose::PageTables)
    }
}
