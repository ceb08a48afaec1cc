//! What the tests share.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod memory;
pub mod random;
pub mod shadow;
pub mod trace;
