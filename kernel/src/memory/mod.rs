//! Memory: frames, page tables, and the pages of the heap.
//!
//! | module | what it is |
//! |---|---|
//! | [`frames`] | who may use which frame of physical memory |
//! | [`physical`] | how the kernel reaches physical memory |
//! | [`page_table`] | mapping frames at pages |
//! | [`walk`] | what they map |
//! | [`protection`] | what can be written and what can be executed |
//! | [`arenas`] | the addresses for the heap, and the pages at them |
//! | [`randomisation`] | where in the address space those lie |
//! | [`mapped_pages`] | how the one arena borrows from the other: frames are mapped |
//! | [`recently_unmapped`] | which pages were given back lately |
//! | [`fault_injection`] | failures on purpose |
//! | [`address_kind`] | what an address belongs to, for reports of faults |
//!
//! Nothing here allocates from the kernel heap. Locks are taken in this order, each only after the
//! one before was released unless it says otherwise: an arena; page tables; within them, frames.

pub mod address_kind;
pub mod arenas;
pub mod fault_injection;
mod frame_list;
pub mod frames;
pub mod mapped_pages;
pub mod page_table;
pub mod physical;
pub mod protection;
pub mod randomisation;
pub mod recently_unmapped;
pub mod stacks;
pub mod tags;
pub mod walk;

use core::fmt;

use bootloader_api::BootInfo;
use x86_64::VirtAddr;
use x86_64::structures::paging::PageTableFlags;

use crate::entropy::Seed;
use stacks::InterruptStack;

pub use arenas::{
    HeapArena, HeapArenaView, PageLock, heap_pages, heap_pages_arena, kernel_addresses,
    kernel_addresses_arena,
};
pub use tags::Tags;

/// The size of a page and of a frame in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Why memory could not be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError {
    /// The bootloader did not map physical memory.
    PhysicalMemoryNotMapped,
    /// No usable region is large enough for the table of frames.
    NoRoomForFrameTable {
        /// Where usable memory ends.
        end: u64,
    },
    /// There is no frame for a page table.
    NoFrame,
    /// Every level 4 entry of the higher half is used.
    NoAddresses,
    /// The arena of addresses does not take its span.
    Arena(heap::vmem::Error),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PhysicalMemoryNotMapped => {
                f.write_str("the bootloader did not map physical memory")
            }
            Self::NoRoomForFrameTable { end } => write!(
                f,
                "no usable region has room for the table of frames; memory ends at {end:#x}"
            ),
            Self::NoFrame => f.write_str("no frame is left for a page table"),
            Self::NoAddresses => {
                f.write_str("no level 4 entry of the page tables is left for the heap")
            }
            Self::Arena(error) => write!(f, "the arena of kernel addresses: {error}"),
        }
    }
}

impl core::error::Error for InitError {}

/// Sets up frames, page tables and arenas. `seed` chooses where the heap lies.
///
/// # Safety
/// The boot information is the bootloader's, and this is called once.
pub(crate) unsafe fn init(boot_info: &BootInfo, seed: Seed) -> Result<(), InitError> {
    let offset = boot_info
        .physical_memory_offset
        .into_option()
        .ok_or(InitError::PhysicalMemoryNotMapped)?;
    // SAFETY: by the caller's promise the bootloader has mapped all memory at that offset.
    let frames = unsafe { physical::init(VirtAddr::new(offset), &boot_info.memory_regions)? };
    // SAFETY: the free frames are those that the memory map says are usable.
    unsafe { frames::install(frames) };
    // SAFETY: the same; and nobody changes page tables before us.
    unsafe { page_table::init() };
    address_kind::init(boot_info);
    guard_interrupt_stacks();
    // SAFETY: the bootloader was told to put everything into the higher half, and nothing but memory and devices below
    // 4 GiB is used through the mapping of physical memory.
    unsafe { protection::init()? };
    if let Err(violation) = protection::check() {
        panic!("memory is not protected: {violation}");
    }
    arenas::init(seed)
}

/// Makes the page below each interrupt stack inaccessible.
fn guard_interrupt_stacks() {
    for stack in InterruptStack::ALL {
        // SAFETY: nothing is on the guard page.
        unsafe { page_table::protect(stack.guard(), PageTableFlags::empty()) }
            .expect("the kernel's image is mapped with pages of 4 KiB");
    }
}
