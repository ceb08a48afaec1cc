//! The CPU of a kernel: its interrupt flag, and its TLB.

use x86_64::instructions::{interrupts, tlb};
use x86_64::structures::paging::page::PageRangeInclusive;

use crate::sync::Nesting;
#[cfg(feature = "masked-time")]
use crate::sync::masked_time;

/// Returns the count of this CPU, the only one. With more, each CPU needs a count of its own, which
/// this function finds by the `GS` base, for instance. Callers have masked interrupts, so that the
/// code stays on its CPU.
#[inline]
fn this_cpu() -> &'static Nesting {
    static ONLY_CPU: Nesting = Nesting::new();
    &ONLY_CPU
}

/// Masks interrupts until [`leave`] has been called as often as `enter`.
#[inline]
pub(crate) fn enter() {
    let were_enabled = interrupts::are_enabled();
    if were_enabled {
        interrupts::disable();
        #[cfg(feature = "masked-time")]
        masked_time::begin();
    }
    this_cpu().enter(were_enabled);
}

/// Undoes one [`enter`].
#[inline]
pub(crate) fn leave() {
    if this_cpu().leave() {
        #[cfg(feature = "masked-time")]
        masked_time::end();
        interrupts::enable();
    }
}

/// Panics: on a machine with one CPU, a CPU that waits for a lock holds that lock itself.
#[cold]
pub(crate) fn panic_on_self_deadlock() {
    panic!("this CPU waits for a lock that it holds itself");
}

/// Returns whether interrupts are enabled.
#[inline]
pub(crate) fn are_interrupts_enabled() -> bool {
    interrupts::are_enabled()
}

/// Code that no other code interrupts.
pub(crate) struct Exclusion;

impl Exclusion {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Runs `work` while interrupts are masked.
    #[inline]
    pub(crate) fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        #[cfg(feature = "masked-time")]
        return masked_time::without_interrupts(work);
        #[cfg(not(feature = "masked-time"))]
        interrupts::without_interrupts(work)
    }
}

/// Removes pages from the TLB of this CPU.
#[inline]
pub(crate) fn flush(pages: PageRangeInclusive) {
    for page in pages {
        tlb::flush(page.start_address());
    }
}
