//! The toolchain that builds the kernel.
//!
//! The kernel's target has no compiled `core` and `alloc`, so the toolchain needs their source. The
//! bootloader needs LLVM's tools. The first of these toolchains is taken:
//!
//! 1. the one that `KERNEL_TOOLCHAIN` names: a toolchain of rustup, or a folder with a toolchain;
//! 2. an installed nightly of rustup with the components `rust-src` and `llvm-tools`;
//! 3. Debian's `rustc-web` with its [packages](Debian::PACKAGES), installed if `apt-get` has them;
//! 4. the nightly [`PINNED_NIGHTLY`], installed with rustup.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    debian::{Assembled, Debian},
    failure::Failure,
    host::{find_program, host_triple},
    packages::AptGet,
    process,
    project::Project,
};

/// The nightly that is installed as the last resort. The bootloader compiles with it.
const PINNED_NIGHTLY: &str = "nightly-2026-05-20";

/// The options of cargo for the kernel's target. The target has no compiled standard library, so
/// `core` and `alloc` are built from source.
pub(crate) const TARGET_OPTIONS: &[&str] = &[
    "-Zjson-target-spec",
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];

/// A toolchain that builds for the kernel's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// A toolchain of rustup, by its name.
    Rustup(String),
    /// A toolchain in a folder with `bin` and `lib`.
    Folder {
        /// The folder.
        root: PathBuf,
        /// The name for messages.
        name: String,
    },
}

impl Toolchain {
    /// Picks a toolchain, installs it if necessary, and prints its name.
    ///
    /// # Errors
    /// [`Failure::NoToolchain`] if none can be found or installed.
    pub(crate) fn prepare(project: &Project) -> Result<Self, Failure> {
        let mut search = Search {
            named: env::var("KERNEL_TOOLCHAIN")
                .ok()
                .filter(|name| !name.is_empty()),
            rustup_toolchains: rustup_toolchains(),
            rustup: find_program("rustup"),
            debian: Debian::new("/".into(), project.toolchain()),
            apt_get: AptGet::find(),
        };
        let toolchain = search.pick()?;
        eprintln!("run-qemu.sh: the kernel is built with {toolchain}");
        Ok(toolchain)
    }

    /// Installs clippy for this toolchain, unless it has clippy.
    ///
    /// # Errors
    /// [`Failure::NoToolchain`] if clippy cannot be installed.
    pub(crate) fn prepare_clippy(&self, project: &Project) -> Result<(), Failure> {
        let installed = match self {
            Self::Rustup(name) => {
                let rustup = find_program("rustup").unwrap_or_else(|| "rustup".into());
                call_rustup(
                    &rustup,
                    &["component", "add", "clippy", "--toolchain", name],
                )
            }
            Self::Folder { root, .. } if root.join("bin/cargo-clippy").exists() => Ok(()),
            Self::Folder { .. } => install_debians_clippy(project),
        };
        installed.map_err(|why| Failure::NoToolchain(format!("{self} has no clippy ({why})")))
    }

    /// Returns a command of this toolchain's cargo for the repository. It builds into the bare
    /// target folder.
    pub(crate) fn cargo(&self, project: &Project, subcommand: &str) -> Command {
        let mut command = self.cargo_of(subcommand);
        command
            .current_dir(project.root())
            .arg("--target-dir")
            .arg(project.bare_target());
        command
    }

    /// Returns a command of this toolchain's cargo for the package or workspace of the kernel.
    pub(crate) fn kernel_cargo(&self, project: &Project, subcommand: &str) -> Command {
        let mut command = self.cargo_of(subcommand);
        command
            .current_dir(project.kernel_root())
            .arg("--target-dir")
            .arg(project.kernel_target());
        command
    }

    /// Returns a command of this toolchain's cargo for a package that is a workspace of its own, in
    /// a folder of the repository, and the target folder.
    pub(crate) fn package_cargo(
        &self,
        project: &Project,
        folder: &str,
        subcommand: &str,
    ) -> (Command, PathBuf) {
        let root = project.root().join(folder);
        let target = project.target_of_workspace(&root, project.target());
        let mut command = self.cargo_of(subcommand);
        command
            .current_dir(root)
            .arg("--target-dir")
            .arg(&target)
            .args(TARGET_OPTIONS)
            .arg("--target")
            .arg(project.target_spec())
            .arg("--locked");
        (command, target)
    }

    /// Returns a command of this toolchain's cargo.
    fn cargo_of(&self, subcommand: &str) -> Command {
        // `cargo clippy` could find the `cargo-clippy` of another toolchain first, so the program
        // is called by its own name.
        let mut command = Command::new(if subcommand == "clippy" {
            "cargo-clippy"
        } else {
            "cargo"
        });
        // Cargo may have started this program, with variables that name another toolchain.
        for name in [
            "CARGO",
            "RUSTC",
            "RUSTDOC",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "LD_LIBRARY_PATH",
        ] {
            command.env_remove(name);
        }
        match self {
            Self::Rustup(name) => command.env("RUSTUP_TOOLCHAIN", name),
            Self::Folder { root, .. } => command
                .env("PATH", path_with(&root.join("bin")))
                .env_remove("RUSTUP_TOOLCHAIN"),
        };
        command
            // Allows unstable options in a stable compiler. All other builds are stable Rust.
            .env("RUSTC_BOOTSTRAP", "1")
            .arg(subcommand);
        command
    }
}

impl From<Assembled> for Toolchain {
    fn from(assembled: Assembled) -> Self {
        Self::Folder {
            root: assembled.folder,
            name: format!("Debian's rustc {}", assembled.version),
        }
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's toolchain {name}"),
            Self::Folder { name, .. } => f.write_str(name),
        }
    }
}

/// The inputs of the choice. Tests give their own.
struct Search {
    /// The value of `KERNEL_TOOLCHAIN`.
    named: Option<String>,
    /// The folder of rustup's toolchains.
    rustup_toolchains: Option<PathBuf>,
    /// The program `rustup`.
    rustup: Option<PathBuf>,
    debian: Debian,
    apt_get: Option<AptGet>,
}

impl Search {
    /// Returns the first toolchain in the order of the module's documentation.
    fn pick(&mut self) -> Result<Toolchain, Failure> {
        if let Some(name) = &self.named {
            return self.named(name);
        }
        if let Some(name) = self
            .rustup_toolchains
            .as_deref()
            .and_then(newest_complete_nightly)
        {
            return Ok(Toolchain::Rustup(name));
        }
        if let Some(toolchain) = self.debian.assemble()? {
            return Ok(toolchain.into());
        }
        let mut tried = Vec::new();
        match &mut self.apt_get {
            Some(apt_get) => match apt_get.install(Debian::PACKAGES) {
                Ok(()) => match self.debian.assemble()? {
                    Some(toolchain) => return Ok(toolchain.into()),
                    None => tried.push("Debian's packages are too old or incomplete".to_owned()),
                },
                Err(why) => tried.push(format!("apt-get: {why}")),
            },
            None => tried.push("there is no apt-get".to_owned()),
        }
        match &self.rustup {
            Some(rustup) => match install_pinned(rustup) {
                Ok(()) => return Ok(Toolchain::Rustup(PINNED_NIGHTLY.into())),
                Err(why) => tried.push(format!("rustup: {why}")),
            },
            None => tried.push("there is no rustup".to_owned()),
        }
        Err(Failure::NoToolchain(format!(
            "no toolchain for the kernel ({}); run `rustup toolchain install {PINNED_NIGHTLY} \
             -c rust-src -c llvm-tools` or install the Debian packages {}",
            tried.join("; "),
            Debian::PACKAGES.join(" ")
        )))
    }

    /// Returns the toolchain that the user named.
    fn named(&self, name: &str) -> Result<Toolchain, Failure> {
        let folder = if name.contains('/') {
            // Cargo runs in another folder.
            std::path::absolute(name).map_err(Failure::io("cannot resolve", Path::new(name)))?
        } else {
            // rustup accepts `nightly` as short for `nightly-x86_64-unknown-linux-gnu`.
            self.rustup_toolchains
                .iter()
                .flat_map(|toolchains| {
                    [
                        toolchains.join(name),
                        toolchains.join(format!("{name}-{}", host_triple())),
                    ]
                })
                .find(|folder| folder.is_dir())
                .ok_or_else(|| {
                    Failure::NoToolchain(format!(
                        "KERNEL_TOOLCHAIN={name}: rustup has no such toolchain"
                    ))
                })?
        };
        if !is_complete(&folder) {
            return Err(Failure::NoToolchain(format!(
                "KERNEL_TOOLCHAIN={name}: {} lacks cargo, rust-src or llvm-tools",
                folder.display()
            )));
        }
        Ok(if name.contains('/') {
            Toolchain::Folder {
                root: folder,
                name: format!("the toolchain in {name}"),
            }
        } else {
            Toolchain::Rustup(name.into())
        })
    }
}

/// Returns the folder of rustup's toolchains. `None` without rustup.
fn rustup_toolchains() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")))?;
    Some(home.join("toolchains")).filter(|folder| folder.is_dir())
}

/// Returns the name of the newest nightly in `toolchains` that is complete. The pinned nightly
/// comes before all others.
fn newest_complete_nightly(toolchains: &Path) -> Option<String> {
    fs::read_dir(toolchains)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("nightly") && is_complete(&toolchains.join(name)))
        // Dates sort as text. An undated nightly is the newest: its letters sort after digits.
        .max_by_key(|name| (name.starts_with(PINNED_NIGHTLY), name.clone()))
}

/// Returns whether the toolchain in `folder` has all parts that the kernel and the bootloader
/// need.
fn is_complete(folder: &Path) -> bool {
    let tools = folder.join("lib/rustlib").join(host_triple()).join("bin");
    folder.join("bin/cargo").is_file()
        && folder.join("bin/rustc").is_file()
        && folder
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
        && ["llvm-objcopy", "llvm-objdump", "rust-lld"]
            .iter()
            .all(|tool| tools.join(tool).is_file())
}

/// Installs the pinned nightly. The error is a line of rustup.
fn install_pinned(rustup: &Path) -> Result<(), String> {
    eprintln!("run-qemu.sh: installing {PINNED_NIGHTLY} with rustup");
    let components = ["--profile", "minimal", "-c", "rust-src", "-c", "llvm-tools"];
    call_rustup(
        rustup,
        &[&["toolchain", "install", PINNED_NIGHTLY], &components[..]].concat(),
    )
}

/// Installs Debian's clippy, and links it into the assembled toolchain.
fn install_debians_clippy(project: &Project) -> Result<(), String> {
    let mut apt_get = AptGet::find().ok_or("there is no apt-get")?;
    apt_get.install(&[Debian::CLIPPY_PACKAGE])?;
    Debian::new("/".into(), project.toolchain())
        .assemble()
        .map(drop)
        .map_err(|failure| failure.to_string())
}

/// Runs `rustup`. The error is rustup's first line that begins with `error`.
fn call_rustup(rustup: &Path, arguments: &[&str]) -> Result<(), String> {
    let (status, output) = process::run_quietly(Command::new(rustup).args(arguments))
        .map_err(|failure| failure.to_string())?;
    if status.success() {
        return Ok(());
    }
    let error = output.lines().find(|line| line.starts_with("error"));
    Err(error.map_or_else(|| status.to_string(), str::to_owned))
}

/// Returns `PATH` with `folder` before all others.
fn path_with(folder: &Path) -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&path));
    // Joining fails only if a folder has `:` in its name. Cargo is then missing, and the error says
    // so.
    env::join_paths(folders).unwrap_or(path)
}

#[cfg(test)]
mod tests;
