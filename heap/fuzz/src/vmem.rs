//! The shared code of the arena's tests.

#[path = "../../tests/vmem/program.rs"]
pub mod program;
#[path = "../../tests/vmem/support.rs"]
pub mod support;
