//! What the arena's tests share.

#[path = "../../tests/vmem/program.rs"]
pub mod program;
#[path = "../../tests/vmem/support.rs"]
pub mod support;
