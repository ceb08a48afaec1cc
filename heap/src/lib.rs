//! A kernel heap in layers: a boundary-tag allocator ([`talc`]) whose memory comes and goes
//! through a [`vmem`] arena ([`source::ArenaSource`]).
//!
//! ```text
//!            GlobalAlloc, Allocator
//!     ┌───────────────┴─────────────────┐
//!     │ talc: TalcLock, TalcCell, Talc  │   blocks, from heaps: bytes at addresses
//!     ├─ source: ArenaSource ───────────┤   how heaps grow and shrink; or other sources
//!     │ vmem: Arena                     │   ranges of addresses, from spans; it touches nothing
//!     └───────────────┬─────────────────┘
//!              vmem::Source                 whoever maps pages to frames
//!
//!       bump: Bump                          memory before all this, from a static
//! ```
//!
//! [`Span`] is a range of addresses, for all who reason about memory.
#![no_std]
#![deny(missing_docs)]
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
