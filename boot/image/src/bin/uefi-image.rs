//! Makes a disk image that boots under UEFI: `uefi-image KERNEL RAMDISK OUT`.

use std::process::ExitCode;

use disk_image::bootloader::UefiBoot;

fn main() -> ExitCode {
    disk_image::run(|request| {
        UefiBoot::new(request.kernel)
            .set_ramdisk(request.ramdisk)
            .set_boot_config(&request.config)
            .create_disk_image(request.out)
    })
}
