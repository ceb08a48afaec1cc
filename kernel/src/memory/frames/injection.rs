//! Failures on purpose, for tests of what happens when frames run out.
#![cfg(feature = "fault-injection")]

/// Which calls of the frame allocator are to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Injection {
    /// None.
    #[default]
    Never,
    /// One call, after so many that succeed.
    Once(usize),
    /// All calls, after so many that succeed.
    From(usize),
}

impl Injection {
    /// Whether the call that is made now is to fail.
    pub(super) fn fails(&mut self) -> bool {
        match self {
            Self::Never => false,
            Self::Once(0) => {
                *self = Self::Never;
                true
            }
            Self::From(0) => true,
            Self::Once(calls) | Self::From(calls) => {
                *calls -= 1;
                false
            }
        }
    }
}
