//! Sources: where a Talc heap gets its memory. They implement [`talc::source::Source`](Source).
//!
//! | source | memory | returns it |
//! |---|---|---|
//! | [`Manual`](crate::talc::source::Manual) | ranges that the user claims by hand | by hand |
//! | [`Claim`] | one range, claimed at the first allocation | never |
//! | [`GlobalAllocSource`], [`AllocatorSource`] | blocks of another allocator | whole blocks |
//! | [`ArenaSource`] | segments of an [`Arena`](crate::vmem::Arena) | pages at the tops of heaps |
#![warn(clippy::multiple_unsafe_ops_per_block)]

mod allocator;
mod arena;
mod block_source;
mod blocks;
mod claim;
mod global_alloc;

pub use self::allocator::AllocatorSource;
pub use self::arena::{ArenaHeap, ArenaSource, DrainError};
pub use self::claim::Claim;
pub use self::global_alloc::{GlobalAllocSource, StableGlobalAlloc};

#[cfg(doc)]
use crate::talc::source::Source;
