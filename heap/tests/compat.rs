//! Compiles the same source against a crate and against its stand-in: `talc` 5.1 and `heap-talc`,
//! `static-alloc` 0.3 and `heap-static-alloc`, `vmem` 1.0 and `heap-vmem`.
//!
//! Each included file begins with `use talc::…`, `use static_alloc::…` or `use vmem::…`. These
//! names are those of the stand-ins, as in a program whose manifest says
//! `talc = { package = "heap-talc", … }`. In the modules `…_upstream` they are the crates
//! themselves.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "the included files are code as users of these crates write it"
)]

mod talc_upstream {
    use upstream_talc as talc;
    include!("compat/talc.rs");
}

mod talc_here {
    include!("compat/talc.rs");
}

mod static_alloc_upstream {
    use upstream_static_alloc as static_alloc;
    include!("compat/static_alloc.rs");
}

mod static_alloc_here {
    include!("compat/static_alloc.rs");
}

// Crate `vmem` needs unstable features: `benches/vmem/tests/compat.rs` compiles this with both.
mod vmem_here {
    include!("compat/vmem.rs");
}
