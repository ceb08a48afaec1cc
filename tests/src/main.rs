//! The tests that run inside the kernel: one file a subject.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod faults;
#[cfg(target_os = "none")]
mod interrupts;

#[cfg(target_os = "none")]
fn kernel_main(boot: kernel::Boot) -> kernel::exit::ExitCode {
    kernel::testing::run(&boot.config)
}

kernel::entry_point!(kernel_main);
