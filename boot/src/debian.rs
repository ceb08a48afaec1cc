//! Debian's compiler, laid out like a toolchain of rustup.
//!
//! The build script of `bootloader` expects the compiler and LLVM's tools in one folder, but Debian
//! spreads them over `/usr`. This module makes such a folder out of links:
//!
//! ```text
//! bin/cargo, bin/cargo-clippy                -> /usr/bin/cargo, …
//! bin/rustc, bin/rustdoc                     scripts: /usr/bin/rustc --sysroot FOLDER …
//! lib/rustlib/HOST/lib                       -> /usr/lib/rustlib/HOST/lib
//! lib/rustlib/HOST/bin/llvm-objcopy, …       -> /usr/bin/llvm-objcopy, …
//! lib/rustlib/HOST/bin/rust-lld              -> /usr/bin/lld
//! lib/rustlib/src                            -> /usr/lib/rustlib/src
//! ```

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{failure::Failure, host::host_triple, process};

/// The version of the oldest compiler that builds the kernel and the bootloader.
const OLDEST: (u32, u32) = (1, 96);

/// The programs of LLVM's package that build the bootloader.
const LLVM_TOOLS: &[&str] = &["llvm-objcopy", "llvm-objdump"];

/// The compiler of Debian's packages.
#[derive(Debug)]
pub(crate) struct Debian {
    /// The root of the file system: `/`, except in tests.
    root: PathBuf,
    /// The folder for the assembled toolchain.
    folder: PathBuf,
}

/// An assembled toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assembled {
    /// The folder with `bin` and `lib`.
    pub folder: PathBuf,
    /// The version of its compiler.
    pub version: String,
}

impl Debian {
    /// The packages of the compiler and its tools.
    pub(crate) const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld", "llvm"];

    /// The package of clippy. Only `./run-qemu.sh lint` needs it.
    pub(crate) const CLIPPY_PACKAGE: &str = "rust-web-clippy";

    /// Returns the compiler that is installed below `root`. Its toolchain is assembled in `folder`.
    pub(crate) fn new(root: PathBuf, folder: PathBuf) -> Self {
        Self { root, folder }
    }

    /// Assembles the toolchain. `None` if a program is missing, or the compiler is too old.
    ///
    /// A second call writes nothing: links that are right stay as they are.
    ///
    /// # Errors
    /// If a link or a script cannot be written, or the compiler cannot be run.
    pub(crate) fn assemble(&self) -> Result<Option<Assembled>, Failure> {
        let bin = self.root.join("usr/bin");
        let rustlib = self.root.join("usr/lib/rustlib");
        let host = host_triple();
        let needed = ["cargo", "rustc", "rustdoc", "lld"]
            .iter()
            .chain(LLVM_TOOLS)
            .map(|program| bin.join(program));
        let source = rustlib.join("src/rust/library/core/Cargo.toml");
        if !needed.chain([source]).all(|file| file.is_file()) {
            return Ok(None);
        }
        let Some(version) =
            version_of(&bin.join("rustc"))?.filter(|version| is_new_enough(version))
        else {
            return Ok(None);
        };

        let assembled = self.folder.join("lib/rustlib");
        let tools = assembled.join(&host).join("bin");
        let write = || {
            fs::create_dir_all(self.folder.join("bin"))?;
            fs::create_dir_all(&tools)?;
            for program in ["cargo", "cargo-clippy"]
                .iter()
                .filter(|program| bin.join(program).is_file())
            {
                link(&bin.join(program), &self.folder.join("bin").join(program))?;
            }
            for driver in ["rustc", "rustdoc"] {
                write_driver(&bin.join(driver), &self.folder)?;
            }
            link(&bin.join("lld"), &tools.join("rust-lld"))?;
            for tool in LLVM_TOOLS {
                link(&bin.join(tool), &tools.join(tool))?;
            }
            link(
                &rustlib.join(&host).join("lib"),
                &assembled.join(&host).join("lib"),
            )?;
            link(&rustlib.join("src"), &assembled.join("src"))
        };
        write().map_err(Failure::io("cannot assemble a toolchain in", &self.folder))?;
        Ok(Some(Assembled {
            folder: self.folder.clone(),
            version,
        }))
    }
}

/// Returns the version of `rustc`, such as `1.96.0`. `None` if its output has no version.
fn version_of(rustc: &Path) -> Result<Option<String>, Failure> {
    let (_, output) = process::run_quietly(Command::new(rustc).arg("--version"))?;
    // `rustc 1.96.0 (…)`
    Ok(output.split_whitespace().nth(1).map(str::to_owned))
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// Writes a script into the `bin` of `folder`. It runs `program`, a driver of the compiler, with
/// `folder` as the sysroot.
fn write_driver(program: &Path, folder: &Path) -> io::Result<()> {
    let script = format!(
        "#!/bin/sh\nexec '{}' \"$@\" --sysroot '{}'\n",
        program.display(),
        folder.display()
    );
    let bin = folder.join("bin");
    let file = bin.join(program.file_name().unwrap_or_default());
    if fs::read_to_string(&file).is_ok_and(|old| old == script) {
        return Ok(());
    }
    // The rename is atomic, so another process never runs an incomplete script.
    let new = tempfile::NamedTempFile::new_in(&bin)?;
    fs::write(&new, script)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    new.persist(file)?;
    Ok(())
}

/// Makes `link` a symbolic link to `target`, unless it is one.
fn link(target: &Path, link: &Path) -> io::Result<()> {
    match fs::read_link(link) {
        Ok(old) if old == target => return Ok(()),
        Ok(_) => fs::remove_file(link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(target, link)
}
