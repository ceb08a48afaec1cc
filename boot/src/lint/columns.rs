//! Finds lines that are too long, in code, comments and Markdown. rustfmt leaves comments and long
//! strings as they are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{failure::Failure, project::Project};

/// The number of characters that a line may have.
const MAX_COLUMNS: usize = 100;

/// The folders that hold no text of the project.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];

/// The ends of the names of checked files.
const SUFFIXES: [&str; 6] = [".rs", ".md", ".sh", ".toml", ".yml", ".ci/run"];

/// Returns the place and the length of each line that is too long, such as `lib.rs:3: 120 columns`.
pub(super) fn check(project: &Project) -> Result<Vec<String>, Failure> {
    let root = project.root();
    let mut files = Vec::new();
    collect(root, &mut files).map_err(Failure::io("cannot read", root))?;
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(Failure::io("cannot read", &file))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display();
        found.extend(
            too_long(&text).map(|(line, columns)| format!("{name}:{line}: {columns} columns")),
        );
    }
    Ok(found)
}

/// Adds the checked files below `folder` to `files`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if SKIPPED.iter().all(|name| entry.file_name() != *name) {
                collect(&path, files)?;
            }
        } else if let Some(name) = path.to_str()
            && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns the number and the length of each line of `text` that is too long. Rows of tables and
/// lines with a URL cannot be broken, so they may have any length.
fn too_long(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let lines = (1..).zip(text.lines());
    lines.filter_map(|(number, line)| {
        let content = line
            .trim_start()
            .trim_start_matches(['/', '!'])
            .trim_start();
        let is_table = content.starts_with('|');
        let columns = line.chars().count();
        let is_too_long = columns > MAX_COLUMNS && !is_table && !line.contains("://");
        is_too_long.then_some((number, columns))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<usize> {
        too_long(text).map(|(number, _)| number).collect()
    }

    #[test]
    fn lines_above_100_characters_are_found() {
        let full = "ä".repeat(100);
        assert_eq!(numbers(&format!("{full}\n{full}b\nshort\n")), [2]);
    }

    #[test]
    fn tables_and_urls_may_be_longer() {
        let long = "a".repeat(100);
        let text = format!("| {long} |\n//! | {long} |\n// see https://{long}\n// {long}\n");
        assert_eq!(numbers(&text), [4]);
    }
}
