//! Ends QEMU with a status, through its device `isa-debug-exit`.

use kernel_protocol::exit::PORT;
use x86_64::instructions::{hlt, interrupts, port::Port};

use crate::console;

pub use kernel_protocol::exit::ExitCode;

/// Ends QEMU with the status of `code`. On a machine without the device, halts the CPU.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    console::draw_all();
    // SAFETY: at this port is the exit device, or no device at all.
    unsafe { Port::new(PORT).write(code as u32) };
    loop {
        hlt();
    }
}
