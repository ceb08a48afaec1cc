//! Memory: frames, page tables, and the pages of the heap.
//!
//! | module | what it is |
//! |---|---|
//! | [`frames`] | who may use which frame of physical memory |
//! | [`physical`] | how the kernel reaches physical memory |
//! | [`page_table`] | mapping frames at pages |
//!
//! Locks are taken in this order: page tables, frames.

mod frame_list;
pub mod frames;
#[cfg(target_os = "none")]
pub mod page_table;
#[cfg(target_os = "none")]
pub mod physical;
#[cfg(target_os = "none")]
mod place;

use core::fmt;

#[cfg(target_os = "none")]
pub use on_target::*;

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
    /// Every level 4 entry of the higher half is used: there are no addresses for the heap.
    NoAddresses,
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
            Self::NoAddresses => f.write_str("no level 4 entry of the page tables is unused"),
        }
    }
}

impl core::error::Error for InitError {}

/// The state of memory; the host has none.
#[cfg(target_os = "none")]
mod on_target {
    use bootloader_api::BootInfo;
    use spin::Once;
    use x86_64::VirtAddr;
    use x86_64::structures::paging::{PageTableFlags, PhysFrame};

    use super::frames::{Counters, Frames, Purpose};
    pub use super::place::{Place, place_of};
    use super::{InitError, page_table, physical};
    use crate::interrupts::segments::InterruptStack;
    use crate::sync::InterruptMutex;

    static FRAMES: Once<InterruptMutex<Frames<'static>>> = Once::new();

    fn frames() -> &'static InterruptMutex<Frames<'static>> {
        FRAMES.get().expect("memory was not set up")
    }

    /// Sets up frames and page tables.
    ///
    /// # Safety
    /// The boot information is the bootloader's, and this is called once.
    pub(crate) unsafe fn init(boot_info: &BootInfo) -> Result<(), InitError> {
        let offset = boot_info
            .physical_memory_offset
            .into_option()
            .ok_or(InitError::PhysicalMemoryNotMapped)?;
        // SAFETY: by the caller's promise the bootloader has mapped all memory at that offset.
        let frames = unsafe { physical::init(VirtAddr::new(offset), &boot_info.memory_regions)? };
        FRAMES.call_once(|| frames);
        // SAFETY: the same; and nobody changes page tables before us.
        unsafe { page_table::init() };
        super::place::init(boot_info);
        guard_interrupt_stacks();
        Ok(())
    }

    /// Makes the page below each interrupt stack inaccessible.
    fn guard_interrupt_stacks() {
        for stack in InterruptStack::ALL {
            // SAFETY: nothing is on the guard page.
            unsafe { page_table::protect(stack.guard(), PageTableFlags::empty()) }
                .expect("the kernel's image is mapped with pages of 4 KiB");
        }
    }

    /// A frame for `purpose`, with whatever is in it.
    pub fn allocate_frame(purpose: Purpose) -> Option<PhysFrame> {
        frames().lock().allocate(purpose)
    }

    /// Takes a frame back. It should be [cleared](physical::clear) before.
    ///
    /// # Panics
    /// If it cannot be a frame in use for `purpose`: then something is corrupt.
    pub fn free_frame(frame: PhysFrame, purpose: Purpose) {
        let freed = frames().lock().free(frame, purpose);
        if let Err(error) = freed {
            panic!("{error}");
        }
    }

    /// How many frames there are.
    pub fn frame_counters() -> Counters {
        frames().lock().counters()
    }

    /// How many frames there are, unless that would mean to wait.
    pub(crate) fn try_frame_counters() -> Option<Counters> {
        Some(FRAMES.get()?.try_lock()?.counters())
    }

    /// Compares the counters of the frames with their table.
    ///
    /// # Errors
    /// Says what does not agree.
    pub fn check_frames() -> Result<(), &'static str> {
        frames().lock().check()
    }

    /// Sets which of the following allocations of frames are to fail.
    #[cfg(feature = "fault-injection")]
    pub fn inject(injection: super::frames::Injection) {
        frames().lock().inject(injection);
    }
}
