//! Reads recorded allocation traces, and checks them before a kernel gets them.

use std::{fs, path::Path};

use kernel_protocol::{
    config::DEFAULT_TRACE,
    ramdisk::MAX_TRACE_NAME,
    trace::{self, TraceError},
};

use crate::{failure::Failure, project::Project};

/// A trace that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The name of its file, without `.trace`.
    pub name: String,
    /// The content of its file.
    pub bytes: Vec<u8>,
}

/// Returns the names of the traces in the repository. A fork may have deleted all.
pub(crate) fn names(project: &Project) -> Result<Vec<String>, Failure> {
    let folder = project.traces();
    if !folder.exists() {
        return Ok(Vec::new());
    }
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

/// Reads and checks the trace `chosen`, or else the default one. `None` if the repository does not
/// have the default one: a kernel boots without a trace.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_chosen(
    project: &Project,
    chosen: Option<&str>,
) -> Result<Option<Trace>, Failure> {
    let default = project.traces().join(format!("{DEFAULT_TRACE}.trace"));
    match chosen {
        None if project.is_fork() || !default.exists() => Ok(None),
        chosen => load(project, chosen.unwrap_or(DEFAULT_TRACE)).map(Some),
    }
}

/// Returns the name for the configuration of a kernel that has `trace`, or none.
pub(crate) fn name_of(trace: Option<&Trace>) -> &str {
    trace.map_or(DEFAULT_TRACE, |trace| &trace.name)
}

/// Reads and checks the trace `chosen`: a name in the repository, or a file.
///
/// # Errors
/// [`Failure::Input`] for a file that cannot be read, a damaged trace, or an unsuitable name.
pub(crate) fn load(project: &Project, chosen: &str) -> Result<Trace, Failure> {
    let in_repository = project.traces().join(format!("{chosen}.trace"));
    let is_name = !chosen.contains('/') && in_repository.is_file();
    let file = if is_name {
        &in_repository
    } else {
        Path::new(chosen)
    };
    let bytes = fs::read(file).map_err(|error| {
        let known = match &names(project).unwrap_or_default()[..] {
            [] => "tests/traces has none: get it back, or name a file".into(),
            names => format!("the repository has {}", names.join(", ")),
        };
        Failure::Input(format!(
            "cannot read the trace {}: {error} ({known})",
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
    // The name becomes a value in the kernel's configuration, and a name in a ustar archive.
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

/// Checks a trace with the code that the kernel uses. Costs one word for each slot.
fn check(bytes: &[u8]) -> Result<(), TraceError> {
    let trace = trace::Trace::parse(bytes)?;
    trace.check(&mut vec![0; trace.slots()])
}

#[cfg(test)]
mod tests;
