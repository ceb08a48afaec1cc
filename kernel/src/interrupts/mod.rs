//! Interrupts and exceptions.
//!
//! [`register`] sets the handler of a device's interrupts, and [`timer`] has the timer's. Both come
//! to the CPU that boots. Interrupts between CPUs go through the local interrupt controllers, in
//! `apic.rs`.
//!
//! Each CPU has descriptor tables, in `gdt.rs`, and [interrupt stacks](crate::memory::stacks) of
//! its own. All share the table of handlers, in `idt.rs`.

pub(crate) mod apic;
#[cfg(target_os = "none")]
mod fault;
mod gdt;
#[cfg(target_os = "none")]
mod idt;
mod irq;
pub mod local_timer;
pub mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

use crate::cpus::BOOT_CPU;

pub use irq::{Irq, IrqInUse, register, unregister};

/// The address after the last breakpoint; 0 before the first.
static LAST_BREAKPOINT: AtomicU64 = AtomicU64::new(0);

/// Loads the descriptor tables, so that exceptions are reported. Interrupts stay masked.
pub(crate) fn init() {
    init_cpu(BOOT_CPU);
    irq::init();
}

/// Loads the descriptor tables of the CPU `number`, which runs this code.
pub(crate) fn init_cpu(number: usize) {
    gdt::init(number);
    #[cfg(target_os = "none")]
    idt::init();
}

/// Enables interrupts.
pub fn enable() {
    heap_x86_64::sync::InterruptsEnabled::note();
    x86_64::instructions::interrupts::enable();
}

/// Calls `condition` until it returns a value, and returns the value. Halts the CPU between calls,
/// until the next interrupt: a handler on this CPU makes the condition true, or code that then
/// [wakes](crate::cpus::wake) this CPU. (Interrupts of devices and of the [`timer`] come to the CPU
/// that boots.)
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
