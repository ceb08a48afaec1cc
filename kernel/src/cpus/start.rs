//! Starts the other CPUs.
//!
//! A CPU starts in 16-bit mode, in a page below 1 MiB. `trampoline.rs` brings it from there to
//! [`enter`], in 64-bit mode, one CPU after the other.

mod trampoline;

use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

use bootloader_api::info::MemoryRegion;
use heap_x86_64::smp;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use super::{MAX_CPUS, run};
use crate::acpi::{self, AcpiError};
use crate::heap::HEAP;
use crate::interrupts::{self, apic, local_timer, timer};
use crate::memory::stacks;
use crate::{println, time_stamp};
use trampoline::Trampoline;

/// How long a CPU may take until it runs, in milliseconds. Working ones take one.
const PATIENCE: u32 = 100;

/// How long a CPU may take that has begun to run the trampoline.
const PATIENCE_FOR_STARTED: u32 = 1000;

/// The number of CPUs that have arrived in the kernel, with the one that boots.
static ARRIVED: AtomicUsize = AtomicUsize::new(1);

/// Why the kernel goes on with one CPU.
enum Unable {
    Acpi(AcpiError),
    NoApic,
    NoLowMemory,
    NoTimer,
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acpi(error) => error.fmt(f),
            Self::NoApic => f.write_str("the boot CPU has no local APIC that is switched on"),
            Self::NoTimer => f.write_str("the timer (PIT) does not interrupt"),
            Self::NoLowMemory => f.write_str("no memory is free below 1 MiB"),
        }
    }
}

/// Why one CPU does not run.
enum Failed {
    OutOfReach,
    NoMemory(heap::vmem::Error),
    NotStarted,
    /// It has begun to start, and uses the trampoline.
    Stuck,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach => f.write_str("commands cannot reach it"),
            Self::NoMemory(error) => write!(f, "no memory for its stacks: {error}"),
            Self::NotStarted => f.write_str("it does not start"),
            Self::Stuck => f.write_str("it has begun to start, and not arrived"),
        }
    }
}

/// Starts all CPUs of a machine that has several. Prints a line for each that does not start, and
/// one if none can be started.
pub(crate) fn start_all(memory_map: &[MemoryRegion]) {
    if let Err(why) = try_start_all(memory_map) {
        println!("The kernel runs on one CPU: {why}.");
    }
}

fn try_start_all(memory_map: &[MemoryRegion]) -> Result<(), Unable> {
    let cpus = acpi::tables().and_then(|tables| tables.cpus());
    let cpus = cpus.map_err(Unable::Acpi)?;
    if cpus.apic_ids().len() <= 1 {
        return Ok(());
    }
    apic::init().map_err(|_| Unable::NoApic)?;
    let trampoline = Trampoline::new(memory_map).ok_or(Unable::NoLowMemory)?;
    smp::set_interrupt(apic::interrupt);
    smp::set_reap(|| HEAP.reap_own());
    let ticks = Milliseconds::start().ok_or(Unable::NoTimer)?;
    ticks.wait(0);
    local_timer::calibrate(|| {
        // From the tick that has just come to the tenth after it.
        ticks.wait(9);
        10
    });
    let boot_id = apic::this_id();
    let others = || {
        let ids = cpus.apic_ids().iter().copied();
        ids.filter(move |&id| Some(id) != boot_id)
    };
    let left_out = others().count().saturating_sub(MAX_CPUS - 1) + cpus.left_out();
    for id in others().take(MAX_CPUS - 1) {
        match start(id, &trampoline, &ticks) {
            Ok(()) => {}
            Err(failed) => {
                println!("The CPU with the local APIC {id} does not run: {failed}.");
                if matches!(failed, Failed::Stuck) {
                    break;
                }
            }
        }
    }
    if left_out > 0 {
        println!("{left_out} CPUs do not run: the kernel uses {MAX_CPUS}.");
    }
    Ok(())
}

/// Starts the CPU whose local APIC is `id`, and waits until it runs.
fn start(id: u32, trampoline: &Trampoline, ticks: &Milliseconds) -> Result<(), Failed> {
    if !apic::can_reach(id) {
        return Err(Failed::OutOfReach);
    }
    let number = ARRIVED.load(Ordering::Relaxed);
    let stack = stacks::allocate(number).map_err(Failed::NoMemory)?;
    trampoline.prepare(number, stack, enter);
    let has_arrived = || ARRIVED.load(Ordering::Acquire) > number;
    // SAFETY: the firmware has left the CPU halted, and it runs no code of this kernel.
    unsafe { apic::reset(id) };
    ticks.wait(10);
    // The second command is for a CPU that has missed the first.
    for _ in 0..2 {
        // SAFETY: the trampoline is at this page, and its parameters are those of this CPU.
        unsafe { apic::start(id, trampoline.page()) };
        if ticks.wait_until(PATIENCE, has_arrived) {
            return Ok(());
        }
    }
    if trampoline.cancel() {
        return Err(Failed::NotStarted);
    }
    match ticks.wait_until(PATIENCE_FOR_STARTED, has_arrived) {
        true => Ok(()),
        false => Err(Failed::Stuck),
    }
}

/// Where a CPU arrives from the trampoline, in 64-bit mode, on its stack.
extern "C" fn enter(number: usize, level_4_table: u64) -> ! {
    let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(level_4_table));
    // SAFETY: these are the page tables of the kernel, which map all that the CPU uses.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
    // SAFETY: interrupts are masked, and `start` gives each CPU a number of its own. No other code
    // uses `GS`. What follows uses statics, and the CPU's stack, which is never unmapped.
    unsafe { smp::set_number(number) };
    interrupts::init_cpu(number);
    apic::init_cpu(number);
    // SAFETY: the CPU has handlers, and its interrupt controller is on. It runs until the kernel
    // ends.
    unsafe { smp::start_cpu() };
    ARRIVED.store(number + 1, Ordering::Release);
    run()
}

/// The timer interrupt, at 1000 hertz.
struct Milliseconds;

impl Milliseconds {
    /// Returns `None` if the timer does not tick.
    fn start() -> Option<Self> {
        /// Half a second or more, in ticks of the time-stamp counter. (Where it counts
        /// instructions, many times as many as are needed.)
        const LIMIT: u64 = 1 << 32;

        timer::start(1000);
        let this = Self;
        let (began, ticks) = (time_stamp(), timer::ticks());
        while timer::ticks() == ticks {
            if time_stamp() - began > LIMIT {
                return None;
            }
            spin_loop();
        }
        Some(this)
    }

    /// Waits for at least `ms` milliseconds, until a tick.
    fn wait(&self, ms: u32) {
        self.wait_until(ms, || false);
    }

    /// Waits until `condition` is true, or for at least `ms` milliseconds. Returns whether it is
    /// true.
    fn wait_until(&self, ms: u32, condition: impl Fn() -> bool) -> bool {
        let end = timer::ticks() + u64::from(ms) + 1;
        interrupts::wait_until(|| {
            let is_true = condition();
            (is_true || timer::ticks() >= end).then_some(is_true)
        })
    }
}

impl Drop for Milliseconds {
    fn drop(&mut self) {
        timer::stop();
    }
}
