//! Interrupts and exceptions of the one CPU that the kernel runs on.
//!
//! [`register`] sets the handler of a device's interrupts, and [`timer`] has the timer's.
//!
//! Three places hold the state of a CPU: the descriptor tables in `gdt.rs`, the
//! [interrupt stacks](crate::memory::stacks), and the programmable interrupt controllers in
//! `irq.rs`. Another CPU needs a copy of the first two, and its local APIC instead of the third.

#[cfg(target_os = "none")]
mod fault;
mod gdt;
#[cfg(target_os = "none")]
mod idt;
mod irq;
pub mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

pub use irq::{Irq, IrqInUse, register, unregister};

/// The address after the last breakpoint; 0 before the first.
static LAST_BREAKPOINT: AtomicU64 = AtomicU64::new(0);

/// Loads the descriptor tables, so that exceptions are reported. Interrupts stay masked.
pub(crate) fn init() {
    gdt::init();
    #[cfg(target_os = "none")]
    idt::init();
    irq::init();
}

/// Enables interrupts.
pub fn enable() {
    heap_x86_64::sync::InterruptsEnabled::note();
    x86_64::instructions::interrupts::enable();
}

/// Calls `condition` until it returns a value, and returns the value. Halts the CPU between calls,
/// until the next interrupt: a handler makes the condition true.
///
/// `condition` is called with interrupts masked, so that no handler runs between the call and the
/// halt. Interrupts are enabled meanwhile, and on return: the caller holds no
/// [`InterruptMutex`](crate::sync::InterruptMutex), and the guard of one is no value to return.
pub fn wait_until<T: Send>(mut condition: impl FnMut() -> Option<T>) -> T {
    use x86_64::instructions::interrupts::{disable, enable_and_hlt};

    loop {
        disable();
        if let Some(value) = condition() {
            enable();
            return value;
        }
        enable_and_hlt();
    }
}

/// Returns whether interrupts are enabled.
pub fn enabled() -> bool {
    x86_64::instructions::interrupts::are_enabled()
}

/// Returns the address of the instruction after the last breakpoint that was reported.
pub fn last_breakpoint() -> Option<VirtAddr> {
    match LAST_BREAKPOINT.load(Ordering::Relaxed) {
        0 => None,
        address => Some(VirtAddr::new(address)),
    }
}
