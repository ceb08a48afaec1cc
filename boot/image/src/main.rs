//! Makes a bootable disk image: `disk-image KERNEL RAMDISK OUT --bios|--uefi`.
//!
//! A program of its own, because `bootloader` compiles its boot stages with `-Zbuild-std`: only the
//! toolchain that builds the kernel can build it, and `boot` (which plain stable Rust builds) runs
//! it.

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

/// Writes the image for `firmware` to `out`. The caller gives a temporary name: what is written is
/// not whole until this returns.
fn make(firmware: &str, kernel: &Path, ramdisk: &Path, out: &Path) -> Result<(), String> {
    // The serial line belongs to the kernel: the boot stages speak only when they cannot go on.
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
