//! Initialisation: from the bootloader to the kernel's main function.

use core::fmt;

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::BootInfo;
use kernel_protocol::address::KERNEL_BASE;
use kernel_protocol::ramdisk::CONFIG;
use kernel_protocol::record::Record;

use crate::config::{Config, ConfigError};
use crate::entropy::Seed;
use crate::heap::HEAP;
use crate::ramdisk::{Ramdisk, RamdiskError};
use crate::{exit, interrupts, memory, println, serial};

/// The kernel's requests to the bootloader: all mappings in the higher half, a mapping of all
/// physical memory, and a stack of 256 KiB.
pub const BOOTLOADER_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(KERNEL_BASE);
    config.kernel_stack_size = 256 * 1024;
    config
};

/// The argument of the main function.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The files from the host.
    pub ramdisk: Ramdisk<'static>,
    /// The configuration from the host.
    pub config: Config<'static>,
}

/// The reason why the kernel does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError {
    /// The memory could not be initialised.
    Memory(memory::InitError),
    /// The bootloader has loaded no RAM disk.
    NoRamdisk,
    /// The RAM disk is damaged.
    Ramdisk(RamdiskError),
    /// The configuration is invalid.
    Config(ConfigError<'static>),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "memory: {error}"),
            Self::NoRamdisk => f.write_str("there is no RAM disk"),
            Self::Ramdisk(error) => write!(f, "RAM disk: {error}"),
            Self::Config(error) => write!(f, "configuration: {error}"),
        }
    }
}

impl core::error::Error for InitError {}

/// Initialises the serial port, the exceptions, the RAM disk, the memory and the heap, in this
/// order. Enables interrupts at the end.
///
/// # Errors
/// Returns an error if the boot information, the RAM disk or its configuration is unusable.
///
/// # Safety
/// * The bootloader has made `boot_info`, with [`BOOTLOADER_CONFIG`].
/// * This function is called once.
pub unsafe fn init(boot_info: &'static mut BootInfo) -> Result<Boot, InitError> {
    serial::init();
    println!("{}", Record::Ready);
    interrupts::init();
    // SAFETY: the caller guarantees that the bootloader has made the boot information.
    let bytes = unsafe { ramdisk_bytes(boot_info) }.ok_or(InitError::NoRamdisk)?;
    let ramdisk = Ramdisk::new(bytes).map_err(InitError::Ramdisk)?;
    let text = ramdisk.text(CONFIG).map_err(InitError::Ramdisk)?;
    let config = Config::parse(text).map_err(InitError::Config)?;
    if config.hold {
        exit::hold_before_exit();
    }
    let seed = config
        .randomisation_seed
        .map_or_else(Seed::gather, Seed::of_host);
    // SAFETY: the caller guarantees that the bootloader has made the boot information, and that
    // this is the only call.
    unsafe { memory::init(boot_info, seed) }.map_err(InitError::Memory)?;
    // SAFETY: the heap frees and resizes only segments that it has allocated, and adds no span.
    let pages = unsafe { memory::heap_pages_arena() };
    // SAFETY: the arena allocates mapped memory. No code in `memory` allocates from the heap.
    unsafe { HEAP.attach(pages) };
    interrupts::enable();
    Ok(Boot { ramdisk, config })
}

/// Returns the bytes of the RAM disk, if the bootloader has loaded one.
///
/// # Safety
/// The bootloader has made `boot_info`.
unsafe fn ramdisk_bytes(boot_info: &BootInfo) -> Option<&'static [u8]> {
    let address = boot_info.ramdisk_addr.into_option()?;
    let start = core::ptr::with_exposed_provenance(usize::try_from(address).ok()?);
    let length = usize::try_from(boot_info.ramdisk_len).ok()?;
    // SAFETY: the bootloader has loaded `length` bytes at `start`. The memory map does not list
    // them as usable, so no code writes to them.
    Some(unsafe { core::slice::from_raw_parts(start, length) })
}
