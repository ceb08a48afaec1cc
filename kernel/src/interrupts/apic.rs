//! The local APIC: each CPU's interrupt controller, through which CPUs interrupt each other.
//!
//! Devices keep the two 8259 controllers, whose interrupts the boot CPU's local APIC passes on.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, chapter
//! "Advanced Programmable Interrupt Controller (APIC)".

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::hint::spin_loop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use spin::Once;
use x86_64::PhysAddr;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::model_specific::Msr;

use crate::cpus::{BOOT_CPU, MAX_CPUS};
use crate::memory::physical;

/// The vector of interrupts for [`heap_x86_64::smp::handle_interrupt`], which also wake a CPU that
/// halts.
pub(super) const CALL_VECTOR: u8 = 0xf0;
/// The vector of the timer of each CPU.
pub(super) const TIMER_VECTOR: u8 = 0xf1;
/// The vector of interrupts that were taken back.
pub(super) const SPURIOUS_VECTOR: u8 = 0xff;

/// The offsets of the registers in bytes, which are multiples of 16.
mod register {
    pub(super) const ID: u32 = 0x20;
    pub(super) const TASK_PRIORITY: u32 = 0x80;
    #[cfg(target_os = "none")]
    pub(super) const END_OF_INTERRUPT: u32 = 0xb0;
    pub(super) const SPURIOUS: u32 = 0xf0;
    pub(super) const COMMAND: u32 = 0x300;
    pub(super) const COMMAND_HIGH: u32 = 0x310;
    pub(super) const TIMER: u32 = 0x320;
    pub(super) const LINE_0: u32 = 0x350;
    pub(super) const LINE_1: u32 = 0x360;
    pub(super) const TIMER_START: u32 = 0x380;
    pub(super) const TIMER_NOW: u32 = 0x390;
    pub(super) const TIMER_DIVISOR: u32 = 0x3e0;
}

/// The bit of the register [`SPURIOUS`](register::SPURIOUS) that switches the controller on.
const ENABLED: u32 = 1 << 8;
/// The bit of a line or of the timer that masks it.
const MASKED: u32 = 1 << 16;
/// The bit of the timer that makes it periodic.
const PERIODIC: u32 = 1 << 17;
/// A line that passes on the interrupts of the 8259 controllers.
const EXTERNAL: u32 = 7 << 8;
/// A line, or a command, of a non-maskable interrupt.
const NON_MASKABLE: u32 = 4 << 8;
/// A command that resets a CPU.
const INIT: u32 = 5 << 8;
/// A command that starts a CPU that was reset, at the page that the vector names.
const START: u32 = 6 << 8;
/// The level of all commands but one that no current CPU needs.
const ASSERT: u32 = 1 << 14;
/// The bit of [`COMMAND`](register::COMMAND) that says that a command was not accepted yet.
const PENDING: u32 = 1 << 12;

/// How a CPU reaches the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// In memory, at the same address on each CPU (xAPIC).
    Memory(PhysAddr),
    /// As model-specific registers (x2APIC).
    Registers,
}

static ACCESS: Once<Access> = Once::new();

/// The numbers of the CPUs' controllers.
static IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

impl Access {
    /// Decides by the value of the register `IA32_APIC_BASE`. `None` if the controller is off.
    fn of_base(base: u64) -> Option<Self> {
        const X2APIC: u64 = 1 << 10;
        const ON: u64 = 1 << 11;

        match (base & ON != 0, base & X2APIC != 0) {
            (false, _) => None,
            (true, true) => Some(Self::Registers),
            (true, false) => Some(Self::Memory(PhysAddr::new_truncate(base & !0xfff))),
        }
    }

    fn pointer(address: PhysAddr, register: u32) -> NonNull<u32> {
        physical::pointer(address + u64::from(register))
    }

    /// Returns the model-specific register that takes the place of one in memory.
    const fn msr(register: u32) -> Msr {
        Msr::new(0x800 + (register >> 4))
    }

    fn read(self, register: u32) -> u32 {
        match self {
            // SAFETY: the registers are mapped, as all physical memory below 4 GiB.
            Self::Memory(address) => unsafe { Self::pointer(address, register).read_volatile() },
            // SAFETY: the CPU has these registers in this mode. The callers read none whose reading
            // has an effect.
            Self::Registers => unsafe { Self::msr(register).read() as u32 },
        }
    }

    /// # Safety
    /// The value is a valid one for the register, and the interrupts that it leads to are handled.
    unsafe fn write(self, register: u32, value: u32) {
        match self {
            // SAFETY: the registers are mapped. The caller guarantees the value.
            Self::Memory(address) => unsafe {
                Self::pointer(address, register).write_volatile(value);
            },
            // SAFETY: the CPU has these registers in this mode. The caller guarantees the value.
            Self::Registers => unsafe { Self::msr(register).write(value.into()) },
        }
    }

    /// Returns the number of this CPU's controller.
    fn id(self) -> u32 {
        match self {
            Self::Memory(_) => self.read(register::ID) >> 24,
            Self::Registers => self.read(register::ID),
        }
    }

    /// Sends `command` to the controller `id`.
    ///
    /// # Safety
    /// The interrupt that it leads to is handled.
    unsafe fn send(self, id: u32, command: u32) {
        match self {
            // The two halves belong together.
            Self::Memory(_) => without_interrupts(|| {
                self.wait_until_accepted();
                // SAFETY: the register takes a number of a controller.
                unsafe { self.write(register::COMMAND_HIGH, id << 24) };
                // SAFETY: the caller guarantees that the interrupt is handled.
                unsafe { self.write(register::COMMAND, command) };
            }),
            Self::Registers => {
                // What was written before must be visible first: this register does not wait.
                // SAFETY: fences change nothing.
                unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
                // SAFETY: the caller guarantees that the interrupt is handled.
                unsafe {
                    Self::msr(register::COMMAND).write(u64::from(id) << 32 | u64::from(command));
                }
            }
        }
    }

    /// Waits until the last command was accepted: for a few cycles, if at all.
    fn wait_until_accepted(self) {
        /// More turns than a working machine needs.
        const MOST: u32 = 1_000_000;

        for _ in 0..MOST {
            if self.read(register::COMMAND) & PENDING == 0 {
                return;
            }
            spin_loop();
        }
    }
}

/// Why CPUs of a machine cannot interrupt each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoApic;

/// Switches on the controller of the boot CPU, which runs this code.
///
/// # Errors
/// Returns an error if the CPU has none, or the firmware has switched it off.
pub(crate) fn init() -> Result<(), NoApic> {
    /// The bit of leaf 1 of `cpuid`, register EDX, that says whether there is a controller.
    const APIC: u32 = 1 << 9;
    /// The register `IA32_APIC_BASE`.
    const BASE: Msr = Msr::new(0x1b);

    if __cpuid(1).edx & APIC == 0 {
        return Err(NoApic);
    }
    // SAFETY: a CPU with a controller has this register.
    let access = Access::of_base(unsafe { BASE.read() }).ok_or(NoApic)?;
    ACCESS.call_once(|| access);
    init_cpu(BOOT_CPU);
    Ok(())
}

/// Switches on the controller of the CPU `number`, which runs this code. Does nothing before
/// [`init`].
pub(crate) fn init_cpu(number: usize) {
    let Some(access) = ACCESS.get() else { return };
    IDS[number].store(access.id(), Relaxed);
    // One CPU handles the interrupts of devices.
    let line_0 = if number == BOOT_CPU { EXTERNAL } else { MASKED };
    for (register, value) in [
        (register::TASK_PRIORITY, 0),
        (register::TIMER, MASKED | u32::from(TIMER_VECTOR)),
        (register::SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR)),
        (register::LINE_0, line_0),
        (register::LINE_1, NON_MASKABLE),
    ] {
        // SAFETY: the values are valid, and each vector has a handler.
        unsafe { access.write(register, value) };
    }
}

/// Returns the number of this CPU's controller. `None` before [`init`].
pub(crate) fn this_id() -> Option<u32> {
    Some(ACCESS.get()?.id())
}

/// Returns whether commands can be sent to the controller `id`: in memory, the registers have eight
/// bits for its number, one of which stands for all controllers.
pub(crate) fn can_reach(id: u32) -> bool {
    id < 0xff || ACCESS.get() == Some(&Access::Registers)
}

/// Interrupts the CPU `number`: it calls [`heap_x86_64::smp::handle_interrupt`].
pub(crate) fn interrupt(number: usize) {
    send(number, ASSERT | u32::from(CALL_VECTOR));
}

/// Sends the CPU `number` a non-maskable interrupt.
pub(crate) fn interrupt_non_maskable(number: usize) {
    send(number, ASSERT | NON_MASKABLE);
}

/// Sends `command`, which leads to an interrupt that has a handler, to the CPU `number`.
fn send(number: usize, command: u32) {
    if let Some(access) = ACCESS.get() {
        // SAFETY: the callers' commands lead to interrupts that have a handler.
        unsafe { access.send(IDS[number].load(Relaxed), command) };
    }
}

/// Resets the CPU whose controller is `id`.
///
/// # Safety
/// No code runs on that CPU.
pub(crate) unsafe fn reset(id: u32) {
    if let Some(access) = ACCESS.get() {
        // SAFETY: the caller guarantees that nothing is lost.
        unsafe { access.send(id, ASSERT | INIT) };
    }
}

/// Starts the CPU whose controller is `id`, if it was reset, at the physical address `page`, in
/// 16-bit mode. A CPU that runs ignores it.
///
/// # Panics
/// Panics unless `page` is a multiple of 4096 below 1 MiB.
///
/// # Safety
/// At `page` is code that starts a CPU.
pub(crate) unsafe fn start(id: u32, page: PhysAddr) {
    let number = page.as_u64() / 4096;
    assert!(page.is_aligned(4096_u64) && number < 256);
    if let Some(access) = ACCESS.get() {
        // SAFETY: the caller guarantees that the code is there.
        unsafe { access.send(id, ASSERT | START | number as u32) };
    }
}

/// Tells the controller of this CPU that the interrupt in service was handled.
#[cfg(target_os = "none")]
pub(super) fn end_of_interrupt() {
    if let Some(access) = ACCESS.get() {
        // SAFETY: the callers handle an interrupt of the controller.
        unsafe { access.write(register::END_OF_INTERRUPT, 0) };
    }
}

/// Starts this CPU's timer, which counts down from `count` to 0 again and again, at a sixteenth of
/// its clock. Returns whether there is one.
pub(super) fn start_timer(count: u32) -> bool {
    /// The value that stands for a sixteenth.
    const SIXTEENTH: u32 = 0b0011;

    let Some(access) = ACCESS.get() else {
        return false;
    };
    for (register, value) in [
        (register::TIMER_DIVISOR, SIXTEENTH),
        (register::TIMER, PERIODIC | u32::from(TIMER_VECTOR)),
        (register::TIMER_START, count),
    ] {
        // SAFETY: the values are valid, and the vector has a handler.
        unsafe { access.write(register, value) };
    }
    true
}

/// Stops this CPU's timer.
pub(super) fn stop_timer() {
    if let Some(access) = ACCESS.get() {
        // SAFETY: 0 stops the timer.
        unsafe { access.write(register::TIMER_START, 0) };
    }
}

/// Returns the count of this CPU's timer.
pub(super) fn timer_count() -> u32 {
    ACCESS
        .get()
        .map_or(0, |access| access.read(register::TIMER_NOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_are_where_the_cpu_says() {
        assert_eq!(Access::of_base(0xfee0_0100), None);
        let memory = Access::Memory(PhysAddr::new(0xfee0_0000));
        assert_eq!(Access::of_base(0xfee0_0900), Some(memory));
        assert_eq!(Access::of_base(0xfee0_0d00), Some(Access::Registers));
    }
}
