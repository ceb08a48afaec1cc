//! Programs on the allocators, chosen by a fuzzer. What is verified is what the model tests verify,
//! by the same code: contents, alignment, overlap, the walkers, and at the end that all came back.

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
pub mod talc;
