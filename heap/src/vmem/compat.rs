//! The paths and names of the crate `vmem` 1.0, for code that was written for that crate.
//!
//! Each one is an alias of an item in `heap::vmem`. New code uses the path there.

pub use super::BoundaryTag as Bt;
pub use super::TagSupply as Allocator;

/// Alias for code written for crate `vmem` 1.0: see [`TagSupply`](super::TagSupply).
pub mod alloc {
    pub use super::super::TagSupply as Allocator;
}

/// Alias for code written for crate `vmem` 1.0: see [`Error`](super::Error).
pub mod error {
    pub use super::super::{Error, Result};
}

/// Alias for code written for crate `vmem` 1.0: see [`Layout`](super::Layout).
pub mod layout {
    pub use super::super::Layout;
}

/// Alias for code written for crate `vmem` 1.0: see [`Lock`](super::Lock).
pub mod lock {
    pub use super::super::Lock;
}
