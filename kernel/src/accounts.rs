//! Do the layers agree on who has how much?

use core::fmt;

use crate::memory;

/// The first disagreement that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// Among the frames.
    Frames(&'static str),
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(what) => f.write_str(what),
        }
    }
}

/// Gives back everything that is kept only to be fast.
pub fn settle() {}

/// Compares the accounts of all layers. They agree when nothing else is going on.
///
/// # Errors
/// The first disagreement.
pub fn check() -> Result<(), Disagreement> {
    memory::check_frames().map_err(Disagreement::Frames)
}
