//! The recorded programs in the RAM disk.

use alloc::vec::Vec;
use core::fmt;

use kernel::println;
use kernel::ramdisk::{Ramdisk, trace_name};
use kernel::trace::{Trace, TraceError};

use super::format::{Bytes, Count};

/// The reason why a recorded program cannot be replayed.
pub(crate) enum LoadError<'a> {
    /// The RAM disk has no such trace.
    Missing(&'a str),
    /// No memory is left for one word per slot.
    NoMemory(&'a str),
    /// The trace is damaged.
    Damaged(&'a str, TraceError),
}

impl fmt::Display for LoadError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Missing(name) => write!(
                f,
                "the RAM disk has no trace `{name}`; the command `trace` lists all traces"
            ),
            LoadError::NoMemory(name) => {
                write!(f, "not enough memory for the slots of the trace `{name}`")
            }
            LoadError::Damaged(name, error) => write!(f, "the trace `{name}` is damaged: {error}"),
        }
    }
}

/// Loads the trace `name`, and checks all of its operations.
pub(crate) fn load<'r, 'n>(
    ramdisk: &Ramdisk<'r>,
    name: &'n str,
) -> Result<Trace<'r>, LoadError<'n>> {
    let bytes = ramdisk.trace(name).ok_or(LoadError::Missing(name))?;
    let trace = Trace::parse(bytes).map_err(|error| LoadError::Damaged(name, error))?;
    let mut sizes = Vec::new();
    sizes
        .try_reserve_exact(trace.slots())
        .map_err(|_| LoadError::NoMemory(name))?;
    sizes.resize(trace.slots(), 0);
    trace
        .check(&mut sizes)
        .map_err(|error| LoadError::Damaged(name, error))?;
    Ok(trace)
}

/// Visits the names of all traces.
pub(crate) fn for_each_name(ramdisk: &Ramdisk<'_>, visit: &mut dyn FnMut(&str)) {
    for file in ramdisk.files() {
        if let Some(name) = file.filename().as_str().ok().and_then(trace_name) {
            visit(name);
        }
    }
}

/// Prints the list of traces.
pub(crate) fn list(ramdisk: &Ramdisk<'_>) {
    for_each_name(ramdisk, &mut |name| match load(ramdisk, name) {
        Ok(trace) => {
            let (operations, peak) = (Count(trace.len() as u64), Bytes(trace.peak()));
            println!("  {name:<10} {operations:>9} operations, at most {peak} live");
        }
        Err(error) => println!("  {error}"),
    });
}
