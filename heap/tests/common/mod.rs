//! What the tests share.
#![allow(dead_code, reason = "each test uses a part of it")]

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub mod guarded;
pub mod manual_heap;
pub mod memory;
pub mod one_heap;
pub mod programs;
pub mod random;
pub mod shadow;
pub mod sizes;
pub mod trace;
pub mod window;
