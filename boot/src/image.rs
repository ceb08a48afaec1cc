//! Disk images: a kernel and its RAM disk, made bootable.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kernel_protocol::config::Config;
use tempfile::NamedTempFile;

use crate::{
    cli::{BuildOptions, Firmware, ImageOptions},
    elf,
    failure::Failure,
    files,
    host::{check_new_file, folder_of},
    kernel::Kernel,
    process,
    progress::{Build, Running},
    project::Project,
    ramdisk,
    toolchain::Toolchain,
    trace,
};

/// Runs `./run-qemu.sh image`: writes an image that runs the demonstration and then the monitor.
pub(crate) fn run(project: &Project, options: &ImageOptions) -> Result<(), Failure> {
    let folder = folder_of(&options.file);
    check_new_file(&options.file).map_err(|reason| {
        let file = options.file.display();
        Failure::Input(format!("cannot write an image to {file}: {reason}"))
    })?;
    let trace = trace::load_chosen(project, options.trace.as_deref())?;
    let files = files::load(&project.files())?;
    let toolchain = Toolchain::prepare(project)?;
    let kernel = Kernel::to_run(project, None);
    let (builder, kernel) = Builder::with_kernel(project, &toolchain, kernel, &options.build)?;
    // Which machine will run the image is unknown, so the configuration names no ticks.
    let config = Config {
        trace: trace::name_of(trace.as_ref()),
        monitor: true,
        ..Config::default()
    };
    let ramdisk = ramdisk::archive(&config, trace.as_slice(), &files)?;
    let image = builder.make(&kernel, &ramdisk, folder)?;
    image
        .persist(&options.file)
        .map_err(|error| Failure::io("cannot write", &options.file)(error.error))?;
    println!("{}", instructions(&options.file, options.build.firmware()));
    Ok(())
}

/// Returns what to do with the image in `file`.
fn instructions(file: &Path, firmware: Firmware) -> String {
    let file = file.display();
    let setting = match firmware {
        Firmware::Bios => "boot it in the BIOS or \"legacy\" mode of the firmware",
        Firmware::Uefi => "boot it in the UEFI mode of the firmware, with Secure Boot off",
    };
    format!(
        "{file}: boots under {}. To write it to a USB stick, which erases ALL data on the stick:\n\
         \n    sudo dd if='{file}' of=/dev/sdX bs=4M conv=fsync status=progress\n\n\
         Replace sdX with the name of the whole stick: `lsblk` lists all disks, and dd overwrites \
         any\nof them without a question. Then {setting}.",
        firmware.name()
    )
}

/// The profile of the programs that make disk images. Little of their time is spent in their code.
const PROFILE: &str = "boot";

/// The program that makes disk images. It is built.
///
/// It is in a package of its own, because only the kernel's toolchain compiles the bootloader. Each
/// firmware has a program, because the bootloader compiles the boot stages of each for minutes.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    project: &'a Project,
    firmware: Firmware,
}

impl<'a> Builder<'a> {
    /// Builds the program for `firmware`, unless it is up to date.
    pub(crate) fn prepare(
        project: &'a Project,
        toolchain: &Toolchain,
        firmware: Firmware,
    ) -> Result<Self, Failure> {
        let builder = Self { project, firmware };
        let running = builder.start(toolchain)?;
        builder.finish(running)
    }

    /// Builds the program, and `kernel`. Returns also the path of the kernel's ELF file.
    ///
    /// The first time, both are built at once: each compiles `core`, for which one CPU is enough.
    pub(crate) fn with_kernel(
        project: &'a Project,
        toolchain: &Toolchain,
        kernel: Kernel,
        options: &BuildOptions,
    ) -> Result<(Self, PathBuf), Failure> {
        let builder = Self {
            project,
            firmware: options.firmware(),
        };
        let is_first = !builder.program().exists();
        let running = builder.start(toolchain)?;
        if !is_first {
            let builder = builder.finish(running)?;
            let kernel = kernel.build(project, toolchain, options)?;
            return Ok((builder, kernel));
        }
        // Two bars would write over each other.
        let kernel = kernel.build_quietly(project, toolchain, options)?;
        Ok((builder.finish(running)?, kernel))
    }

    /// Starts to build the program.
    fn start(&self, toolchain: &Toolchain) -> Result<Running, Failure> {
        let mut cargo = toolchain.cargo(self.project, "build");
        let (feature, program) = self.names();
        cargo.args(["--profile", PROFILE, "--package", "disk-image"]);
        cargo.args(["--features", feature, "--bin", program]);
        Running::start(cargo, self.stage())
    }

    /// Waits until the program is built.
    fn finish(self, running: Running) -> Result<Self, Failure> {
        let status = running.finish()?;
        if !status.success() {
            return Err(Failure::Build {
                what: "the bootloader".into(),
                status,
            });
        }
        Ok(self)
    }

    /// Makes an image of `kernel` and `ramdisk`, as a temporary file in `folder`.
    ///
    /// # Errors
    /// [`Failure::Unbootable`] for a kernel that the bootloader cannot load.
    pub(crate) fn make(
        &self,
        kernel: &Path,
        ramdisk: &[u8],
        folder: &Path,
    ) -> Result<NamedTempFile, Failure> {
        elf::check(kernel)?;
        if self.firmware == Firmware::Bios {
            let size = fs::metadata(kernel)
                .map_err(Failure::io("cannot read", kernel))?
                .len();
            check_bios_size(size, ramdisk.len() as u64)?;
        }
        let temporary = |folder: &Path| {
            tempfile::Builder::new()
                .prefix(".image-")
                // The umask applies.
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(folder)
                .map_err(Failure::io("cannot write to", folder))
        };
        let ramdisk_file = temporary(self.project.target())?;
        fs::write(&ramdisk_file, ramdisk)
            .map_err(Failure::io("cannot write", ramdisk_file.path()))?;
        let image = temporary(folder)?;
        let mut maker = std::process::Command::new(self.program());
        maker.arg(kernel).arg(ramdisk_file.path()).arg(image.path());
        let status = process::run(&mut maker)?;
        if !status.success() {
            return Err(Failure::Build {
                what: "the disk image".into(),
                status,
            });
        }
        Ok(image)
    }

    /// Returns the feature of the package, and the name of its program.
    fn names(&self) -> (&'static str, &'static str) {
        match self.firmware {
            Firmware::Bios => ("bios", "bios-image"),
            Firmware::Uefi => ("uefi", "uefi-image"),
        }
    }

    /// Returns the build, for people.
    fn stage(&self) -> Build {
        match self.firmware {
            Firmware::Bios => Build {
                what: "the boot stages for BIOS",
                expected: "once, three minutes if idle",
                crates: 100,
            },
            Firmware::Uefi => Build {
                what: "the boot stage for UEFI",
                expected: "once, a minute if idle",
                crates: 83,
            },
        }
    }

    fn program(&self) -> PathBuf {
        let (_, program) = self.names();
        self.project.bare_target().join(PROFILE).join(program)
    }
}

/// The largest size of kernel and RAM disk under BIOS, in bytes. With the boot stages and its
/// padding, the volume then stays below 32 MiB. The boot stage of the crate `bootloader` 0.11.15
/// takes larger volumes for FAT32, which they are not, and never ends.
const BIOS_LIMIT: u64 = 29 << 20;

/// Checks whether the boot stage for BIOS can read a kernel and a RAM disk of these sizes.
fn check_bios_size(kernel: u64, ramdisk: u64) -> Result<(), Failure> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if kernel + ramdisk > BIOS_LIMIT {
        return Err(Failure::Input(format!(
            "the kernel ({} MiB) and its files ({} MiB) are too large for the boot stage for BIOS, \
             which reads {} MiB: try --uefi, or fewer files",
            mib(kernel),
            mib(ramdisk),
            mib(BIOS_LIMIT)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_boot_stage_for_bios_cannot_read_is_refused() {
        assert!(check_bios_size(3 << 20, 26 << 20).is_ok());
        let refused = check_bios_size(3 << 20, (26 << 20) + 1).unwrap_err();
        let line = refused.to_string();
        assert!(
            line.contains("(3 MiB)") && line.contains("(27 MiB)"),
            "{line}"
        );
        assert_eq!(refused.status(), 2);
    }

    #[test]
    fn the_command_for_a_stick_cannot_be_run_by_mistake() {
        for (firmware, setting) in [(Firmware::Bios, "legacy"), (Firmware::Uefi, "Secure Boot")] {
            let text = instructions(Path::new("heap.img"), firmware);
            assert!(
                text.contains("dd if='heap.img' of=/dev/sdX bs=4M"),
                "{text}"
            );
            assert!(
                text.contains("erases ALL data") && text.contains(setting),
                "{text}"
            );
        }
    }
}
