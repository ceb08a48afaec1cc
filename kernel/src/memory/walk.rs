//! Walks over page tables: the mapping at an address, and all mappings.

use x86_64::structures::paging::page_table::{PageTableEntry, PageTableLevel};
use x86_64::structures::paging::{PageTable, PageTableFlags};
use x86_64::{PhysAddr, VirtAddr};

use super::physical;

/// The addresses that one entry of a page table maps, for all page sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: VirtAddr,
    /// The physical address that is mapped there.
    pub physical: PhysAddr,
    /// The size in bytes.
    pub size: u64,
    /// Whether the addresses can be written: the entries of all levels must allow it.
    pub writable: bool,
    /// Whether the addresses can be executed: the entries of all levels must allow it.
    pub executable: bool,
}

impl Mapping {
    /// All addresses with all rights: what the entries of the tables narrow down.
    const ALL: Self = Self {
        start: VirtAddr::zero(),
        physical: PhysAddr::zero(),
        size: 1 << 48,
        writable: true,
        executable: true,
    };

    /// Returns the physical address that is mapped at `address`, an address of this mapping.
    pub fn at(&self, address: VirtAddr) -> PhysAddr {
        self.physical + (address - self.start)
    }

    /// Narrows the mapping to the entry at `index` of the next table. Returns `None` if the entry
    /// maps no memory.
    fn narrowed(&self, index: usize, entry: &PageTableEntry) -> Option<Self> {
        let flags = entry.flags();
        let size = self.size / 512;
        flags.contains(PageTableFlags::PRESENT).then(|| Self {
            start: VirtAddr::new_truncate(self.start.as_u64() + index as u64 * size),
            physical: entry.addr(),
            size,
            writable: self.writable && flags.contains(PageTableFlags::WRITABLE),
            executable: self.executable && !flags.contains(PageTableFlags::NO_EXECUTE),
        })
    }
}

/// Returns the table that an entry of `level` leads to, and the level of the table. Returns `None`
/// if the entry maps a page.
fn table_below(
    entry: &PageTableEntry,
    level: PageTableLevel,
) -> Option<(&PageTable, PageTableLevel)> {
    let below = level.next_lower_level()?;
    let is_table = !entry.flags().contains(PageTableFlags::HUGE_PAGE);
    // SAFETY: a present entry that maps no page leads to a table. The borrow of the entry keeps the
    // table unchanged too.
    is_table.then(|| (unsafe { physical::pointer(entry.addr()).as_ref() }, below))
}

/// Returns the mapping at `address` in a level 4 table.
pub(super) fn mapping_at(table: &PageTable, address: VirtAddr) -> Option<Mapping> {
    let (mut table, mut level, mut mapping) = (table, PageTableLevel::Four, Mapping::ALL);
    loop {
        let index = address.page_table_index(level);
        let entry = &table[index];
        mapping = mapping.narrowed(index.into(), entry)?;
        match table_below(entry, level) {
            Some(below) => (table, level) = below,
            None => return Some(mapping),
        }
    }
}

/// Calls `visit` for each mapping of a level 4 table, until `visit` returns an error.
pub(super) fn for_each_mapping<E>(
    table: &PageTable,
    visit: &mut dyn FnMut(&Mapping) -> Result<(), E>,
) -> Result<(), E> {
    for_each_below(table, PageTableLevel::Four, &Mapping::ALL, visit)
}

fn for_each_below<E>(
    table: &PageTable,
    level: PageTableLevel,
    above: &Mapping,
    visit: &mut dyn FnMut(&Mapping) -> Result<(), E>,
) -> Result<(), E> {
    for (index, entry) in table.iter().enumerate() {
        let Some(mapping) = above.narrowed(index, entry) else {
            continue;
        };
        match table_below(entry, level) {
            Some((table, level)) => for_each_below(table, level, &mapping, visit)?,
            None => visit(&mapping)?,
        }
    }
    Ok(())
}
