//! The demonstration: a recorded program on the kernel heap, a comparison with other allocators,
//! and a monitor.
#![warn(clippy::multiple_unsafe_ops_per_block)]
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod demo;

kernel::entry_point!(kernel_main);

fn kernel_main(boot: kernel::Boot) -> kernel::exit::ExitCode {
    use kernel::config::Mode;
    use kernel::exit::ExitCode;

    match boot.config.mode {
        Mode::Demo => demo::run(&boot.config, &boot.ramdisk),
        Mode::Test | Mode::Soak => {
            kernel::println!(
                "refused: this image has no tests; the package `kernel-tests` has them"
            );
            ExitCode::Refused
        }
    }
}
