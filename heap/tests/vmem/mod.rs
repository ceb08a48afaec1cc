//! Tests of the arena. (They are in one program, below a module of this name, so that `cargo test
//! vmem` runs them all.)

mod basic;
mod constraints;
mod defects;
mod model;
#[cfg(feature = "nightly")]
mod nightly;
mod program;
mod resize;
mod sources;
mod support;
mod tags;
mod threads;
mod view;
