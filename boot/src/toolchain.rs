//! Which compiler builds the kernel.
//!
//! The kernel's target needs `core` and `alloc` compiled from source, so it needs the compiler's
//! own library source, and LLVM's tools for the boot stages. In this order, the first that is
//! there:
//!
//! 1. what `KERNEL_TOOLCHAIN` names: a toolchain of rustup, or a folder with one in it;
//! 2. an installed nightly of rustup that has the components `rust-src` and `llvm-tools`;
//! 3. Debian's `rustc-web` and what goes with it, installed when `apt-get` has it;
//! 4. the nightly [`PINNED_NIGHTLY`], installed with rustup.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    debian::Debian,
    failure::Failure,
    packages::{AptGet, find_program},
    process,
    project::Project,
};

/// The nightly that is installed when nothing else can be had; the boot stages are known to compile
/// with it.
const PINNED_NIGHTLY: &str = "nightly-2026-05-20";

/// A compiler that can build for the kernel's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// One of rustup's, by its name.
    Rustup(String),
    /// The one in a folder with `bin` and `lib`.
    Folder {
        /// That folder.
        root: PathBuf,
        /// What to call it.
        name: String,
    },
}

impl Toolchain {
    /// Picks the toolchain, installs it when it must be, and says which it took.
    pub fn prepare(project: &Project) -> Result<Self, Failure> {
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

    /// Installs this toolchain's clippy if it must be.
    pub fn prepare_clippy(&self, project: &Project) -> Result<(), Failure> {
        let debian = Debian::new("/".into(), project.toolchain());
        match self {
            Self::Rustup(name) => {
                let rustup = find_program("rustup").unwrap_or_else(|| "rustup".into());
                call_rustup(
                    &rustup,
                    &["component", "add", "clippy", "--toolchain", name],
                )
            }
            Self::Folder { root, .. } if root.join("bin/cargo-clippy").exists() => Ok(()),
            Self::Folder { .. } => match AptGet::find() {
                Some(mut apt_get) => apt_get.install(&[Debian::CLIPPY_PACKAGE]),
                None => Err("there is no apt-get".to_owned()),
            }
            .and_then(|()| {
                debian
                    .assemble()
                    .map(drop)
                    .map_err(|failure| failure.to_string())
            }),
        }
        .map_err(|why| Failure::NoToolchain(format!("{self} has no clippy ({why})")))
    }

    /// This toolchain's cargo, for a build into the project's bare target folder.
    pub fn cargo(&self, project: &Project, subcommand: &str) -> Command {
        // Called by its own name: cargo might find the `cargo-clippy` of another toolchain before
        // ours.
        let mut command = Command::new(if subcommand == "clippy" {
            "cargo-clippy"
        } else {
            "cargo"
        });
        // Whoever ran us may have been cargo itself, with another toolchain's settings for its
        // children.
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
            // Unstable options, for a stable compiler too. Only here: every other build is plain
            // stable Rust.
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(project.root())
            .arg(subcommand)
            .arg("--target-dir")
            .arg(project.bare_target());
        command
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

/// Everything that the choice depends on, so that tests can choose in a world of their own.
struct Search {
    named: Option<String>,
    /// The folder of rustup's toolchains.
    rustup_toolchains: Option<PathBuf>,
    rustup: Option<PathBuf>,
    debian: Debian,
    apt_get: Option<AptGet>,
}

impl Search {
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
            return Ok(toolchain);
        }
        let mut tried = Vec::new();
        match &mut self.apt_get {
            Some(apt_get) => match apt_get.install(Debian::PACKAGES) {
                Ok(()) => match self.debian.assemble()? {
                    Some(toolchain) => return Ok(toolchain),
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
            "no toolchain for the kernel ({}); install `rustup toolchain install {PINNED_NIGHTLY} -c rust-src -c llvm-tools` or the Debian packages {}",
            tried.join("; "),
            Debian::PACKAGES.join(" ")
        )))
    }

    /// The toolchain that the user named.
    fn named(&self, name: &str) -> Result<Toolchain, Failure> {
        let folder = if name.contains('/') {
            // Cargo will run elsewhere.
            std::path::absolute(name).map_err(Failure::io("cannot resolve", Path::new(name)))?
        } else {
            // rustup takes `nightly` for `nightly-x86_64-unknown-linux-gnu`.
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

/// The folder of rustup's toolchains, if there is one.
fn rustup_toolchains() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")))?;
    Some(home.join("toolchains")).filter(|folder| folder.is_dir())
}

/// The name of the newest nightly in `toolchains` that can build the kernel, the pinned one before
/// all others.
fn newest_complete_nightly(toolchains: &Path) -> Option<String> {
    fs::read_dir(toolchains)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("nightly") && is_complete(&toolchains.join(name)))
        // Dates sort as text, and the letters of an undated nightly, the newest, sort after digits.
        .max_by_key(|name| (name.starts_with(PINNED_NIGHTLY), name.clone()))
}

/// Whether the toolchain in `folder` has all that the kernel and its boot stages need.
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

/// Installs the pinned nightly. The error says in a few words why that failed.
fn install_pinned(rustup: &Path) -> Result<(), String> {
    eprintln!("run-qemu.sh: installing {PINNED_NIGHTLY} with rustup");
    let components = ["--profile", "minimal", "-c", "rust-src", "-c", "llvm-tools"];
    call_rustup(
        rustup,
        &[&["toolchain", "install", PINNED_NIGHTLY], &components[..]].concat(),
    )
}

/// Runs `rustup`. The error says in a few words why that failed.
fn call_rustup(rustup: &Path, arguments: &[&str]) -> Result<(), String> {
    let (status, said) = process::run_quietly(Command::new(rustup).args(arguments))
        .map_err(|failure| failure.to_string())?;
    if status.success() {
        return Ok(());
    }
    let error = said.lines().find(|line| line.starts_with("error"));
    Err(error.map_or_else(|| status.to_string(), str::to_owned))
}

/// `PATH` with `folder` before all others.
fn path_with(folder: &Path) -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&path));
    // Only a folder with `:` in its name cannot be joined; then a compiler of that name is not
    // found, and said so.
    env::join_paths(folders).unwrap_or(path)
}

/// The triple of this machine, as folders of a toolchain are named after it.
pub fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

#[cfg(test)]
mod tests;
