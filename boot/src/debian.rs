//! Debian's compiler, made to look like one of rustup's toolchains.
//!
//! Debian spreads over `/usr` what the build script of `bootloader` looks for in one folder. So we
//! assemble that folder, of links:
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

use crate::{
    failure::Failure,
    process,
    toolchain::{Toolchain, host_triple},
};

/// The oldest compiler that builds the kernel and its boot stages.
const OLDEST: (u32, u32) = (1, 96);

/// What LLVM's package brings that the boot stages are made with.
const LLVM_TOOLS: &[&str] = &["llvm-objcopy", "llvm-objdump"];

/// The compiler that Debian's packages bring.
#[derive(Debug)]
pub struct Debian {
    /// `/`, except in tests.
    root: PathBuf,
    /// Where the toolchain is assembled.
    folder: PathBuf,
}

impl Debian {
    /// Its packages.
    pub const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld", "llvm"];

    /// Its package of clippy, which only `boot lint` needs.
    pub const CLIPPY_PACKAGE: &str = "rust-web-clippy";

    /// The compiler installed below `root`, to be assembled in `folder`.
    pub fn new(root: PathBuf, folder: PathBuf) -> Self {
        Self { root, folder }
    }

    /// The assembled toolchain; `None` when something that it needs is missing or too old.
    ///
    /// What is in place stays as it is: a second call writes nothing.
    pub fn assemble(&self) -> Result<Option<Toolchain>, Failure> {
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
        Ok(Some(Toolchain::Folder {
            root: self.folder.clone(),
            name: format!("Debian's rustc {version}"),
        }))
    }
}

/// The version that `rustc` says it is, `1.96.0`; `None` when it does not say.
fn version_of(rustc: &Path) -> Result<Option<String>, Failure> {
    let (_, said) = process::run_quietly(Command::new(rustc).arg("--version"))?;
    // `rustc 1.96.0 (…)`
    Ok(said.split_whitespace().nth(1).map(str::to_owned))
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST)
}

/// A script in the `bin` of `folder` that runs `program`, one of the compiler's drivers, with
/// `folder` as its sysroot.
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
    // Renamed into place, so that nobody ever runs half a script.
    let new = tempfile::NamedTempFile::new_in(&bin)?;
    fs::write(&new, script)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    new.persist(file)?;
    Ok(())
}

/// Makes `link` point to `target`.
fn link(target: &Path, link: &Path) -> io::Result<()> {
    match fs::read_link(link) {
        Ok(old) if old == target => return Ok(()),
        Ok(_) => fs::remove_file(link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(target, link)
}
