//! The CPU of a kernel: its interrupt flag, its number, and its TLB.

#[cfg(feature = "smp")]
use core::arch::asm;

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

/// What the `GS` base of each CPU leads to.
#[cfg(feature = "smp")]
static PARTS: [&CpuLocal; CPUS.len()] = {
    let mut parts = [&CPUS[0]; CPUS.len()];
    let mut number = 0;
    while number < CPUS.len() {
        parts[number] = &CPUS[number];
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
        asm!("mov {}, gs:[0]", out(reg) cpu, options(readonly, nostack, preserves_flags));
    }
    // SAFETY: it is a reference to a static.
    unsafe { &*cpu }
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

/// Masks interrupts. Returns whether they were enabled: then [`unmask`] must follow.
#[inline]
fn mask() -> bool {
    let were_enabled = interrupts::are_enabled();
    if were_enabled {
        interrupts::disable();
        #[cfg(feature = "masked-time")]
        masked_time::begin(this_cpu());
    }
    were_enabled
}

/// Enables interrupts, which [`mask`] has masked.
#[inline]
fn unmask() {
    #[cfg(feature = "masked-time")]
    masked_time::end(this_cpu());
    interrupts::enable();
}

/// Masks interrupts until [`leave`] has been called as often as `enter`. Returns this CPU.
#[inline]
pub(crate) fn enter() -> &'static CpuLocal {
    let were_enabled = mask();
    let cpu = this_cpu();
    cpu.nesting.enter(were_enabled);
    cpu
}

/// Undoes one [`enter`].
#[inline]
pub(crate) fn leave() {
    if this_cpu().nesting.leave() {
        unmask();
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
///
/// The compiler copies `work` into both branches. With one copy, and a test of the flag behind it,
/// each operation on a slab takes three to five instructions more.
#[inline]
fn masked<R>(work: impl FnOnce() -> R) -> R {
    if !mask() {
        return work();
    }
    let result = work();
    unmask();
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
        masked(|| work(this_cpu().number))
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
