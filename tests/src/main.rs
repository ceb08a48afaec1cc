//! The tests that run inside the kernel: one file a subject.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod allocate;
mod arena;
mod faults;
mod grow;
mod interrupts;
mod shrink;
mod support;
mod truncate;

kernel::entry_point!(run);

fn run(boot: kernel::Boot) -> kernel::exit::ExitCode {
    kernel::testing::run(&boot.config)
}
