//! Tests of the arena. They are one program with a module of this name, so `cargo test vmem` runs
//! all of them.

mod attack;
mod basic;
mod constraints;
mod defects;
mod discard;
mod discard_model;
mod disputes;
mod model;
#[cfg(feature = "nightly")]
mod nightly;
mod oracle;
mod paged;
mod program;
mod quanta;
mod resize;
mod sources;
mod support;
mod tags;
mod threads;
mod view;
