//! What stands for the CPU in a program, for unit tests and documentation: a program has no
//! interrupts to mask, and no TLB to flush.

use x86_64::structures::paging::page::PageRangeInclusive;

use crate::cpu_local::{CPUS, CpuLocal};

/// Returns the first CPU, or the one that a test has made this thread.
pub(crate) fn this_cpu() -> &'static CpuLocal {
    #[cfg(test)]
    let number = NUMBER.with(|number| number.get());
    #[cfg(not(test))]
    let number = 0;
    &CPUS[number]
}

/// Does nothing, besides counting for tests. Returns this CPU.
pub(crate) fn enter() -> &'static CpuLocal {
    #[cfg(test)]
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    this_cpu()
}

/// Does nothing, besides counting for tests.
pub(crate) fn leave() {
    #[cfg(test)]
    DEPTH.with(|depth| depth.set(depth.get() - 1));
}

#[cfg(test)]
std::thread_local! {
    /// How often this thread has entered and not left.
    pub(crate) static DEPTH: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
    /// The number of the CPU that this thread stands for.
    static NUMBER: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// The pages that were flushed, and the CPUs that they were flushed on.
#[cfg(all(test, feature = "smp"))]
pub(crate) static FLUSHED: spin::Mutex<std::vec::Vec<(usize, u64)>> =
    spin::Mutex::new(std::vec::Vec::new());

/// Makes this thread stand for a CPU.
///
/// # Safety
/// None: a program has no CPU of its own.
#[cfg(feature = "smp")]
pub(crate) unsafe fn set_this_cpu(_number: usize) {
    #[cfg(test)]
    NUMBER.with(|number| number.set(_number));
}

/// Does nothing: another thread may release the lock.
pub(crate) fn panic_on_self_deadlock() {}

pub(crate) fn are_interrupts_enabled() -> bool {
    true
}

/// Runs `work` with this CPU.
#[cfg(feature = "smp")]
pub(crate) fn without_interrupts<R>(work: impl FnOnce(&'static CpuLocal) -> R) -> R {
    work(this_cpu())
}

/// Threads take turns as the first CPU.
pub(crate) struct Exclusion(spin::Mutex<()>);

impl Exclusion {
    pub(crate) const fn new() -> Self {
        Self(spin::Mutex::new(()))
    }

    pub(crate) fn run<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        let _turn = self.0.lock();
        work(0)
    }
}

pub(crate) fn flush(_pages: PageRangeInclusive) {
    #[cfg(all(test, feature = "smp"))]
    FLUSHED
        .lock()
        .extend(_pages.map(|page| (this_cpu().number, page.start_address().as_u64())));
}

#[cfg(feature = "smp")]
pub(crate) fn flush_all() {}
