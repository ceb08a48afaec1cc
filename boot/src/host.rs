//! The machine that this program runs on.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the target triple of this machine. Toolchains name folders after it.
pub(crate) fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Returns the first file called `name` in the folders of `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Returns the cargo that runs this program, or else the first cargo in `PATH`.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Checks that `file` can be the name of a new file. The error is the reason.
pub(crate) fn check_new_file(file: &Path) -> Result<(), String> {
    let folder = folder_of(file);
    if file.is_dir() {
        Err("it is a folder".into())
    } else if !folder.is_dir() {
        Err(format!("there is no folder {}", folder.display()))
    } else {
        Ok(())
    }
}

/// Returns the folder of `file`: `.` for a plain name.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
