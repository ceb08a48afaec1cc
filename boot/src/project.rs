//! The folders of the project.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// The repository and its target folder; and the kernel that is built, if it is not this
/// repository's own.
#[derive(Debug)]
pub(crate) struct Project {
    root: PathBuf,
    target: PathBuf,
    fork: Option<Fork>,
}

/// A kernel in a folder of its own, which uses the kernel library of this repository.
#[derive(Debug)]
struct Fork {
    root: PathBuf,
    target: PathBuf,
}

/// The environment variable with the folder of a fork. Its `run-qemu.sh` sets it.
const FORK: &str = "KERNEL_FOLDER";

/// Returns whether this program was started for the kernel of a fork.
pub(crate) fn is_for_fork() -> bool {
    env::var_os(FORK).is_some()
}

impl Project {
    /// Finds the repository that this program was built from.
    ///
    /// # Errors
    /// If its target folder cannot be written.
    pub(crate) fn find() -> Result<Self, Failure> {
        // `cargo run` sets the variable. Without cargo, the package is where it was built.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = normal(package.parent().unwrap_or(Path::new("")))?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(&folder)
                .map_err(Failure::io("cannot resolve", Path::new(&folder)))?,
            None => root.join("target"),
        };
        fs::create_dir_all(&target)
            .map_err(Failure::io("cannot create the target folder", &target))?;
        tempfile::tempfile_in(&target)
            .map_err(Failure::io("cannot write to the target folder", &target))?;
        let target = normal(&target)?;
        let fork = match env::var_os(FORK) {
            None => None,
            Some(folder) => {
                let root = normal(Path::new(&folder))?;
                let target = match env::var_os("CARGO_TARGET_DIR") {
                    Some(_) => target.clone(),
                    None => root.join("target"),
                };
                Some(Fork { root, target })
            }
        };
        Ok(Self { root, target, fork })
    }

    /// Returns a repository in `root`.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            target: root.join("target"),
            fork: None,
        }
    }

    /// Returns whether the kernel is a fork, and not this repository's own.
    pub(crate) fn is_fork(&self) -> bool {
        self.fork.is_some()
    }

    /// Returns the folder with the manifest of the kernel's package or workspace.
    pub(crate) fn kernel_root(&self) -> &Path {
        self.fork.as_ref().map_or(&self.root, |fork| &fork.root)
    }

    /// Returns the target folder for the kernel.
    pub(crate) fn kernel_target(&self) -> PathBuf {
        let fork = self.fork.as_ref();
        let target = fork.map_or(&self.target, |fork| &fork.target);
        self.target_of_workspace(self.kernel_root(), target)
    }

    /// Returns the folder in `target` for a package or workspace in `root`, for the kernel's
    /// target.
    ///
    /// The source of `core` lies in the target folder. Cargo notes its path from the root of a
    /// workspace that contains it, and its absolute path otherwise. If both shared a folder,
    /// each would compile `core` again after the other.
    pub(crate) fn target_of_workspace(&self, root: &Path, target: &Path) -> PathBuf {
        target.join(if self.toolchain().starts_with(root) {
            "bare"
        } else {
            "bare-outside"
        })
    }

    /// Returns the folder with the workspace's manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the target folder of plain cargo. Temporary files go there too.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Returns the target folder of the kernel's toolchain. Cargo caches facts about the compiler
    /// in the target folder, so two compilers do not share one.
    pub(crate) fn bare_target(&self) -> PathBuf {
        self.target.join("bare")
    }

    /// Returns the folder for the toolchain of links to Debian's compiler.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.target.join("toolchain")
    }

    /// Returns the file that describes the kernel's target.
    pub(crate) fn target_spec(&self) -> PathBuf {
        self.root.join("x86_64-talc.json")
    }

    /// Returns the folder of the template for kernels.
    pub(crate) fn template(&self) -> PathBuf {
        self.root.join("kernel/template")
    }

    /// Returns the folder whose files go on the RAM disk. It need not exist.
    pub(crate) fn files(&self) -> PathBuf {
        match &self.fork {
            Some(fork) => fork.root.join("files"),
            None => self.root.join("kernel/files"),
        }
    }

    /// Returns the folder of the recorded traces. It need not exist.
    pub(crate) fn traces(&self) -> PathBuf {
        self.root.join("tests/traces")
    }
}

/// Returns the path of `folder` without `..` and symbolic links. Below a target folder with `..`,
/// cargo takes the library's source for a member of the wrong workspace.
fn normal(folder: &Path) -> Result<PathBuf, Failure> {
    fs::canonicalize(folder).map_err(Failure::io("cannot resolve", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_in_the_repository_and_outside_have_different_target_folders() {
        let mut project = Project::at(Path::new("/repository"));
        assert_eq!(project.kernel_target(), project.bare_target());
        let fork = Fork {
            root: "/fork".into(),
            target: project.target.clone(),
        };
        project.fork = Some(fork);
        assert_eq!(
            project.kernel_target(),
            Path::new("/repository/target/bare-outside")
        );
    }

    #[test]
    fn the_path_of_the_target_folder_has_no_dots() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();
        let same = target.join("..").join("target");
        assert_eq!(normal(&same).unwrap(), normal(&target).unwrap());
        assert!(!normal(&same).unwrap().to_string_lossy().contains(".."));
    }
}
