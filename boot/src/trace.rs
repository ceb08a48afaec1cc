//! Recorded traces of allocations, checked before a kernel sees them.

use std::{fs, path::Path};

use kernel_protocol::{
    ramdisk::MAX_TRACE_NAME,
    trace::{self, TraceError},
};

use crate::{failure::Failure, project::Project};

/// A trace that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its name: of its file, without `.trace`.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// The names of the traces in the repository.
pub fn names(project: &Project) -> Result<Vec<String>, Failure> {
    let folder = project.traces();
    let entries = fs::read_dir(&folder).map_err(Failure::io("cannot read", &folder))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".trace")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Reads and checks the trace `chosen`: the name of one in the repository, or a file.
pub fn load(project: &Project, chosen: &str) -> Result<Trace, Failure> {
    let ours = project.traces().join(format!("{chosen}.trace"));
    let is_name = !chosen.contains('/') && ours.is_file();
    let file = if is_name { &ours } else { Path::new(chosen) };
    let bytes = fs::read(file).map_err(|error| {
        let known = names(project).unwrap_or_default().join(", ");
        Failure::Input(format!(
            "cannot read the trace {}: {error} (the repository has {known})",
            file.display()
        ))
    })?;
    check(&bytes).map_err(|damage| {
        Failure::Input(format!("the trace {} is damaged: {damage}", file.display()))
    })?;
    let name = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    // It becomes a value in the kernel's configuration, and a name in a ustar archive.
    if name.is_empty()
        || name.len() > MAX_TRACE_NAME
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(Failure::Input(format!(
            "the trace {} needs a name of letters, digits, - and _",
            file.display()
        )));
    }
    Ok(Trace { name, bytes })
}

/// Checks a trace as the kernel will.
fn check(bytes: &[u8]) -> Result<(), TraceError> {
    let trace = trace::Trace::parse(bytes)?;
    trace.check(&mut vec![0; trace.slots()])
}

#[cfg(test)]
mod tests;
