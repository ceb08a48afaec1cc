//! The CPU of a kernel: its interrupt flag, its number, and its TLB.

#[cfg(feature = "smp")]
use core::{arch::asm, mem::offset_of};

#[cfg(feature = "smp")]
use x86_64::VirtAddr;
use x86_64::instructions::{interrupts, tlb};
#[cfg(feature = "smp")]
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::paging::page::PageRangeInclusive;

use crate::cpu_local::{CPUS, CpuLocal};
#[cfg(feature = "masked-time")]
use crate::sync::masked_time;

/// Returns what this CPU has for itself. Callers have masked interrupts, so that the code stays on
/// its CPU.
#[cfg(not(feature = "smp"))]
#[inline]
pub(crate) fn this_cpu() -> &'static CpuLocal {
    &CPUS[0]
}

/// What the `GS` base of a CPU leads to.
#[cfg(feature = "smp")]
#[repr(C)]
struct Part {
    cpu: &'static CpuLocal,
    /// The number of `cpu`, which the slabs need at each operation.
    number: usize,
}

#[cfg(feature = "smp")]
static PARTS: [Part; CPUS.len()] = {
    let mut parts = [const {
        Part {
            cpu: &CPUS[0],
            number: 0,
        }
    }; CPUS.len()];
    let mut number = 0;
    while number < CPUS.len() {
        parts[number].cpu = &CPUS[number];
        parts[number].number = number;
        number += 1;
    }
    parts
};

/// Returns what this CPU has for itself. Callers have masked interrupts, so that the code stays on
/// its CPU.
#[cfg(feature = "smp")]
#[inline]
pub(crate) fn this_cpu() -> &'static CpuLocal {
    let cpu: *const CpuLocal;
    // SAFETY: `set_this_cpu` has made the `GS` base the address of an element of `PARTS`, which
    // never changes. (Its caller guarantees that it is called first.)
    unsafe {
        asm!(
            "mov {}, gs:[{}]", out(reg) cpu, const offset_of!(Part, cpu),
            options(readonly, nostack, preserves_flags)
        );
    }
    // SAFETY: it is a reference to a static.
    unsafe { &*cpu }
}

/// Returns the number of this CPU, as [`this_cpu`] does.
#[cfg(feature = "smp")]
#[inline]
fn this_number() -> usize {
    let number;
    // SAFETY: as in `this_cpu`.
    unsafe {
        asm!(
            "mov {}, gs:[{}]", out(reg) number, const offset_of!(Part, number),
            options(readonly, nostack, preserves_flags)
        );
    }
    number
}

/// Returns the number of the only CPU.
#[cfg(not(feature = "smp"))]
#[inline]
fn this_number() -> usize {
    0
}

/// Makes this CPU the one with a number.
///
/// # Safety
/// The number is below that of [`CPUS`], and no other CPU has it. No other code changes the `GS`
/// base.
#[cfg(feature = "smp")]
pub(crate) unsafe fn set_this_cpu(number: usize) {
    GsBase::write(VirtAddr::from_ptr(&raw const PARTS[number]));
}

/// Masks interrupts until [`leave`] has been called as often as `enter`. Returns this CPU.
#[inline]
pub(crate) fn enter() -> &'static CpuLocal {
    let were_enabled = interrupts::are_enabled();
    if were_enabled {
        interrupts::disable();
    }
    let cpu = this_cpu();
    #[cfg(feature = "masked-time")]
    if were_enabled {
        masked_time::begin(cpu);
    }
    cpu.nesting.enter(were_enabled);
    cpu
}

/// Undoes one [`enter`].
#[inline]
pub(crate) fn leave() {
    let cpu = this_cpu();
    if cpu.nesting.leave() {
        #[cfg(feature = "masked-time")]
        masked_time::end(cpu);
        interrupts::enable();
    }
}

/// Panics: a CPU that waits for a lock that it holds itself waits for ever.
#[cold]
pub(crate) fn panic_on_self_deadlock() {
    panic!("this CPU waits for a lock that it holds itself");
}

/// Returns whether interrupts are enabled.
#[inline]
pub(crate) fn are_interrupts_enabled() -> bool {
    interrupts::are_enabled()
}

/// Runs `work` while interrupts are masked.
#[inline]
fn masked<R>(work: impl FnOnce() -> R) -> R {
    let were_enabled = interrupts::are_enabled();
    if were_enabled {
        interrupts::disable();
        #[cfg(feature = "masked-time")]
        masked_time::begin(this_cpu());
    }
    let result = work();
    if were_enabled {
        #[cfg(feature = "masked-time")]
        masked_time::end(this_cpu());
        interrupts::enable();
    }
    result
}

/// Runs `work` with this CPU while interrupts are masked.
#[cfg(feature = "smp")]
#[inline]
pub(crate) fn without_interrupts<R>(work: impl FnOnce(&'static CpuLocal) -> R) -> R {
    masked(|| work(this_cpu()))
}

/// Code that no other code interrupts.
pub(crate) struct Exclusion;

impl Exclusion {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Runs `work` with the number of this CPU while interrupts are masked.
    #[inline]
    pub(crate) fn run<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        masked(|| work(this_number()))
    }
}

/// Removes pages from the TLB of this CPU.
#[inline]
pub(crate) fn flush(pages: PageRangeInclusive) {
    for page in pages {
        tlb::flush(page.start_address());
    }
}

/// Removes all pages of the heap from the TLB of this CPU.
#[cfg(feature = "smp")]
pub(crate) fn flush_all() {
    tlb::flush_all();
}
