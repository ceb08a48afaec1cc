//! The kernel's ELF files.

use std::path::PathBuf;

use crate::{cli::BuildOptions, failure::Failure, process, project::Project, toolchain::Toolchain};

/// A kernel that this program builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The demonstration, with its monitor.
    Demonstration,
    /// The in-kernel tests.
    Tests {
        /// Whether the heap detects misuse.
        hardened: bool,
    },
    /// A small kernel with padding.
    Padded(Padding),
}

/// The padding of a small kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Padding {
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
    /// Returns the environment variables of the build, with their values.
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

/// The options of cargo for the kernel's target. The target has no compiled standard library, so
/// `core` and `alloc` are built from source.
pub(crate) const TARGET_OPTIONS: &[&str] = &[
    "-Zjson-target-spec",
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];

impl Kernel {
    /// Returns the name of its package, which is also the name of its binary.
    fn name(self) -> &'static str {
        match self {
            Self::Demonstration => "kernel",
            Self::Tests { .. } => "kernel-tests",
            Self::Padded(_) => "kernel-sizes",
        }
    }

    /// Builds the kernel, and returns the path of its ELF file.
    pub(crate) fn build(
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
