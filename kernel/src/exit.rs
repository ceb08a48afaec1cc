//! Leaving QEMU with a status, through its `isa-debug-exit` device.

use x86_64::instructions::{hlt, interrupts, port::Port};

/// Where `isa-debug-exit` listens, as given to QEMU on its command line.
const PORT: u16 = 0xf4;

/// How the kernel ended. QEMU exits with status `2 * code + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitCode {
    /// Everything that was to be done succeeded.
    Success = 0x10,
    /// It ran to the end, but something failed.
    Failed = 0x11,
    /// It panicked.
    Panicked = 0x12,
    /// The CPU raised an exception that nothing handles.
    Faulted = 0x13,
    /// What the host or the bootloader handed over is damaged.
    Refused = 0x14,
}

/// Ends QEMU; on a machine without the device, halts.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    // SAFETY: the port belongs to the exit device or to nothing.
    unsafe { Port::new(PORT).write(code as u32) };
    loop {
        hlt();
    }
}
