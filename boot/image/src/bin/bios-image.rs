//! Makes a disk image that boots under BIOS: `bios-image KERNEL RAMDISK OUT`.

use std::process::ExitCode;

use disk_image::bootloader::BiosBoot;

fn main() -> ExitCode {
    disk_image::run(|request| {
        BiosBoot::new(request.kernel)
            .set_ramdisk(request.ramdisk)
            .set_boot_config(&request.config)
            .create_disk_image(request.out)
    })
}
