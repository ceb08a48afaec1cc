//! Initialisation: from the bootloader to the kernel's main function.

use core::{fmt, mem};

use bootloader_api::config::{BootloaderConfig, Mapping};
use bootloader_api::info::{BootInfo, MemoryRegion, MemoryRegionKind, Optional};
use heap_x86_64::smp;
use kernel_protocol::address::KERNEL_BASE;
use kernel_protocol::ramdisk::CONFIG;
use kernel_protocol::record::Record;
use x86_64::PhysAddr;

use crate::config::{Config, ConfigError};
use crate::cpus::BOOT_CPU;
use crate::entropy::Seed;
use crate::framebuffer::Framebuffer;
use crate::heap::HEAP;
use crate::ramdisk::{Ramdisk, RamdiskError};
use crate::{acpi, console, cpus, exit, interrupts, memory, serial};

/// The kernel's requests to the bootloader: all mappings in the higher half, a mapping of all
/// physical memory, and a stack of 256 KiB.
pub const BOOTLOADER_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(KERNEL_BASE);
    config.kernel_stack_size = 256 * 1024;
    config
};

/// The argument of the main function: what the firmware, the bootloader and the host hand over.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The files from the host.
    pub ramdisk: Ramdisk<'static>,
    /// The configuration from the host.
    pub config: Config<'static>,
    /// The screen. The [console](crate::console) writes to it too.
    pub framebuffer: Option<Framebuffer>,
    /// The regions of physical memory. The kernel's allocator of frames owns the usable ones.
    pub memory_map: &'static [MemoryRegion],
    /// The address of the root pointer of ACPI (RSDP), if the bootloader has found it. See
    /// [`acpi::tables`].
    pub rsdp: Option<PhysAddr>,
    /// The firmware that started the bootloader.
    pub firmware: Firmware,
}

/// The firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl Firmware {
    /// Returns the firmware that made a memory map: it alone has regions of that kind.
    fn of(memory_map: &[MemoryRegion]) -> Self {
        let is_uefi =
            |region: &MemoryRegion| matches!(region.kind, MemoryRegionKind::UnknownUefi(_));
        if memory_map.iter().any(is_uefi) {
            Self::Uefi
        } else {
            Self::Bios
        }
    }
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

/// Initialises the serial port, the console, the exceptions, the RAM disk, the memory and the heap,
/// in this order. Then enables interrupts, and starts the other CPUs.
///
/// # Errors
/// Returns an error if the boot information, the RAM disk or its configuration is unusable.
///
/// # Safety
/// * The bootloader has made `boot_info`, with [`BOOTLOADER_CONFIG`].
/// * This function is called once.
pub unsafe fn init(boot_info: &'static mut BootInfo) -> Result<Boot, InitError> {
    // SAFETY: this is the only CPU, interrupts are masked, and no other code uses `GS`.
    unsafe { smp::set_number(BOOT_CPU) };
    // SAFETY: no other CPU runs until this one can be interrupted.
    unsafe { smp::start_cpu() };
    serial::init();
    memory::stacks::init(boot_info);
    if let Some(screen) = take_framebuffer(boot_info) {
        console::init(screen);
    }
    interrupts::init();
    // SAFETY: the caller guarantees that the bootloader has made the boot information.
    let files = unsafe { read_ramdisk(boot_info) };
    // The host reads the reason of a failure.
    serial::set_host(files.as_ref().map_or(true, |(_, config)| config.host));
    serial::print_record(Record::Ready);
    let (ramdisk, config) = files?;
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
    console::end_boot();
    let boot_info: &'static BootInfo = boot_info;
    let rsdp = boot_info
        .rsdp_addr
        .into_option()
        .and_then(|address| PhysAddr::try_new(address).ok());
    acpi::init(rsdp);
    cpus::start_all(&boot_info.memory_regions);
    Ok(Boot {
        ramdisk,
        config,
        framebuffer: console::framebuffer(),
        memory_map: &boot_info.memory_regions,
        rsdp,
        firmware: Firmware::of(&boot_info.memory_regions),
    })
}

/// Takes the framebuffer, if the bootloader has set one up.
fn take_framebuffer(boot_info: &mut BootInfo) -> Option<Framebuffer> {
    let framebuffer = mem::replace(&mut boot_info.framebuffer, Optional::None).into_option()?;
    let info = framebuffer.info();
    Framebuffer::new(framebuffer.into_buffer(), info)
}

/// Returns the RAM disk, and the configuration in it.
///
/// # Safety
/// The bootloader has made `boot_info`.
unsafe fn read_ramdisk(
    boot_info: &BootInfo,
) -> Result<(Ramdisk<'static>, Config<'static>), InitError> {
    // SAFETY: the caller guarantees that the bootloader has made the boot information.
    let bytes = unsafe { ramdisk_bytes(boot_info) }.ok_or(InitError::NoRamdisk)?;
    let ramdisk = Ramdisk::new(bytes).map_err(InitError::Ramdisk)?;
    let text = ramdisk.text(CONFIG).map_err(InitError::Ramdisk)?;
    let config = Config::parse(text).map_err(InitError::Config)?;
    Ok((ramdisk, config))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_names_the_firmware() {
        let region = |kind| MemoryRegion {
            start: 0,
            end: 4096,
            kind,
        };
        let usable = region(MemoryRegionKind::Usable);
        let bios = [usable, region(MemoryRegionKind::UnknownBios(2))];
        assert_eq!(Firmware::of(&bios), Firmware::Bios);
        let uefi = [usable, region(MemoryRegionKind::UnknownUefi(0))];
        assert_eq!(Firmware::of(&uefi), Firmware::Uefi);
    }
}
