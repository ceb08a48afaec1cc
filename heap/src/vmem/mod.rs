//! A general allocator of ranges of numbers: addresses, page frames, process ids.

pub mod error;
pub mod layout;
pub mod lock;
mod policy;
mod segment;
mod source;
pub mod tags;

pub use error::{Error, Result};
pub use layout::Layout;
pub use lock::Lock;
pub use policy::AllocPolicy;
pub use segment::Bt;
pub use source::Source;
pub use tags::Allocator;

/// Traits for the supply of boundary tags.
pub mod alloc {
    pub use super::tags::Allocator;
}
