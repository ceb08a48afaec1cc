//! Makes bootable disk images: the part that the programs `bios-image` and `uefi-image` share.
//!
//! The crate `bootloader` compiles its boot stages with `-Zbuild-std`, so only the kernel's
//! toolchain can build these programs. Stable Rust builds `boot`, which runs them.

use std::{env, path::Path, process::ExitCode};

pub use bootloader;
use bootloader::BootConfig;
use bootloader_boot_config::LevelFilter;

/// The paths of the files, and the configuration of the bootloader.
pub struct Request<'a> {
    /// The kernel's ELF file.
    pub kernel: &'a Path,
    /// The RAM disk.
    pub ramdisk: &'a Path,
    /// The file for the image. It is incomplete until the program ends, so the caller gives it a
    /// temporary name.
    pub out: &'a Path,
    /// What the bootloader reads from the image.
    pub config: BootConfig,
}

/// Runs a program with the arguments `KERNEL RAMDISK OUT`: calls `make`, and prints its error.
pub fn run<E: std::fmt::Display>(make: fn(&Request<'_>) -> Result<(), E>) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kernel, ramdisk, out] = &arguments[..] else {
        eprintln!("usage: bios-image|uefi-image KERNEL RAMDISK OUT");
        return ExitCode::from(2);
    };
    // The kernel writes records to the serial port, so the bootloader writes errors only.
    let mut config = BootConfig::default();
    config.log_level = LevelFilter::Error;
    let made = make(&Request {
        kernel: Path::new(kernel),
        ramdisk: Path::new(ramdisk),
        out: Path::new(out),
        config,
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` prints the whole chain of causes.
            eprintln!("disk image: {error:#}");
            ExitCode::FAILURE
        }
    }
}
