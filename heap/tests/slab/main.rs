//! `heap::slab`: slabs in front of Talc.

#[path = "../common/random.rs"]
mod random;

mod basic;
mod cpus;
mod exhaustion;
mod interrupts;
mod model;
mod sharing;
mod support;
mod threads;
mod waiting;
