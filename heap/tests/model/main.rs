//! Random programs beside a model that knows what every block must contain: ten thousand for each
//! configuration of the allocators, two hundred steps each.

mod allocator;
mod binnings;
mod bump;
#[path = "../common/mod.rs"]
mod common;
mod global;
mod layers;
mod manual;
mod operations;
mod shortening;
mod tracking;
