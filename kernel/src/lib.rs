//! What a kernel forked from this one starts from.
//!
//! | module | what it is |
//! |---|---|
//! | [`serial`], [`print!`], [`println!`] | what the kernel says and the host types |
//! | [`sync`] | locks that interrupt handlers may take too |
//! | [`interrupts`] | exceptions, their reports, and the timer |
//! | [`entropy`] | where randomness comes from |
//! | [`memory`] | frames, page tables, and the pages of the heap |
//! | [`ramdisk`], [`config`], [`trace`] | what the host hands over |
//! | [`testing`] | the harness of the tests that run inside the kernel |
//! | [`exit`](mod@exit), [`panic`](mod@panic) | how it ends |
//!
//! A kernel names its main function with [`entry_point!`]. Everything is compiled on the host too,
//! for its documentation and for the tests of what does not need the machine.
#![deny(missing_docs)]
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_os = "none", feature(abi_x86_interrupt))]

extern crate alloc;

pub mod audit;
mod boot;
pub mod config;
pub mod entropy;
pub mod exit;
pub mod heap;
pub mod interrupts;
pub mod memory;
pub mod panic;
pub mod ramdisk;
pub mod serial;
pub mod sync;
pub mod testing;
pub mod text;
pub mod trace;

pub use boot::{BOOTLOADER_CONFIG, Boot, InitError, init};

#[doc(hidden)]
pub use bootloader_api;
#[doc(hidden)]
pub use linkme;

/// Makes a program a kernel whose main function is `$main`, a `fn(kernel::Boot) -> ExitCode`.
///
/// The program is `no_std` and `no_main` on the kernel's target. On the host, where workspaces are
/// built as a whole, it is a program that says how to run the kernel.
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        #[cfg(target_os = "none")]
        const _: () = {
            use $crate::bootloader_api;

            bootloader_api::entry_point!(start, config = &$crate::BOOTLOADER_CONFIG);

            fn start(boot_info: &'static mut bootloader_api::BootInfo) -> ! {
                let main: fn($crate::Boot) -> $crate::exit::ExitCode = $main;
                // SAFETY: this is the only entry, and the bootloader made the boot information.
                let code = match unsafe { $crate::init(boot_info) } {
                    Ok(boot) => main(boot),
                    Err(error) => {
                        $crate::println!("refused: {error}");
                        $crate::exit::ExitCode::Refused
                    }
                };
                $crate::exit::exit(code)
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
