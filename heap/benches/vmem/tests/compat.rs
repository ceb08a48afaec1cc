//! Compatibility: the same tests compile and pass with the crate `vmem` 1.0 and with its stand-in
//! `heap-vmem`. Only the values that errors carry differ.
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
