//! Sources: where a Talc heap gets its memory. They implement [`talc::source::Source`](Source).
//!
//! | source | memory | returns it |
//! |---|---|---|
//! | [`Manual`](crate::talc::source::Manual) | ranges that the user claims by hand | by hand |
//! | [`Claim`] | one range, claimed at the first allocation | never |
//! | [`GlobalAllocSource`], [`AllocatorSource`] | blocks of another allocator | whole blocks |
//! | [`ArenaSource`] | segments of an [`Arena`](crate::vmem::Arena) | pages |
//!
//! [`PageHeap`] is a `GlobalAlloc` over an [`ArenaSource`] that gives pages back by itself.
#![warn(clippy::multiple_unsafe_ops_per_block)]

mod allocator;
mod arena;
mod block_source;
mod blocks;
mod claim;
mod decay;
mod global_alloc;
mod page_heap;

pub use self::allocator::AllocatorSource;
pub use self::arena::{ArenaHeap, ArenaSource, DrainError};
pub use self::claim::Claim;
pub use self::decay::DecayInterval;
pub use self::global_alloc::{GlobalAllocSource, StableGlobalAlloc};
pub use self::page_heap::{AlwaysOpen, PageHeap, ReleaseGate};

#[cfg(doc)]
use crate::talc::source::Source;
