//! Makes a bootable disk image: `disk-image KERNEL RAMDISK OUT --bios|--uefi`.
//!
//! The crate `bootloader` compiles its boot stages with `-Zbuild-std`, so only the kernel's
//! toolchain can build this program. Stable Rust builds `boot`, which runs it.

use std::{env, path::Path, process::ExitCode};

use bootloader::{BiosBoot, BootConfig, UefiBoot};
use bootloader_boot_config::LevelFilter;

const USAGE: &str = "usage: disk-image KERNEL RAMDISK OUT --bios|--uefi";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kernel, ramdisk, out, firmware] = &arguments[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match make(
        firmware,
        Path::new(kernel),
        Path::new(ramdisk),
        Path::new(out),
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk-image: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the image for `firmware` to `out`. The file is incomplete until this function returns, so
/// the caller gives it a temporary name.
fn make(firmware: &str, kernel: &Path, ramdisk: &Path, out: &Path) -> Result<(), String> {
    // The kernel writes records to the serial port, so the bootloader writes errors only.
    let mut config = BootConfig::default();
    config.log_level = LevelFilter::Error;
    let made = match firmware {
        "--bios" => BiosBoot::new(kernel)
            .set_ramdisk(ramdisk)
            .set_boot_config(&config)
            .create_disk_image(out),
        "--uefi" => UefiBoot::new(kernel)
            .set_ramdisk(ramdisk)
            .set_boot_config(&config)
            .create_disk_image(out),
        other => return Err(format!("unknown firmware `{other}`; {USAGE}")),
    };
    // `{:#}` prints the whole chain of causes.
    made.map_err(|error| format!("{error:#}"))
}
