//! The names of the files in the RAM disk, an archive in the ustar format.

use core::fmt;

/// The file with the [configuration](crate::config).
pub const CONFIG: &str = "config";

/// The longest name of a trace in bytes. Its file's name then fits into the ustar header.
pub const MAX_TRACE_NAME: usize = 64;

const TRACE_FOLDER: &str = "traces/";
const TRACE_SUFFIX: &str = ".trace";

/// The file of the trace with this name: it is displayed as `traces/NAME.trace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceFile<'a>(pub &'a str);

impl fmt::Display for TraceFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TRACE_FOLDER}{}{TRACE_SUFFIX}", self.0)
    }
}

/// Returns whether a file with this name has a meaning of its own, so that no other file can have
/// the name: [`CONFIG`], and everything in the folder of the traces.
pub fn is_reserved(file: &str) -> bool {
    file == CONFIG || file.starts_with(TRACE_FOLDER)
}

/// Returns the name of the trace in `file`. `None` if no trace has that file name.
pub fn trace_name(file: &str) -> Option<&str> {
    file.strip_prefix(TRACE_FOLDER)?.strip_suffix(TRACE_SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_trace_is_found_by_the_name_of_its_file() {
        assert_eq!(trace_name(&TraceFile("git").to_string()), Some("git"));
        for file in [CONFIG, "git.trace", "traces/git", "other/git.trace"] {
            assert_eq!(trace_name(file), None, "{file}");
        }
    }

    #[test]
    fn the_names_of_configuration_and_traces_are_reserved() {
        for file in ["config", "traces/git.trace", "traces/motd"] {
            assert!(is_reserved(file), "{file}");
        }
        for file in ["motd", "config.txt", "etc/config", "traces.txt"] {
            assert!(!is_reserved(file), "{file}");
        }
    }
}
