//! The demonstration.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use kernel::{Boot, exit::ExitCode, memory, println};

kernel::entry_point!(kernel_main);

#[cfg(target_os = "none")]
fn kernel_main(_boot: Boot) -> ExitCode {
    println!("{:?}", memory::frame_counters());
    ExitCode::Success
}
