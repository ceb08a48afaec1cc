//! The paths and names of the crate `vmem` 1.0, for code that was written for it.
//!
//! Each is an alias of an item that has another path or name here. New code uses that one.

pub use super::BoundaryTag as Bt;
pub use super::TagSupply as Allocator;

/// The supply of boundary tags: [`TagSupply`](super::TagSupply).
pub mod alloc {
    pub use super::super::TagSupply as Allocator;
}

/// What can go wrong: [`Error`](super::Error).
pub mod error {
    pub use super::super::{Error, Result};
}

/// The layout of a constrained allocation: [`Layout`](super::Layout).
pub mod layout {
    pub use super::super::Layout;
}

/// The lock of an arena: [`Lock`](super::Lock).
pub mod lock {
    pub use super::super::Lock;
}
