//! What the kernel and the host that boots it agree on. Each format is written and read here, and
//! tests show that what one side writes the other side reads.
//!
//! | module | written by | read by | format |
//! |---|---|---|---|
//! | [`exit`] | kernel | host | how the kernel ended, as QEMU's exit status |
//! | [`record`] | kernel | host | lines on the serial port that begin with `@` |
//! | [`config`] | host | kernel | lines of `key=value` in the RAM disk |
//! | [`ramdisk`] | host | kernel | the names of the files in the RAM disk |
//! | [`trace`] | recorder | both | every heap call of a real program |
//! | [`address`] | kernel | host | where the kernel is in memory, and its main function |
//! | [`number`] | both | people | numbers with a comma between thousands |
//!
//! The crate allocates nothing and has no dependencies.
#![no_std]
#![deny(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod config;
pub mod exit;
pub mod number;
pub mod ramdisk;
pub mod record;
pub mod trace;
