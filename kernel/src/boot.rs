//! From the bootloader to the kernel's main function.

use core::fmt;

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::BootInfo;

use crate::config::{Config, ConfigError};
use crate::entropy::Seed;
use crate::heap::HEAP;
use crate::ramdisk::{Ramdisk, RamdiskError};
use crate::{interrupts, memory, println, serial};

/// What the kernel asks of the bootloader: everything in the higher half, all physical memory
/// mapped, and a stack of its own size.
pub const BOOTLOADER_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(0xffff_8000_0000_0000);
    config.kernel_stack_size = 256 * 1024;
    config
};

/// What the main function gets.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The files that the host handed over.
    pub ramdisk: Ramdisk<'static>,
    /// What the host asks for.
    pub config: Config<'static>,
}

/// Why the kernel does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError {
    /// Memory could not be set up.
    Memory(memory::InitError),
    /// There is no RAM disk.
    NoRamdisk,
    /// The RAM disk is damaged.
    Ramdisk(RamdiskError),
    /// The configuration is not understood.
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

/// Sets up serial port and exceptions, reads what the host handed over, and sets up memory. Interrupts
/// are enabled at the end.
///
/// # Errors
/// When the boot information or the RAM disk cannot be used.
///
/// # Safety
/// The boot information is the bootloader's, made with [`BOOTLOADER_CONFIG`], and this is called
/// once.
pub unsafe fn init(boot_info: &'static mut BootInfo) -> Result<Boot, InitError> {
    serial::init();
    println!("@ready");
    interrupts::init();
    // SAFETY: by the caller's promise.
    let bytes = unsafe { ramdisk_bytes(boot_info) }.ok_or(InitError::NoRamdisk)?;
    let ramdisk = Ramdisk::new(bytes).map_err(InitError::Ramdisk)?;
    let text = ramdisk.text("config").map_err(InitError::Ramdisk)?;
    let config = Config::parse(text).map_err(InitError::Config)?;
    let seed = config
        .randomisation_seed
        .map_or_else(Seed::gather, Seed::of_host);
    // SAFETY: by the caller's promise.
    unsafe { memory::init(boot_info, seed) }.map_err(InitError::Memory)?;
    // SAFETY: the heap frees and resizes only the segments that it has allocated, and adds no span.
    let pages = unsafe { memory::heap_pages_arena() };
    // SAFETY: the arena allocates mapped memory, and nothing beneath it uses the heap.
    unsafe { HEAP.attach(pages) };
    interrupts::enable();
    Ok(Boot { ramdisk, config })
}

/// The bytes of the RAM disk.
///
/// # Safety
/// The boot information is the bootloader's.
unsafe fn ramdisk_bytes(boot_info: &BootInfo) -> Option<&'static [u8]> {
    let address = boot_info.ramdisk_addr.into_option()?;
    let start = core::ptr::with_exposed_provenance(usize::try_from(address).ok()?);
    let length = usize::try_from(boot_info.ramdisk_len).ok()?;
    // SAFETY: the bootloader has loaded so many bytes there, and nobody changes them.
    Some(unsafe { core::slice::from_raw_parts(start, length) })
}
