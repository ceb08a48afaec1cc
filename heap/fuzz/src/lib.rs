//! Programs on the allocators, chosen by a fuzzer.
//!
//! The same code as in the model tests verifies contents, alignment and disjointness of blocks. It
//! checks all structures, and at the end that all memory has been returned.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/stack/mod.rs"]
mod stack;
mod vmem;

pub mod arena;
pub mod bump;
pub mod full_stack;
pub mod input;
pub mod layers;
pub mod slab;
pub mod talc;
