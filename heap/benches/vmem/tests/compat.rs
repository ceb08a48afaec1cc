//! Compiles the same source against `vmem` 1.0 and against its stand-in `heap-vmem`, whose errors
//! carry values.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "the tests stand for code of users"
)]

mod upstream {
    include!("../../../tests/compat/vmem.rs");
}

mod here {
    use vmem_here as vmem;
    include!("../../../tests/compat/vmem.rs");
}
