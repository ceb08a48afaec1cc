//! What stands for the CPU in a program, for unit tests and documentation: a program has no
//! interrupts to mask, and no TLB to flush.

use x86_64::structures::paging::page::PageRangeInclusive;

/// Does nothing, besides counting for tests.
pub(crate) fn enter() {
    #[cfg(test)]
    DEPTH.with(|depth| depth.set(depth.get() + 1));
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
}

/// Does nothing: another thread may release the lock.
pub(crate) fn panic_on_self_deadlock() {}

pub(crate) fn are_interrupts_enabled() -> bool {
    true
}

/// Threads take turns as the only CPU.
pub(crate) struct Exclusion(spin::Mutex<()>);

impl Exclusion {
    pub(crate) const fn new() -> Self {
        Self(spin::Mutex::new(()))
    }

    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let _turn = self.0.lock();
        work()
    }
}

pub(crate) fn flush(_: PageRangeInclusive) {}
