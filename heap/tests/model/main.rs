//! Random programs beside a model that knows what every block must contain: ten thousand for each
//! configuration of the allocators, two hundred steps each.

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
