//! The project's own files for the RAM disk: everything in a folder beside the kernel's manifest.

use std::{fs, path::Path};

use kernel_protocol::ramdisk::is_reserved;
use walkdir::{DirEntry, WalkDir};

use crate::failure::Failure;

/// A file for the RAM disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Its name on the RAM disk: its path in the folder, with `/` between the parts.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads all files in `folder` and in the folders inside it, in the order of their names. Leaves
/// out those whose names begin with a dot. Returns no files if there is no `folder`.
///
/// # Errors
/// [`Failure::Input`] for a file that cannot be read, or whose name the RAM disk cannot have.
pub(crate) fn load(folder: &Path) -> Result<Vec<File>, Failure> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = WalkDir::new(folder)
        .min_depth(1)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry));
    let mut files = Vec::new();
    for entry in entries {
        // The error names the file.
        let entry = entry.map_err(|error| {
            Failure::Input(format!("cannot read the files for the RAM disk: {error}"))
        })?;
        if entry.file_type().is_dir() {
            continue;
        }
        let file = entry.path();
        let refuse = |why: &str| Failure::Input(format!("{}: {why}", file.display()));
        if !entry.file_type().is_file() {
            return Err(refuse("it is neither a file nor a folder: remove it"));
        }
        let name = file
            .strip_prefix(folder)
            .ok()
            .and_then(Path::to_str)
            .ok_or_else(|| refuse("its name is not UTF-8: rename it"))?;
        if is_reserved(name) {
            return Err(refuse(&format!(
                "the RAM disk has a `{name}` of this program's: rename yours"
            )));
        }
        tar::Header::new_ustar().set_path(name).map_err(|_| {
            refuse("its name is too long for the RAM disk, whose names have 100 bytes: shorten it")
        })?;
        let bytes = fs::read(file).map_err(Failure::io("cannot read", file))?;
        let name = name.to_owned();
        files.push(File { name, bytes });
    }
    Ok(files)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    /// Returns a folder with these files, each of which contains its name.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, name).unwrap();
        }
        folder
    }

    #[test]
    fn files_of_all_folders_are_read_in_order_without_hidden_ones() {
        let folder = folder(&["motd", "etc/rc", "a b", ".gitignore", ".git/config", "b/.x"]);
        std::os::unix::fs::symlink("motd", folder.path().join("link")).unwrap();
        let files = load(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["a b", "etc/rc", "link", "motd"]);
        assert_eq!(
            (&*files[1].bytes, &*files[2].bytes),
            (&b"etc/rc"[..], &b"motd"[..])
        );
        assert_eq!(load(&folder.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_name_that_the_ram_disk_cannot_have_is_refused() {
        let refusal = |name: &str| load(folder(&[name]).path()).unwrap_err().to_string();
        for name in ["config", "traces/json.trace", "traces/x"] {
            let line = refusal(name);
            assert!(
                line.contains("rename yours") && line.contains(name),
                "{line}"
            );
        }
        let long = "x".repeat(101);
        assert!(refusal(&long).contains("shorten it"));
        // The format keeps the folders apart from the name, so that 155 more bytes fit.
        let folders = format!("{}/{}", "y".repeat(100), "x".repeat(100));
        assert_eq!(load(folder(&[&folders]).path()).unwrap()[0].name, folders);
    }

    #[test]
    fn what_is_no_readable_file_is_refused() {
        let bad = folder(&[]);
        fs::write(bad.path().join(OsStr::from_bytes(b"\xff")), "").unwrap();
        assert!(
            load(bad.path())
                .unwrap_err()
                .to_string()
                .contains("not UTF-8")
        );
        let looped = folder(&[]);
        std::os::unix::fs::symlink(".", looped.path().join("loop")).unwrap();
        let line = load(looped.path()).unwrap_err().to_string();
        assert!(line.contains("loop") && line.lines().count() == 1, "{line}");
        let socket = folder(&[]);
        let _listener =
            std::os::unix::net::UnixListener::bind(socket.path().join("socket")).unwrap();
        let line = load(socket.path()).unwrap_err().to_string();
        assert!(line.contains("neither a file nor a folder"), "{line}");
    }
}
