//! The tests that run inside the kernel, with one subject per file.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod allocate;
mod arena;
mod cpus;
mod exhaust;
mod failing;
mod faults;
mod grow;
#[cfg(feature = "hardened")]
mod hardened;
#[cfg(not(feature = "hardened"))]
mod heap_holes;
mod holes;
mod interrupts;
mod mapping;
// The hardened heap fills blocks while it is locked.
#[cfg(not(feature = "hardened"))]
mod masked;
mod programs;
mod regressions;
mod security;
mod shrink;
mod slabs;
mod storm;
mod support;
mod truncate;

use kernel::config::Mode;
use kernel::exit::ExitCode;

kernel::entry_point!(run);

fn run(boot: kernel::Boot) -> ExitCode {
    match boot.config.mode {
        Mode::Soak => kernel::testing::soak(&boot.config, programs::soak),
        _ => {
            kernel::println!(
                "refused: this image has only tests, which need `mode=test` or `mode=soak`"
            );
            ExitCode::Refused
        }
    }
}
