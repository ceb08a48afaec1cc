#![doc = include_str!("../README.md")]
//! # Example
//!
//! ```
//! use talc::{TalcLock, source::Claim};
//!
//! #[global_allocator]
//! static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
//!     static mut MEMORY: [u8; 1 << 20] = [0; 1 << 20];
//!     // SAFETY: `MEMORY` has no other user.
//!     unsafe { Claim::array(&raw mut MEMORY) }
//! });
//!
//! assert_eq!(vec![7; 1000].iter().sum::<i32>(), 7000);
//! ```
#![no_std]
#![deny(missing_docs)]

pub use heap::talc::{DefaultBinning, TalcCell, TalcLock, lock_api};
pub use heap::talc::{min_first_heap_layout, min_first_heap_size};

/// The allocator without a wrapper, and what `heap` adds to it.
pub mod base {
    // All of it, so that `Counters` is here whenever `heap` has its feature `counters`.
    pub use heap::talc::base::*;
}

/// The allocator for one thread, without a lock.
pub mod cell {
    pub use heap::talc::cell::{TalcCell, TalcSyncCell};
}

/// Where the allocator gets its memory.
pub mod source {
    pub use heap::source::{AllocatorSource, Claim, GlobalAllocSource};
    pub use heap::talc::source::{Manual, Source};
}

/// The allocator behind a lock.
pub mod sync {
    pub use heap::talc::sync::TalcLock;
}
