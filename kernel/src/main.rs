//! The demonstration: a recorded program on the kernel heap, a comparison with other allocators,
//! and a monitor.
#![warn(clippy::multiple_unsafe_ops_per_block)]
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod demo;

kernel::entry_point!(kernel_main);

fn kernel_main(boot: kernel::Boot) -> kernel::exit::ExitCode {
    demo::run(&boot.config, &boot.ramdisk)
}
