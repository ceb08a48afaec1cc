//! What can be written and what can be executed, by whatever address.
//!
//! 1. Only the kernel's code is executable, and it cannot be written.
//! 2. A frame that the kernel's image maps read-only (code, constants, tables of functions) can be
//!    written nowhere, not in the mapping of physical memory either.
//!
//! The boot stages protect the image where it is mapped. But the mapping of physical memory is writable
//! throughout, it reaches up to the highest address that the firmware lists, be it a terabyte away, and
//! a few pages of the boot stages themselves stay mapped in the lower half.

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

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// What is mapped there is executable, and is not the kernel's code.
    Executable {
        /// The first address.
        address: VirtAddr,
    },
    /// The kernel's code can be written.
    WritableCode {
        /// The first address.
        address: VirtAddr,
    },
    /// A frame that is read-only in the kernel's image can be written by another address.
    WritableAlias {
        /// The address in the image, or another.
        address: VirtAddr,
        /// The frame's address.
        frame: PhysAddr,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable { address } => write!(
                f,
                "what is mapped at {address:#x} is executable and is not the kernel's code"
            ),
            Self::WritableCode { address } => {
                write!(f, "the kernel's code at {address:#x} can be written")
            }
            Self::WritableAlias { address, frame } => write!(
                f,
                "the frame at {frame:#x}, mapped at {address:#x}, is read-only by one address and \
                 writable by another"
            ),
        }
    }
}

impl core::error::Error for Mismatch {}

/// How many tables large pages were split into.
static TABLES: AtomicUsize = AtomicUsize::new(0);

/// How many page tables it took to protect parts of large pages.
pub(crate) fn tables() -> usize {
    TABLES.load(Ordering::Relaxed)
}

/// Makes the rules hold: unmaps the lower half and what is beyond memory, and write-protects what the image has
/// read-only.
///
/// # Safety
/// Nothing that is used is in the lower half, or beyond [`physical::end`] in the mapping of physical memory. Nobody
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

/// The pages of the kernel's image.
fn image() -> impl Iterator<Item = VirtAddr> {
    address_kind::image()
        .step_by(PAGE_SIZE)
        .map(|address| VirtAddr::new(address as u64))
}

/// Unmaps what lies above [`physical::end`] in the mapping of physical memory. The tables that mapped it
/// become free frames.
fn cut_physical_mapping(tables: &mut OffsetPageTable) -> Result<(), InitError> {
    let step = PageTableLevel::Three.entry_address_space_alignment();
    let mut address = physical::end().align_up(step);
    while tables.translate_addr(physical::address(address)) == Some(address) {
        let page = physical::address(address);
        let table = tables.level_4_table_mut();
        let entry = entry_at(table, PageTableLevel::Four, page, PageTableLevel::Three)?;
        let (flags, below) = (entry.flags(), entry.addr());
        entry.set_unused();
        // This also makes the CPU forget the table.
        tlb::flush(page);
        if !flags.contains(PageTableFlags::HUGE_PAGE) {
            // SAFETY: the table was unlinked above, and the CPU has forgotten it; the boot stages made
            // it of memory, and nothing else knows of it.
            unsafe { frames::add(PhysFrame::containing_address(below)) };
        }
        address += step;
    }
    Ok(())
}

/// The entry of level `wanted` for `address`, below `table`, which is of `level`. Larger pages on the way are
/// split.
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
    // SAFETY: the entry leads to a table, which is borrowed with the one above it.
    let table = unsafe { physical::pointer(entry.addr()).as_mut() };
    entry_at(table, below, address, wanted)
}

/// Makes an entry that maps a large page lead to a table, of level `below`, that maps the same.
fn split(entry: &mut PageTableEntry, below: PageTableLevel) -> Result<(), InitError> {
    let frame = frames::allocate(Purpose::PageTables).ok_or(InitError::NoFrame)?;
    TABLES.fetch_add(1, Ordering::Relaxed);
    let table = physical::pointer::<PageTable>(frame.start_address());
    // SAFETY: the frame is ours, and as large as a table.
    let table = unsafe {
        table.write(PageTable::new());
        &mut *table.as_ptr()
    };
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

/// Looks at everything that is mapped. The page tables are locked meanwhile.
///
/// # Errors
/// The first rule that is broken.
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

/// Whether the mapping of physical memory has the frame read-only.
fn is_protected(table: &PageTable, frame: PhysAddr) -> bool {
    let alias = physical::address(frame);
    mapping_at(table, alias).is_some_and(|mapping| mapping.at(alias) == frame && !mapping.writable)
}
