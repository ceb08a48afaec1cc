#![doc = include_str!("../README.md")]
//! # Example
//!
//! ```
//! use static_alloc::Bump;
//!
//! static BOOT: Bump<[u64; 512]> = Bump::uninit();
//!
//! let answer: &'static mut u32 = BOOT.leak(42).expect("the memory suffices");
//! assert_eq!(*answer, 42);
//! ```
#![no_std]
#![deny(missing_docs)]

pub use heap::bump::Bump;

/// The allocator for any number of threads, and its results.
pub mod bump {
    pub use heap::bump::{Allocation, Bump, BumpSlice, Failure, LeakError, Level};
}

/// Values in memory that is never reclaimed.
pub mod leaked {
    pub use heap::bump::leaked::{Alloca, LeakBox};
}

/// The allocator for one thread.
pub mod unsync {
    pub use heap::bump::unsync::{Bump, BumpSlice, FromMemError};
}
