#![doc = include_str!("../README.md")]
#![no_std]
#![deny(missing_docs)]

pub use heap::vmem::{AllocPolicy, Allocator, Arena, Bt, Error, Layout, Lock, Result, Source};

/// The supply of boundary tags.
pub mod alloc {
    pub use heap::vmem::Allocator;
}

/// What can go wrong.
pub mod error {
    pub use heap::vmem::{Error, Result};
}

/// The layout of a constrained allocation.
pub mod layout {
    pub use heap::vmem::Layout;
}

/// The lock of an arena.
pub mod lock {
    pub use heap::vmem::Lock;
}
