//! The kernel's ELF files.

use std::path::PathBuf;

use crate::{
    cli::BuildOptions,
    failure::Failure,
    process,
    project::Project,
    toolchain::{TARGET_OPTIONS, Toolchain},
};

/// A kernel that this program builds.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The kernel of a fork.
    Fork,
    /// The kernel of a fork, with its tests.
    ForkTests,
    /// An example of the package that is run.
    Example(String),
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
    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("KERNEL_CODE", self.code),
            ("KERNEL_CONSTANTS", self.constants),
            ("KERNEL_FUNCTIONS", self.functions),
            ("KERNEL_VARIABLES", self.variables),
        ]
        .map(|(name, value)| (name, value.to_string()))
    }
}

impl Kernel {
    /// Returns the kernel that is run: the example that is asked for, the fork's, or else the
    /// demonstration.
    pub(crate) fn to_run(project: &Project, example: Option<&str>) -> Self {
        match example {
            Some(name) => Self::Example(name.into()),
            None if project.is_fork() => Self::Fork,
            None => Self::Demonstration,
        }
    }

    /// Returns the kernel with the tests: the fork's, or else those of this repository.
    pub(crate) fn to_test(project: &Project, hardened: bool) -> Self {
        if project.is_fork() {
            Self::ForkTests
        } else {
            Self::Tests { hardened }
        }
    }

    /// Returns the arguments of cargo that choose package and program. A fork has one package.
    fn arguments(&self, project: &Project) -> Vec<&str> {
        match self {
            Self::Demonstration => vec!["--package", "kernel", "--bins"],
            Self::Tests { hardened: false } => vec!["--package", "kernel-tests", "--bins"],
            Self::Tests { hardened: true } => {
                vec![
                    "--package",
                    "kernel-tests",
                    "--bins",
                    "--features",
                    "hardened",
                ]
            }
            Self::Padded(_) => vec!["--package", "kernel-sizes", "--bins"],
            Self::Fork | Self::ForkTests => vec!["--bins"],
            Self::Example(name) if project.is_fork() => vec!["--example", name],
            Self::Example(name) => vec!["--package", "kernel", "--example", name],
        }
    }

    /// Builds the kernel, and returns the path of its ELF file.
    ///
    /// # Errors
    /// [`Failure::Build`] if cargo fails, [`Failure::Input`] if the package has no program, or
    /// several.
    pub(crate) fn build(
        self,
        project: &Project,
        toolchain: &Toolchain,
        options: &BuildOptions,
    ) -> Result<PathBuf, Failure> {
        self.build_with(project, toolchain, options, &[])
    }

    /// Builds the kernel as [`build`](Self::build) does, and shows errors and warnings only.
    pub(crate) fn build_quietly(
        self,
        project: &Project,
        toolchain: &Toolchain,
        options: &BuildOptions,
    ) -> Result<PathBuf, Failure> {
        self.build_with(project, toolchain, options, &["--quiet"])
    }

    fn build_with(
        self,
        project: &Project,
        toolchain: &Toolchain,
        options: &BuildOptions,
        arguments: &[&str],
    ) -> Result<PathBuf, Failure> {
        let mut cargo = match self {
            Self::ForkTests => {
                let mut cargo = toolchain.kernel_cargo(project, "test");
                cargo.arg("--no-run");
                cargo
            }
            _ => toolchain.kernel_cargo(project, "build"),
        };
        cargo
            .args(TARGET_OPTIONS)
            .arg("--target")
            .arg(project.target_spec())
            .arg("--message-format=json-render-diagnostics")
            .args(arguments)
            .args(self.arguments(project));
        if let Self::Padded(padding) = &self {
            cargo.envs(padding.environment());
        }
        if !options.debug {
            cargo.arg("--release");
        }
        let (status, messages) = process::run_for_output(&mut cargo)?;
        if !status.success() {
            return Err(Failure::Build {
                what: "the kernel".into(),
                status,
            });
        }
        let manifest = project.kernel_root().join("Cargo.toml");
        match &programs(&messages)[..] {
            [program] => Ok(program.clone()),
            [] => Err(Failure::Input(format!(
                "{} has no program: a kernel is one",
                manifest.display()
            ))),
            several => Err(Failure::Input(format!(
                "{} has {} programs: a kernel is one",
                manifest.display(),
                several.len()
            ))),
        }
    }
}

/// Returns the programs that cargo has built, by its messages.
fn programs(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            ["bin", "example"]
                .iter()
                .any(|kind| message["target"]["kind"][0] == *kind)
        })
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["custom-build"]},"executable":"/b"}
            {"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/a/my-kernel"}
            {"reason":"compiler-artifact","target":{"kind":["example"]},"executable":"/a/timer"}
            {"reason":"build-finished","success":true}
            no message"#;
        let expected = ["/a/my-kernel", "/a/timer"].map(PathBuf::from);
        assert_eq!(programs(messages), expected);
    }
}
