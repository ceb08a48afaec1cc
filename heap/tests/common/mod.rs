//! What the tests share.
#![allow(dead_code, reason = "each test uses a part of it")]

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod guarded;
pub(crate) mod hooked_lock;
pub(crate) mod manual_heap;
pub(crate) mod memory;
pub(crate) mod one_heap;
pub(crate) mod programs;
pub(crate) mod random;
pub(crate) mod shadow;
pub(crate) mod sizes;
#[allow(unreachable_pub, reason = "the benchmarks share the file")]
pub(crate) mod trace;
pub(crate) mod window;
