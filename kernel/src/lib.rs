//! The library that kernels forked from this one start from.
//!
//! | module | contents |
//! |---|---|
//! | [`serial`], [`print!`], [`println!`] | output to the host, and its input |
//! | [`console`], [`framebuffer`] | the same output on the screen, and pictures |
//! | [`sync`] | locks that interrupt handlers may take |
//! | [`interrupts`] | exceptions, their reports, and the timer interrupt |
//! | [`cpus`] | the CPUs of the machine, and work for them |
//! | [`entropy`] | seeds for randomness |
//! | [`memory`] | frames, page tables, and the pages of the heap |
//! | [`heap`](mod@heap), [`audit`] | the global allocator, and a comparison of all layers |
//! | [`ramdisk`], [`config`], [`trace`] | data from the host |
//! | [`testing`] | the harness of the in-kernel tests |
//! | [`exit`](mod@exit), [`panic`](mod@panic), [`backtrace`] | how the kernel ends |
//!
//! A kernel names its main function with [`entry_point!`]. The library compiles on the host too:
//! for its documentation, and for unit tests of the parts that need no machine.
#![warn(clippy::multiple_unsafe_ops_per_block)]
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_os = "none", feature(abi_x86_interrupt))]

extern crate alloc;

pub mod acpi;
pub mod audit;
pub mod backtrace;
mod boot;
pub mod console;
pub mod cpus;
pub mod entropy;
pub mod exit;
pub mod framebuffer;
pub mod heap;
pub mod interrupts;
pub mod line_editor;
pub mod memory;
pub mod panic;
pub mod ramdisk;
pub mod serial;
pub mod sync;
pub mod testing;
pub mod text;

pub use boot::{BOOTLOADER_CONFIG, Boot, Firmware, InitError, init};
pub use heap_x86_64::time_stamp;
pub use kernel_protocol::{config, trace};

/// Ports, registers and page tables of the CPU.
pub use x86_64;

#[doc(hidden)]
pub use bootloader_api;
#[doc(hidden)]
pub use linkme;

/// Makes a program a kernel with the main function `$main`, a `fn(kernel::Boot) -> ExitCode`.
///
/// If the host asks for the tests of the program, [`testing::run`] runs instead of `$main`.
///
/// On the kernel's target the program must be `no_std` and `no_main`. On the host, where Cargo
/// builds whole workspaces, the program prints how to run the kernel.
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        #[cfg(target_os = "none")]
        const _: () = {
            use $crate::bootloader_api;

            bootloader_api::entry_point!(start, config = &$crate::BOOTLOADER_CONFIG);

            fn start(boot_info: &'static mut bootloader_api::BootInfo) -> ! {
                // SAFETY: the bootloader made the boot information with this configuration, and
                // enters the kernel once, here.
                let code = match unsafe { $crate::init(boot_info) } {
                    Ok(boot) if boot.config.mode == $crate::config::Mode::Test => {
                        $crate::testing::run(&boot.config, ::core::module_path!())
                    }
                    Ok(boot) => call_kernel_main(boot),
                    Err(error) => {
                        $crate::println!("refused: {error}");
                        $crate::exit::ExitCode::Refused
                    }
                };
                $crate::exit::exit(code)
            }

            // The host names this function to gdb: it is `kernel_protocol::address::KERNEL_MAIN`.
            // SAFETY: a kernel has one entry point, so no other function has this name.
            #[unsafe(no_mangle)]
            #[inline(never)]
            fn call_kernel_main(boot: $crate::Boot) -> $crate::exit::ExitCode {
                $main(boot)
            }

            #[panic_handler]
            fn panic(info: &::core::panic::PanicInfo) -> ! {
                $crate::panic::panicked(info)
            }
        };

        #[cfg(not(target_os = "none"))]
        fn main() -> ::std::process::ExitCode {
            let _: fn($crate::Boot) -> $crate::exit::ExitCode = $main;
            ::std::eprintln!("This is a kernel. `./run-qemu.sh` boots it in QEMU.");
            ::std::process::ExitCode::FAILURE
        }
    };
}
