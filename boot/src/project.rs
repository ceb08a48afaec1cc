//! Where things are: the repository, its target folder, and what is in them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// The repository and its target folder.
#[derive(Debug)]
pub struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// Finds the repository that this program was built from, and makes sure that its target folder
    /// can be written.
    pub fn find() -> Result<Self, Failure> {
        // Cargo tells a program it runs where its package is; started by hand, it is where it was
        // built.
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = package.parent().map(Path::to_path_buf).unwrap_or_default();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(&folder)
                .map_err(Failure::io("cannot resolve", Path::new(&folder)))?,
            None => root.join("target"),
        };
        fs::create_dir_all(&target)
            .map_err(Failure::io("cannot create the target folder", &target))?;
        tempfile::tempfile_in(&target)
            .map_err(Failure::io("cannot write to the target folder", &target))?;
        Ok(Self { root, target })
    }

    /// The folder with the workspace's manifest.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The target folder of plain cargo; also where our own temporary files go.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The target folder of everything that the kernel's toolchain builds. Cargo keeps what it
    /// knows about the compiler in the target folder, so two compilers do not share one.
    pub fn bare_target(&self) -> PathBuf {
        self.target.join("bare")
    }

    /// Where a toolchain is assembled of what lies elsewhere.
    pub fn toolchain(&self) -> PathBuf {
        self.target.join("toolchain")
    }

    /// The description of the kernel's target.
    pub fn target_spec(&self) -> PathBuf {
        self.root.join("x86_64-talc.json")
    }

    /// The recorded traces.
    pub fn traces(&self) -> PathBuf {
        self.root.join("tests/traces")
    }
}
