//! The page tables: mapping frames at pages, and unmapping them.
//!
//! Operations work on batches of at most [`BATCH`] pages, because the lock of the page tables masks
//! interrupts. A batch is mapped as a whole or not at all. Unmapping has three steps, each of which
//! has a type:
//!
//! ```text
//! unmap ──> Unmapped ── flush ──> Flushed ── frames, free_tables ──> frames that are free to use
//!           TLB may still         no CPU translates
//!           translate             the pages any more
//! ```

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
use super::page_set::PageSet;
use super::walk::{self, Mapping};
use super::{fault_injection, physical};
use crate::sync::InterruptMutex;

/// The number of pages that are mapped or unmapped while the lock is held once.
pub const BATCH: usize = 16;

/// The largest number of tables that unmapping [`BATCH`] pages can make empty: two of each of the
/// three lower levels.
const TABLES: usize = 6;

static PAGE_TABLES: Once<InterruptMutex<OffsetPageTable<'static>>> = Once::new();

/// Returns the page tables and their lock.
pub(super) fn page_tables() -> &'static InterruptMutex<OffsetPageTable<'static>> {
    PAGE_TABLES.get().expect("the memory is not initialised")
}

/// The reason why a batch was not mapped. No page of the batch is mapped then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// No frame was free for a page table.
    NoFrame,
    /// A page of the range is mapped already.
    Mapped,
}

/// Takes over the page tables of the bootloader.
///
/// # Safety
/// All physical memory is mapped at [`physical::offset`], and only this module changes page tables.
pub(super) unsafe fn init() {
    let (frame, _) = Cr3::read();
    let mut table = physical::pointer(frame.start_address());
    PAGE_TABLES.call_once(|| {
        // SAFETY: CR3 has the address of the level 4 table. The caller guarantees that only this
        // module changes it.
        let table = unsafe { table.as_mut() };
        // SAFETY: the caller guarantees that all tables are mapped at the offset.
        InterruptMutex::new(unsafe { OffsetPageTable::new(table, physical::offset()) })
    });
}

/// Returns whether a level 4 entry is unused.
pub fn is_level_4_entry_unused(index: PageTableIndex) -> bool {
    page_tables().lock().level_4_table()[index].is_unused()
}

/// What lies below an entry of a page table.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// The number of tables.
    pub(crate) tables: usize,
    /// The number of entries that map a page, of any size.
    pub(crate) mappings: usize,
    /// Whether a table is empty.
    pub(crate) empty: bool,
}

/// Counts the tables and mappings below a level 4 entry. Holds the lock while it reads all tables:
/// for audits only.
pub(crate) fn tables_below(index: PageTableIndex) -> Below {
    fn count(entry: &PageTableEntry, level: PageTableLevel) -> Below {
        if entry.is_unused() {
            return Below::default();
        }
        let huge = entry.flags().contains(PageTableFlags::HUGE_PAGE);
        let Some(level) = level.next_lower_level().filter(|_| !huge) else {
            return Below {
                mappings: 1,
                ..Below::default()
            };
        };
        // SAFETY: the entry leads to a table, and the lock that is held excludes changes.
        let table: &PageTable = unsafe { physical::pointer(entry.addr()).as_ref() };
        let start = Below {
            tables: 1,
            mappings: 0,
            empty: table.iter().all(PageTableEntry::is_unused),
        };
        table
            .iter()
            .map(|entry| count(entry, level))
            .fold(start, |sum, below| Below {
                tables: sum.tables + below.tables,
                mappings: sum.mappings + below.mappings,
                empty: sum.empty || below.empty,
            })
    }
    let tables = page_tables().lock();
    count(&tables.level_4_table()[index], PageTableLevel::Four)
}

/// Calls `visit` for each mapping. Holds the lock of the page tables meanwhile: `visit` must not
/// allocate.
pub fn for_each_mapping(mut visit: impl FnMut(&Mapping)) {
    let tables = page_tables().lock();
    let Ok(()) = walk::for_each_mapping(tables.level_4_table(), &mut |mapping| {
        visit(mapping);
        Ok::<(), Infallible>(())
    });
}

/// Returns the mapping at `address`.
pub fn mapping_at(address: VirtAddr) -> Option<Mapping> {
    walk::mapping_at(page_tables().lock().level_4_table(), address)
}

/// Returns whether a page of 4 KiB is mapped at `address`, without waiting. Returns `None` if the
/// page tables are locked.
pub(super) fn try_is_mapped(address: VirtAddr) -> Option<bool> {
    let tables = PAGE_TABLES.get()?.try_lock()?;
    Some(walk::mapping_at(tables.level_4_table(), address).is_some())
}

/// Returns those of `pages` that are not mapped.
pub(super) fn not_mapped(first: Page, count: usize) -> PageSet {
    let tables = page_tables().lock();
    let mut missing = PageSet::none(first);
    for page in PageSet::all(first, count).iter() {
        if tables.translate_page(page).is_err() {
            missing.insert(page);
        }
    }
    missing
}

/// Maps `frames` at `pages`. At most six frames are required for tables.
///
/// # Errors
/// Returns an error if no frame is free for a table, or a page is mapped already. Then no page is
/// mapped.
///
/// # Panics
/// Panics unless `frames` has as many frames as `pages` has pages.
///
/// # Safety
/// The caller owns the addresses of the pages. No use of the frames conflicts with `flags`.
pub(super) unsafe fn map(
    pages: PageSet,
    frames: &[PhysFrame],
    flags: PageTableFlags,
) -> Result<(), MapError> {
    assert!(frames.len() == pages.len());
    let parent_flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let mut tables = page_tables().lock();
    for (page, &frame) in pages.iter().zip(frames) {
        let mapped = if fault_injection::MAPPINGS.fails() {
            Err(MapToError::FrameAllocationFailed)
        } else {
            // SAFETY: the caller owns the page, and guarantees that `flags` suit the frame.
            unsafe {
                tables.map_to_with_table_flags(page, frame, flags, parent_flags, &mut TableFrames)
            }
        };
        match mapped {
            // The TLB holds no translation of a page that was not mapped.
            Ok(flush) => flush.ignore(),
            Err(error) => {
                // Tables may have been created for this page, which itself is left as it is.
                let range = PageRangeInclusive {
                    end: page,
                    ..pages.range()
                };
                let mut undone = Unmapped::new(range);
                undone.unmap(&mut tables, pages.below(page));
                drop(tables);
                undone.unlink_tables(&mut page_tables().lock());
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

/// Unmaps `pages`, and skips those that are not mapped. Unlinks tables that become empty.
///
/// # Safety
/// No code uses the pages.
pub(super) unsafe fn unmap(pages: PageSet) -> Unmapped {
    let mut unmapped = Unmapped::new(pages.range());
    unmapped.unmap(&mut page_tables().lock(), pages);
    // Searching tables for entries in use takes as long as unmapping, so the lock is taken again.
    // What others map meanwhile is found.
    unmapped.unlink_tables(&mut page_tables().lock());
    unmapped
}

/// Returns the parts of a range of at most [`BATCH`] pages that lie in one table of level 1 each.
fn by_table(range: PageRangeInclusive) -> impl Iterator<Item = PageRangeInclusive> {
    let in_first = 511 - u64::from(u16::from(range.start.p1_index()));
    let is_whole = range.end - range.start <= in_first;
    let end = if is_whole {
        range.end
    } else {
        range.start + in_first
    };
    let first = PageRangeInclusive { end, ..range };
    let rest = PageRangeInclusive {
        start: end + 1,
        ..range
    };
    core::iter::once(first).chain((!is_whole).then_some(rest))
}

/// Returns whether the page below or above the range is mapped by the same table of level 1 as the
/// range. Then this table is not empty. (Searching it for an entry in use takes longer than
/// unmapping the pages.)
fn has_neighbour(tables: &OffsetPageTable<'static>, range: PageRangeInclusive) -> bool {
    let (first, last) = (range.start.p1_index(), range.end.p1_index());
    let is_mapped = |page| tables.translate_page(page).is_ok();
    (first > PageTableIndex::new(0) && is_mapped(range.start - 1))
        || (last < PageTableIndex::new(511) && is_mapped(range.end + 1))
}

/// Changes the flags of a mapped page, and flushes the page.
///
/// # Errors
/// Returns an error if the page is not mapped, or is part of a larger one.
///
/// # Safety
/// No use of the page conflicts with the new flags.
pub unsafe fn protect(page: Page, flags: PageTableFlags) -> Result<(), NotMapped> {
    let mut tables = page_tables().lock();
    // SAFETY: the caller guarantees that no use of the page conflicts with the new flags.
    match unsafe { tables.update_flags(page, flags) } {
        Ok(flush) => {
            flush.flush();
            Ok(())
        }
        Err(_) => Err(NotMapped),
    }
}

/// The error that a page is not mapped, or is part of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMapped;

/// Frames of pages that were unmapped, while the TLB may still translate the pages.
#[must_use = "flush, then free the frames"]
pub(super) struct Unmapped {
    range: PageRangeInclusive,
    frames: FrameList<BATCH>,
    tables: FrameList<TABLES>,
}

impl Unmapped {
    /// Begins with no page of a range.
    fn new(range: PageRangeInclusive) -> Self {
        Self {
            range,
            frames: FrameList::new(),
            tables: FrameList::new(),
        }
    }

    /// Unmaps `pages`, which lie in the range.
    fn unmap(&mut self, tables: &mut OffsetPageTable<'static>, pages: PageSet) {
        for page in pages.iter() {
            if let Ok((frame, flush)) = tables.unmap(page) {
                flush.ignore();
                self.frames.push(frame);
            }
        }
    }

    /// Unlinks tables for the pages of the range that are empty.
    fn unlink_tables(&mut self, tables: &mut OffsetPageTable<'static>) {
        for part in by_table(self.range) {
            if !has_neighbour(tables, part) {
                // SAFETY: `clean_up_addr_range` unlinks empty tables only. Their frames are
                // collected here, and freed after the flush.
                unsafe { tables.clean_up_addr_range(part, &mut self.tables) };
            }
        }
    }

    /// Removes the pages from the TLB. After that, frames and addresses may be used again.
    ///
    /// With more CPUs, this function must flush all of them, and wait: so it holds no lock.
    pub(crate) fn flush(self) -> Flushed {
        // Flushing a page also removes cached entries of upper levels, and with them the tables
        // that were unlinked.
        for page in self.range {
            tlb::flush(page.start_address());
        }
        Flushed(self)
    }
}

/// Frames of pages that were unmapped and that no CPU translates any more.
#[must_use = "free the frames"]
pub(super) struct Flushed(Unmapped);

impl Flushed {
    /// Returns the frames that were mapped.
    pub(crate) fn frames(&self) -> &[PhysFrame] {
        self.0.frames.as_slice()
    }

    /// Frees the page tables that were unlinked.
    pub(crate) fn free_tables(&self) {
        for &frame in self.0.tables.as_slice() {
            // An empty table is zero, as free frames must be.
            // SAFETY: `TableFrames` has allocated the frame. The table is unlinked and flushed.
            unsafe { frames::free_or_panic(frame, Purpose::PageTables) };
        }
    }
}

/// Allocates the frames of page tables.
struct TableFrames;

// SAFETY: the allocator hands each frame out once.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::allocate(Purpose::PageTables)
    }
}
