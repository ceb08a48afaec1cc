//! One source, two crates: what is written for `vmem` 1.0 compiles and passes with `heap` when the
//! `use` lines change, but for the values that errors carry.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "what is shown is that users' code compiles"
)]

mod upstream {
    use vmem;
    include!("../../../tests/compat/vmem.rs");
}

mod here {
    use heap::vmem;
    include!("../../../tests/compat/vmem.rs");
}
