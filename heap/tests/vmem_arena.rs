//! The arena.
#![cfg_attr(feature = "nightly", feature(allocator_api))]

mod common;
mod vmem;
