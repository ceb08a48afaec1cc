//! Interrupts and exceptions of the one CPU that runs.
//!
//! What belongs to a CPU is in three places only: the descriptor tables and stacks in
//! [`gdt`], and the programmable interrupt controller behind [`timer`]. Another CPU needs its
//! own of the first two and its local APIC for the third.

#[cfg(target_os = "none")]
mod fault;
pub mod gdt;
#[cfg(target_os = "none")]
mod idt;
pub mod timer;

/// Loads the descriptor tables: from here on exceptions are reported. Interrupts stay masked.
pub(crate) fn init() {
    gdt::init();
    #[cfg(target_os = "none")]
    idt::init();
    timer::init();
}

/// Lets interrupts come.
pub fn enable() {
    x86_64::instructions::interrupts::enable();
}

/// Whether interrupts can come.
pub fn enabled() -> bool {
    x86_64::instructions::interrupts::are_enabled()
}
