//! Memory allocators for kernels and other programs without an operating system: `no_std`, stable
//! Rust, independent of any kernel.
//!
//! The heap is a boundary-tag allocator. It grows from, and shrinks back into, an arena of
//! addresses that a kernel maps page by page. Each layer can be used alone.
//!
//! # A global allocator
//!
//! ```
//! use heap::source::Claim;
//! use heap::talc::TalcLock;
//!
//! #[global_allocator]
//! static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
//!     static mut MEMORY: [u8; 1 << 20] = [0; 1 << 20];
//!     // SAFETY: `MEMORY` has no other user.
//!     unsafe { Claim::array(&raw mut MEMORY) }
//! });
//!
//! let squares: Vec<u64> = (0..1000).map(|n| n * n).collect();
//! assert_eq!(squares[31], 961);
//! ```
//!
//! This heap has a fixed size. With [`ArenaSource`](source::ArenaSource) in place of
//! [`Claim`](source::Claim), pages are mapped when the heap grows and released when it shrinks.
//!
//! # Layers
//!
//! ```text
//!            GlobalAlloc, Allocator
//!     ┌───────────────┴─────────────────┐
//!     │ slab: SlabAllocator             │   small blocks, in pages of one size
//!     ├─────────────────────────────────┤
//!     │ talc: TalcLock, TalcCell, Talc  │   blocks, in heaps
//!     ├─ source: ArenaSource ───────────┤   growth and shrinking of heaps
//!     │ vmem: Arena                     │   ranges of addresses, in spans
//!     └───────────────┬─────────────────┘
//!              vmem::Source                 maps pages to frames: yours
//!
//!       bump: Bump                          a static, before there is a heap
//! ```
//!
//! | to | use |
//! |---|---|
//! | serve small blocks quickly, on many CPUs, in front of any other | [`slab::SlabAllocator`] |
//! | share a heap between threads, or make it the `#[global_allocator]` | [`talc::TalcLock`] |
//! | use a heap from one thread, without a lock | [`talc::TalcCell`] |
//! | build another wrapper, or claim heaps by hand | [`talc::base::Talc`] |
//! | provide memory from a static, another allocator or an arena | [`source`] |
//! | provide memory in another way | [`talc::source::Source`] |
//! | allocate ranges of addresses, page frames or other numbers | [`vmem::Arena`] |
//! | allocate before there is a heap | [`bump::Bump`] |
//! | reason about ranges of addresses | [`Span`] |
//!
//! # Features
//! All are off by default, and none removes an item.
//!
//! | feature | adds |
//! |---|---|
//! | `hardened` | detection of misuse and corruption; takes memory and time |
//! | `counters` | allocation and heap statistics |
//! | `spin`, `std` | [`vmem::Lock`] for the mutex of that crate; with `std`, `System` as a source |
//! | `local-alloc` | `alloc_traits::LocalAlloc` for [`bump::Bump`] |
//! | `nightly` | `core`'s unstable `Allocator`; needs a nightly compiler |
//! | `disable-grow-in-place`, `disable-realloc-in-place` | moves where blocks would stay in place |
//!
//! # Code for other crates
//! Three packages in the folder `compat` have the library names and paths of other crates, so that
//! code that was written for those compiles without a changed line: `heap-talc` for `talc` 5.1,
//! `heap-vmem` for `vmem` 1.0, `heap-static-alloc` for `static-alloc` 0.3.
//!
//! The following paths exist only because those crates have them. New code uses the others:
//!
//! | path | the item's own path |
//! |---|---|
//! | `talc::source::{AllocatorSource, Claim, GlobalAllocSource}` | [`source`] |
//! | `talc::base::{binning, bitfield, Counters}` | [`talc`] |
//! | `bump::bump::*` | [`bump`] |
//! | `vmem::{Allocator, Bt}` | [`vmem::TagSupply`], [`vmem::BoundaryTag`] |
//! | `vmem::{alloc, error, layout, lock}::*` | [`vmem`] |
#![cfg_attr(
    doc,
    doc = "\nThe [README](readme) has the differences from those crates, and more about `hardened`."
)]
#![no_std]
#![deny(missing_docs)]
#![cfg_attr(feature = "nightly", feature(allocator_api))]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod bump;
mod patience;
pub mod slab;
pub mod source;
mod span;
pub mod talc;
pub mod vmem;

pub use span::Span;

#[cfg(any(doc, doctest))]
#[doc = include_str!("../README.md")]
pub mod readme {}

#[cfg(test)]
#[path = "../tests/common/random.rs"]
mod test_random;
