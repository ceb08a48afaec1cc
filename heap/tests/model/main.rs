//! Model tests: random programs beside a model that knows the contents of every block. Most
//! configurations of the allocators run ten thousand programs of two hundred steps. `full_stack`
//! runs fewer and longer ones.

mod allocator;
mod binnings;
mod bump;
#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
mod full_stack;
mod global;
mod layers;
mod manual;
mod operations;
mod shortening;
#[cfg(target_os = "linux")]
#[path = "../common/stack/mod.rs"]
mod stack;
mod tracking;
