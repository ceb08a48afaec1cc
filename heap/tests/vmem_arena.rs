//! The arena.
#![cfg_attr(feature = "nightly", feature(allocator_api))]

mod vmem;
