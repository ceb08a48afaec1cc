//! One source, two crates: what is written for `talc` 5.1, `static-alloc` 0.3 and `vmem` 1.0 compiles
//! and passes with `heap` when the `use` lines change, and here nothing else does.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "what is shown is that users' code compiles"
)]

mod talc_upstream {
    use upstream_talc as talc;
    include!("compat/talc.rs");
}

mod talc_here {
    use heap::talc;
    include!("compat/talc.rs");
}

mod static_alloc_upstream {
    use upstream_static_alloc as static_alloc;
    include!("compat/static_alloc.rs");
}

mod static_alloc_here {
    use heap::bump as static_alloc;
    include!("compat/static_alloc.rs");
}

// Upstream's crate needs unstable features: `benches/vmem/tests/compat.rs` has both.
mod vmem_here {
    use heap::vmem;
    include!("compat/vmem.rs");
}
