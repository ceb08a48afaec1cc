//! A kernel heap in layers: a boundary-tag allocator ([`talc`]) whose memory comes and goes
//! through a [`vmem`] arena ([`source::ArenaSource`]).
#![no_std]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod bump;
pub mod source;
pub mod span;
pub mod talc;
pub mod vmem;

pub use span::Span;

/// The examples in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(test)]
#[path = "../tests/common/random.rs"]
mod test_random;
