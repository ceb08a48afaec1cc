//! The page tables: what is mapped where, and the flags of pages. `heap-x86_64` maps the pages of
//! the heap, with the lock of this module.

use core::convert::Infallible;

use heap_x86_64::smp;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::page_table::{PageTableEntry, PageTableLevel};
use x86_64::structures::paging::{
    Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PageTableIndex,
};

use super::physical;
use super::walk::{self, Mapping};
use crate::sync::InterruptMutex;

static PAGE_TABLES: Once<InterruptMutex<OffsetPageTable<'static>>> = Once::new();

/// Returns the page tables and their lock.
pub(super) fn page_tables() -> &'static InterruptMutex<OffsetPageTable<'static>> {
    PAGE_TABLES.get().expect("the memory is not initialised")
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

/// Changes the flags of a mapped page, and flushes the page on all CPUs.
///
/// # Errors
/// Returns an error if the page is not mapped, or is part of a larger one.
///
/// # Safety
/// No use of the page conflicts with the new flags.
pub unsafe fn protect(page: Page, flags: PageTableFlags) -> Result<(), NotMapped> {
    let mut tables = page_tables().lock();
    // SAFETY: the caller guarantees that no use of the page conflicts with the new flags.
    let updated = unsafe { tables.update_flags(page, flags) };
    updated.map_err(|_| NotMapped)?.ignore();
    drop(tables);
    smp::flush(Page::range_inclusive(page, page));
    Ok(())
}

/// The error that a page is not mapped, or is part of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMapped;
