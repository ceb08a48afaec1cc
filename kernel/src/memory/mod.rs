//! Memory: frames, page tables, and the pages of the heap.
//!
//! | module | contents |
//! |---|---|
//! | [`frames`] | the allocator of page frames |
//! | [`physical`] | access to physical memory |
//! | [`page_table`] | what is mapped where |
//! | [`heap_memory`] | frames and page tables for the pages of the heap |
//! | [`walk`] | reading page tables |
//! | [`protection`] | W^X: what can be written and what can be executed |
//! | [`arenas`] | the arenas of addresses and of pages for the heap |
//! | [`randomisation`] | address space layout randomisation of the heap |
//! | [`mapped_pages`] | the source that maps frames for the arena of pages |
//! | [`tags`] | the supply of boundary tags for the arenas |
//! | [`stacks`] | the interrupt stacks and their guard pages |
//! | [`recently_unmapped`] | the last ranges that were unmapped, for reports |
//! | [`fault_injection`] | failures on purpose, for tests |
//! | [`address_kind`] | what an address belongs to, for reports |
//!
//! No code here allocates from the kernel heap. `ARCHITECTURE.md` lists the order of all locks,
//! under "Locks".

pub mod address_kind;
pub mod arenas;
pub mod fault_injection;
pub mod frames;
pub mod heap_memory;
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
    HeapArena, HeapArenaView, heap_pages, heap_pages_arena, kernel_addresses,
    kernel_addresses_arena,
};
pub use tags::Tags;

/// The size of a page and of a frame in bytes.
pub const PAGE_SIZE: usize = heap_x86_64::PAGE_SIZE;

/// The reason why the memory could not be initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError {
    /// The bootloader has not mapped physical memory.
    PhysicalMemoryNotMapped,
    /// No usable region is large enough for the table of frames.
    NoRoomForFrameTable {
        /// The end of usable memory.
        end: u64,
    },
    /// No frame is free for a page table.
    NoFrame,
    /// Every level 4 entry of the higher half is in use.
    NoAddresses,
    /// An arena could not be created, or refuses its span.
    Arena(heap::vmem::Error),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PhysicalMemoryNotMapped => {
                f.write_str("the bootloader has not mapped physical memory")
            }
            Self::NoRoomForFrameTable { end } => write!(
                f,
                "no usable region has room for the table of frames; memory ends at {end:#x}"
            ),
            Self::NoFrame => f.write_str("no frame is free for a page table"),
            Self::NoAddresses => {
                f.write_str("no level 4 entry of the page tables is unused, as the heap needs")
            }
            Self::Arena(error) => write!(f, "the arena of kernel addresses: {error}"),
        }
    }
}

impl core::error::Error for InitError {}

/// Initialises frames, page tables, protection and arenas. `seed` chooses the addresses of the
/// heap.
///
/// # Safety
/// * The bootloader has made `boot_info`, with [`BOOTLOADER_CONFIG`](crate::BOOTLOADER_CONFIG).
/// * This function is called once.
pub(crate) unsafe fn init(boot_info: &BootInfo, seed: Seed) -> Result<(), InitError> {
    let offset = boot_info
        .physical_memory_offset
        .into_option()
        .ok_or(InitError::PhysicalMemoryNotMapped)?;
    // SAFETY: the bootloader has mapped all physical memory at `offset`, its memory map is correct,
    // and the caller calls once.
    let frames = unsafe { physical::init(VirtAddr::new(offset), &boot_info.memory_regions)? };
    // SAFETY: the free frames are usable by the memory map, so that no other code uses them.
    unsafe { frames::install(frames) };
    // SAFETY: physical memory is mapped at the offset that `physical::init` has stored, and only
    // this module changes page tables.
    unsafe { page_table::init() };
    guard_interrupt_stacks();
    // SAFETY: by its configuration the bootloader has put all mappings in use into the higher half.
    // Through the mapping of physical memory, the kernel uses memory and devices below 4 GiB only.
    unsafe { protection::init()? };
    if let Err(mismatch) = protection::check() {
        panic!("memory is not protected: {mismatch}");
    }
    // SAFETY: the page tables are initialised, and the caller calls once.
    unsafe { arenas::init(seed) }
}

/// Makes the guard page below each interrupt stack inaccessible.
fn guard_interrupt_stacks() {
    for stack in InterruptStack::ALL {
        // SAFETY: no code uses the guard page: it holds no data.
        unsafe { page_table::protect(stack.guard(), PageTableFlags::empty()) }
            .expect("the kernel's image is mapped with pages of 4 KiB");
    }
}
