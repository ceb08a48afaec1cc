//! Disk images: a kernel and its RAM disk, made bootable.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use kernel_protocol::config::Config;
use tempfile::NamedTempFile;

use crate::{
    cli::{BuildOptions, Firmware, ImageOptions},
    elf,
    failure::Failure,
    files,
    host::folder_of,
    kernel::Kernel,
    process,
    project::Project,
    ramdisk,
    toolchain::Toolchain,
    trace,
};

/// The package whose program makes disk images.
const MAKER: &str = "disk-image";

/// Runs `./run-qemu.sh image`: writes an image that runs the demonstration and then the monitor.
pub(crate) fn run(project: &Project, options: &ImageOptions) -> Result<(), Failure> {
    let folder = folder_of(&options.file);
    let reason = if options.file.is_dir() {
        Some("it is a folder".to_owned())
    } else if !folder.is_dir() {
        Some(format!("there is no folder {}", folder.display()))
    } else {
        None
    };
    if let Some(reason) = reason {
        let file = options.file.display();
        return Err(Failure::Input(format!(
            "cannot write an image to {file}: {reason}"
        )));
    }
    let trace = trace::load_chosen(project, options.trace.as_deref())?;
    let files = files::load(&project.files())?;
    let toolchain = Toolchain::prepare(project)?;
    let builder = Builder::prepare(project, &toolchain)?;
    let kernel = Kernel::Demonstration.build(project, &toolchain, &options.build)?;
    // Which machine will run the image is unknown, so the configuration names no ticks.
    let config = Config {
        trace: trace::name_of(trace.as_ref()),
        monitor: true,
        ..Config::default()
    };
    let ramdisk = ramdisk::archive(&config, trace.as_slice(), &files)?;
    let image = builder.make(&kernel, &ramdisk, &options.build, folder)?;
    image
        .persist(&options.file)
        .map_err(|error| Failure::io("cannot write", &options.file)(error.error))?;
    println!(
        "{}: boots under {}",
        options.file.display(),
        options.build.firmware().name()
    );
    Ok(())
}

/// The program that makes disk images. It is built.
///
/// It is a package of its own, because only the kernel's toolchain compiles the bootloader.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    project: &'a Project,
}

impl<'a> Builder<'a> {
    /// Builds the program, unless it is up to date.
    pub(crate) fn prepare(project: &'a Project, toolchain: &Toolchain) -> Result<Self, Failure> {
        let builder = Self { project };
        if !builder.program().exists() {
            eprintln!("run-qemu.sh: building the bootloader (once, some minutes)");
        }
        let mut cargo = toolchain.cargo(project, "build");
        cargo.args(["--release", "--package", MAKER]);
        let status = process::run(&mut cargo)?;
        if !status.success() {
            return Err(Failure::Build {
                what: "the bootloader".into(),
                status,
            });
        }
        Ok(builder)
    }

    /// Makes an image of `kernel` and `ramdisk`, as a temporary file in `folder`.
    ///
    /// # Errors
    /// [`Failure::Unbootable`] for a kernel that the bootloader cannot load.
    pub(crate) fn make(
        &self,
        kernel: &Path,
        ramdisk: &[u8],
        options: &BuildOptions,
        folder: &Path,
    ) -> Result<NamedTempFile, Failure> {
        elf::check(kernel)?;
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
        maker
            .arg(kernel)
            .arg(ramdisk_file.path())
            .arg(image.path())
            .arg(match options.firmware() {
                Firmware::Bios => "--bios",
                Firmware::Uefi => "--uefi",
            });
        let status = process::run(&mut maker)?;
        if !status.success() {
            return Err(Failure::Build {
                what: "the disk image".into(),
                status,
            });
        }
        Ok(image)
    }

    fn program(&self) -> std::path::PathBuf {
        self.project.bare_target().join("release").join(MAKER)
    }
}
