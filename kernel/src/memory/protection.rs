//! W^X: no memory is both writable and executable, at any address.
//!
//! 1. Only the kernel's code is executable, and it is not writable.
//! 2. A frame that the kernel's image maps read-only (code, constants, tables of functions) is not
//!    writable at any address. This includes the mapping of physical memory.
//!
//! The bootloader protects the image at its own addresses only. It maps all physical memory
//! writable, up to the highest address that the firmware lists, which may be a terabyte. A few
//! pages of the bootloader itself stay mapped in the lower half. The function `init` removes all of
//! this.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use x86_64::instructions::tlb;
use x86_64::structures::paging::mapper::Translate;
use x86_64::structures::paging::page_table::{PageTableEntry, PageTableLevel};
use x86_64::structures::paging::{OffsetPageTable, PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use super::frames::{self, Purpose};
use super::page_table::page_tables;
use super::walk::{for_each_mapping, mapping_at};
use super::{InitError, PAGE_SIZE, address_kind, physical};

/// A mapping that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// Memory other than the kernel's code is executable.
    Executable {
        /// The first address of the mapping.
        address: VirtAddr,
    },
    /// The kernel's code is writable.
    WritableCode {
        /// The first address of the mapping.
        address: VirtAddr,
    },
    /// A frame that the kernel's image maps read-only is writable at another address.
    WritableAlias {
        /// One of the two addresses.
        address: VirtAddr,
        /// The address of the frame.
        frame: PhysAddr,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable { address } => write!(
                f,
                "the memory at {address:#x} is executable, and is not the kernel's code"
            ),
            Self::WritableCode { address } => {
                write!(f, "the kernel's code at {address:#x} is writable")
            }
            Self::WritableAlias { address, frame } => write!(
                f,
                "the frame at {frame:#x}, mapped at {address:#x}, is read-only at one address and \
                 writable at another"
            ),
        }
    }
}

impl core::error::Error for Mismatch {}

/// The number of tables that large pages were split into.
static TABLES: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of page tables that were allocated to protect parts of large pages.
pub(crate) fn tables() -> usize {
    TABLES.load(Ordering::Relaxed)
}

/// Establishes the rules: unmaps the lower half and the mapping of physical memory above its end,
/// and write-protects the second mapping of read-only frames of the image.
///
/// # Errors
/// Returns an error if no frame is free for a page table, or physical memory is not mapped.
///
/// # Safety
/// No code uses the lower half, nor the mapping of physical memory above [`physical::end`]. No code
/// writes to read-only frames of the image.
pub(super) unsafe fn init() -> Result<(), InitError> {
    let mut tables = page_tables().lock();
    for entry in tables.level_4_table_mut().iter_mut().take(256) {
        entry.set_unused();
    }
    cut_physical_mapping(&mut tables)?;
    let table = tables.level_4_table_mut();
    for address in image() {
        let frame = mapping_at(table, address)
            .filter(|mapping| !mapping.writable)
            .map(|mapping| mapping.at(address));
        if let Some(frame) = frame {
            let alias = physical::address(frame);
            let entry = entry_at(table, PageTableLevel::Four, alias, PageTableLevel::One)?;
            entry.set_flags(entry.flags() - PageTableFlags::WRITABLE);
        }
    }
    tlb::flush_all();
    Ok(())
}

/// Returns the addresses of the pages of the kernel's image.
fn image() -> impl Iterator<Item = VirtAddr> {
    address_kind::image()
        .step_by(PAGE_SIZE)
        .map(|address| VirtAddr::new(address as u64))
}

/// Unmaps the mapping of physical memory above [`physical::end`]. The frames of its tables become
/// free frames.
fn cut_physical_mapping(tables: &mut OffsetPageTable) -> Result<(), InitError> {
    let step = PageTableLevel::Three.entry_address_space_alignment();
    let mut address = physical::end().align_up(step);
    while tables.translate_addr(physical::address(address)) == Some(address) {
        let page = physical::address(address);
        let table = tables.level_4_table_mut();
        let entry = entry_at(table, PageTableLevel::Four, page, PageTableLevel::Three)?;
        let (flags, below) = (entry.flags(), entry.addr());
        entry.set_unused();
        // The flush also removes cached entries of the table below.
        tlb::flush(page);
        if !flags.contains(PageTableFlags::HUGE_PAGE) {
            // SAFETY: the bootloader has allocated the table from memory. It is unlinked and
            // flushed above, and no other code has its address.
            unsafe { frames::add(PhysFrame::containing_address(below)) };
        }
        address += step;
    }
    Ok(())
}

/// Returns the entry of level `wanted` for `address`, below a table of level `level`. Splits larger
/// pages on the way.
fn entry_at(
    table: &mut PageTable,
    level: PageTableLevel,
    address: VirtAddr,
    wanted: PageTableLevel,
) -> Result<&mut PageTableEntry, InitError> {
    let entry = &mut table[address.page_table_index(level)];
    let Some(below) = level.next_lower_level().filter(|_| level != wanted) else {
        return Ok(entry);
    };
    if entry.is_unused() {
        return Err(InitError::PhysicalMemoryNotMapped);
    }
    if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
        split(entry, below)?;
    }
    // SAFETY: the entry leads to a table. The mutable borrow of the table above covers it.
    let table = unsafe { physical::pointer(entry.addr()).as_mut() };
    entry_at(table, below, address, wanted)
}

/// Replaces a large page by a table of level `below` that maps the same memory.
fn split(entry: &mut PageTableEntry, below: PageTableLevel) -> Result<(), InitError> {
    let frame = frames::allocate(Purpose::PageTables).ok_or(InitError::NoFrame)?;
    TABLES.fetch_add(1, Ordering::Relaxed);
    let table = physical::pointer::<PageTable>(frame.start_address());
    // SAFETY: the frame was just allocated, and a table is as large as a frame.
    unsafe { table.write(PageTable::new()) };
    // SAFETY: the frame holds the table that was just written, which no other code uses.
    let table = unsafe { &mut *table.as_ptr() };
    let (mut address, mut flags) = (entry.addr(), entry.flags());
    if below == PageTableLevel::One {
        flags -= PageTableFlags::HUGE_PAGE;
    }
    for part in table.iter_mut() {
        part.set_addr(address, flags);
        address += below.entry_address_space_alignment();
    }
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    entry.set_frame(frame, flags);
    Ok(())
}

/// Checks the rules for all mappings, with the page tables locked. O(mappings).
///
/// # Errors
/// Returns the first mapping that breaks a rule.
pub fn check() -> Result<(), Mismatch> {
    let tables = page_tables().lock();
    let table = tables.level_4_table();
    let image = address_kind::image();
    for_each_mapping(table, &mut |mapping| {
        let address = mapping.start;
        let in_image = image.contains(&(address.as_u64() as usize));
        if mapping.executable && !in_image {
            return Err(Mismatch::Executable { address });
        }
        if mapping.executable && mapping.writable {
            return Err(Mismatch::WritableCode { address });
        }
        if physical::address(mapping.physical) == address || !(in_image || mapping.writable) {
            return Ok(());
        }
        for offset in (0..mapping.size).step_by(PAGE_SIZE) {
            let frame = mapping.physical + offset;
            if is_protected(table, frame) == mapping.writable {
                let address = address + offset;
                return Err(Mismatch::WritableAlias { address, frame });
            }
        }
        Ok(())
    })
}

/// Returns whether the mapping of physical memory maps the frame read-only.
fn is_protected(table: &PageTable, frame: PhysAddr) -> bool {
    let alias = physical::address(frame);
    mapping_at(table, alias).is_some_and(|mapping| mapping.at(alias) == frame && !mapping.writable)
}
