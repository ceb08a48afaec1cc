//! Ends QEMU with a status, through its device `isa-debug-exit`.

use core::sync::atomic::{AtomicBool, Ordering};

use kernel_protocol::exit::PORT;
use x86_64::instructions::{hlt, interrupts, port::Port};

use crate::{console, serial};

pub use kernel_protocol::exit::ExitCode;

/// Whether the host wants to take a picture of the screen before the end.
static HOLD: AtomicBool = AtomicBool::new(false);

/// Makes [`exit`] wait for the host.
pub(crate) fn hold_before_exit() {
    HOLD.store(true, Ordering::Relaxed);
}

/// Ends QEMU with the status of `code`. On a machine without the device, halts all CPUs.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    crate::panic::stop_others();
    console::draw_all();
    if HOLD.swap(false, Ordering::Relaxed) {
        serial::hold_unlocked();
    }
    // SAFETY: at this port is the exit device, or no device at all.
    unsafe { Port::new(PORT).write(code as u32) };
    halt()
}

/// Halts this CPU for ever.
pub(crate) fn halt() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}
