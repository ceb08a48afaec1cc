//! `./run-qemu.sh new NAME [FOLDER]`: makes a kernel of one's own from the template in
//! `kernel/template`.
//!
//! The new package depends on the kernel library by a path, and its `run-qemu.sh` starts the host
//! program beside that library. A git dependency would not do: the library, the host program and
//! the target must be of one version, and cargo fetches only the library. With `--standalone` the
//! new folder contains a copy of this repository, and depends on nothing outside.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use walkdir::WalkDir;

use crate::{cli::NewOptions, failure::Failure, host::folder_of, project::Project};

/// The name of the template, in all its files.
const TEMPLATE_NAME: &str = "my-kernel";
/// The path of the kernel library in the template.
const TEMPLATE_LIBRARY: &str = "../../kernel";
/// The folder of the copy of this repository in a standalone kernel.
const COPY: &str = "library";
/// The folders of the repository that a standalone kernel does not need: they are large.
const LEFT_OUT: [&str; 2] = ["tests/traces", "heap/fuzz/corpus"];

/// Runs `./run-qemu.sh new`.
///
/// # Errors
/// [`Failure::Input`] for a name that cargo refuses, or a folder that is not empty. Nothing is
/// written then.
pub(crate) fn run(project: &Project, options: &NewOptions) -> Result<(), Failure> {
    let NewOptions {
        name,
        folder,
        standalone,
    } = options;
    let folder = match folder {
        Some(folder) => folder.clone(),
        None => folder_of(project.root()).join(name),
    };
    let shown = folder.display();
    if fs::symlink_metadata(&folder).is_ok() && !is_empty_folder(&folder) {
        return Err(Failure::Input(format!(
            "{shown} exists and is not an empty folder: choose another folder for the kernel"
        )));
    }
    let parent = folder_of(&folder);
    let parent = fs::canonicalize(parent).map_err(|error| {
        Failure::Input(format!(
            "cannot make {shown}: {}: {error}",
            parent.display()
        ))
    })?;
    let last = folder.file_name().ok_or_else(|| {
        Failure::Input(format!(
            "{shown} has no name of its own: choose another folder"
        ))
    })?;
    let folder = parent.join(last);
    if *standalone && folder.starts_with(project.root()) {
        return Err(Failure::Input(format!(
            "{shown} is in the repository, which it would contain a copy of: choose a folder \
             outside"
        )));
    }
    // The folder gets its name when it is complete.
    let made = tempfile::Builder::new()
        .prefix(".new-kernel-")
        .tempdir_in(&parent)
        .map_err(Failure::io("cannot write to", &parent))?;
    let library = if *standalone {
        Path::new(COPY).join("kernel")
    } else {
        relative(&folder, &project.root().join("kernel"))
    };
    let library = library.to_str().filter(|path| !path.contains(['"', '\\']));
    let library = library.ok_or_else(|| {
        Failure::Input(format!(
            "the path from {shown} to the kernel library cannot stand in Cargo.toml: choose \
             another folder"
        ))
    })?;
    fill_template(&project.template(), made.path(), name, library)
        .map_err(Failure::io("cannot write the kernel to", made.path()))?;
    if *standalone {
        copy(project.root(), &made.path().join(COPY), &LEFT_OUT)
            .map_err(Failure::io("cannot copy the repository to", made.path()))?;
    }
    // An empty folder is in the way of the next step only on some systems.
    let _ = fs::remove_dir(&folder);
    fs::rename(made.path(), &folder).map_err(Failure::io("cannot make", &folder))?;
    let _ = made.keep();
    println!(
        "{}: the kernel `{name}`. Its run-qemu.sh builds and boots it.",
        folder.display()
    );
    Ok(())
}

/// Checks a name for a kernel: it becomes the name of a package.
pub(crate) fn parse_name(name: &str) -> Result<String, String> {
    let is_allowed =
        |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.chars().all(is_allowed)
    {
        return Err("a name begins with a letter, and has letters, digits, `-` and `_`".into());
    }
    // Crates in the kernel, and names that cargo or rustc reserve.
    let crates = [
        "alloc",
        "core",
        "heap",
        "heap-x86-64",
        "kernel",
        "kernel-protocol",
        "std",
        "proc-macro",
        "test",
        "embedded-graphics",
    ];
    let reserved = ["build", "deps", "examples", "incremental"];
    let keywords = [
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
        "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
        "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub",
        "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type",
        "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    let same = name.to_ascii_lowercase().replace('_', "-");
    if crates
        .iter()
        .chain(&reserved)
        .chain(&keywords)
        .any(|&taken| taken == same)
    {
        return Err(format!(
            "`{name}` has a meaning of its own: choose another name"
        ));
    }
    Ok(name.into())
}

fn is_empty_folder(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Copies the template to `to`, with the name of the kernel and the path of the kernel library.
fn fill_template(template: &Path, to: &Path, name: &str, library: &str) -> io::Result<()> {
    copy(template, to, &[])?;
    for entry in WalkDir::new(to) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let text = fs::read_to_string(entry.path())?
                .replace(TEMPLATE_NAME, name)
                .replace(TEMPLATE_LIBRARY, library);
            fs::write(entry.path(), text)?;
        }
    }
    Ok(())
}

/// Copies a folder, without those of git and cargo, and without `left_out`. Links are not copied.
pub(crate) fn copy(from: &Path, to: &Path, left_out: &[&str]) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let (source, copied) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_file() {
            fs::copy(source, copied)?;
        } else if entry.file_type()?.is_dir() && name != "target" && name != ".git" {
            let below: Vec<_> = left_out
                .iter()
                .filter_map(|path| Path::new(path).strip_prefix(&name).ok()?.to_str())
                .collect();
            if !below.contains(&"") {
                copy(&source, &copied, &below)?;
            }
        }
    }
    Ok(())
}

/// Returns the path that leads from the folder `from` to `to`. Both are absolute, without `..`.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from
        .iter()
        .zip(&to)
        .take_while(|(from, to)| from == to)
        .count();
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str, folder: &Path, standalone: bool) -> NewOptions {
        NewOptions {
            name: name.into(),
            folder: Some(folder.to_owned()),
            standalone,
        }
    }

    /// Returns a repository with a template, in a temporary folder.
    fn repository() -> (tempfile::TempDir, Project) {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap().join("repository");
        for (file, text) in [
            (
                "kernel/template/Cargo.toml",
                "name = \"my-kernel\"\npath = \"../../kernel\"\n",
            ),
            ("kernel/template/src/main.rs", "//! my-kernel\n"),
            ("kernel/template/target/x", ""),
            ("tests/traces/x", ""),
            ("tests/src/x", "my-kernel"),
            (".git/x", ""),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        (folder, Project::at(&root))
    }

    #[test]
    fn a_kernel_has_its_name_and_the_path_of_the_library() {
        let (_folder, project) = repository();
        let own = folder_of(project.root()).join("own/os");
        fs::create_dir_all(&own).unwrap();
        run(&project, &options("tiny", &own, false)).unwrap();
        let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
        assert_eq!(
            read("Cargo.toml"),
            "name = \"tiny\"\npath = \"../../repository/kernel\"\n"
        );
        assert_eq!(read("src/main.rs"), "//! tiny\n");
        assert!(!own.join("target").exists());
        // Nothing else is left beside it.
        assert_eq!(fs::read_dir(folder_of(&own)).unwrap().count(), 1);
    }

    #[test]
    fn a_standalone_kernel_contains_the_repository() {
        let (_folder, project) = repository();
        let own = folder_of(project.root()).join("own");
        run(&project, &options("tiny", &own, true)).unwrap();
        let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
        assert_eq!(
            read("Cargo.toml"),
            "name = \"tiny\"\npath = \"library/kernel\"\n"
        );
        assert_eq!(read("library/tests/src/x"), "my-kernel");
        assert!(!own.join("library/tests/traces").exists());
        assert!(!own.join("library/.git").exists());
    }

    #[test]
    fn a_folder_that_is_in_use_is_left_alone() {
        let (_folder, project) = repository();
        let parent = folder_of(project.root());
        let refused = |folder: &Path| {
            let failure = run(&project, &options("tiny", folder, false)).unwrap_err();
            failure.to_string()
        };
        let used = refused(project.root());
        assert!(used.contains("exists and is not an empty folder"), "{used}");
        let file = parent.join("file");
        fs::write(&file, "text").unwrap();
        assert!(refused(&file).contains("exists"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert!(refused(&parent.join("no/where")).contains("No such file"));
        assert!(refused(Path::new("/")).contains("exists"));
    }

    #[test]
    fn a_copy_of_the_repository_is_not_made_inside_it() {
        let (_folder, project) = repository();
        let inside = project.root().join("inside");
        let failure = run(&project, &options("tiny", &inside, true)).unwrap_err();
        assert!(failure.to_string().contains("is in the repository"));
        assert!(!inside.exists());
        run(&project, &options("tiny", &inside, false)).unwrap();
        assert!(inside.join("Cargo.toml").exists());
    }

    #[test]
    fn names_that_cargo_refuses_are_refused() {
        for name in ["os", "my-kernel", "Kernel_2"] {
            assert_eq!(parse_name(name), Ok(name.into()));
        }
        for name in [
            "",
            "2os",
            "-os",
            "a b",
            "a/b",
            "é",
            "kernel",
            "Heap",
            "fn",
            "proc_macro",
        ] {
            assert!(parse_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_path_leads_from_one_folder_to_another() {
        let cases = [
            ("/a/b", "/a/c/kernel", "../c/kernel"),
            ("/a", "/a/kernel", "kernel"),
            ("/x/y/z", "/kernel", "../../../kernel"),
        ];
        for (from, to, path) in cases {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(path));
        }
    }
}
