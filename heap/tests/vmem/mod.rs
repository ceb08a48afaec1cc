//! Tests of the arena. (They are in one program, below a module of this name, so that `cargo test
//! vmem` runs them all.)

mod attack;
mod basic;
mod constraints;
mod defects;
mod disputes;
mod model;
#[cfg(feature = "nightly")]
mod nightly;
mod oracle;
mod program;
mod quanta;
mod resize;
mod sources;
mod support;
mod tags;
mod threads;
mod view;
