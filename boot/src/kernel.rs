//! The kernel's ELF files.

use std::path::PathBuf;

use crate::{cli::BuildOptions, failure::Failure, process, project::Project, toolchain::Toolchain};

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The demonstration, with its monitor.
    Demonstration,
    /// The in-kernel tests.
    Tests {
        /// On the heap that detects misuse.
        hardened: bool,
    },
    /// A small kernel whose parts are padded.
    Padded(Padding),
}

/// What a small kernel is padded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Bytes of code.
    pub code: usize,
    /// Bytes of constants.
    pub constants: usize,
    /// Entries of a table of functions, 8 bytes each.
    pub functions: usize,
    /// Bytes of variables with values.
    pub variables: usize,
}

impl Padding {
    /// The variables of the build's environment, with their values.
    fn environment(self) -> [(&'static str, String); 4] {
        [
            ("KERNEL_CODE", self.code),
            ("KERNEL_CONSTANTS", self.constants),
            ("KERNEL_FUNCTIONS", self.functions),
            ("KERNEL_VARIABLES", self.variables),
        ]
        .map(|(name, value)| (name, value.to_string()))
    }
}

/// How cargo is told to build for the kernel's target. The target has no standard library, so its
/// parts are built from source.
pub const TARGET_OPTIONS: &[&str] = &[
    "-Zjson-target-spec",
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];

impl Kernel {
    /// Its package, and its binary.
    fn name(self) -> &'static str {
        match self {
            Self::Demonstration => "kernel",
            Self::Tests { .. } => "kernel-tests",
            Self::Padded(_) => "kernel-sizes",
        }
    }

    /// Builds it and returns where it is.
    pub fn build(
        self,
        project: &Project,
        toolchain: &Toolchain,
        options: &BuildOptions,
    ) -> Result<PathBuf, Failure> {
        let mut cargo = toolchain.cargo(project, "build");
        cargo
            .args(TARGET_OPTIONS)
            .arg("--target")
            .arg(project.target_spec());
        cargo.args(["--package", self.name(), "--bin", self.name()]);
        if self == (Self::Tests { hardened: true }) {
            cargo.args(["--features", "hardened"]);
        }
        if let Self::Padded(padding) = self {
            cargo.envs(padding.environment());
        }
        if !options.debug {
            cargo.arg("--release");
        }
        let status = process::run(&mut cargo)?;
        if !status.success() {
            return Err(Failure::Build {
                what: self.name().into(),
                status,
            });
        }
        let profile = if options.debug { "debug" } else { "release" };
        Ok(project
            .bare_target()
            .join("x86_64-talc")
            .join(profile)
            .join(self.name()))
    }
}
