//! What each CPU has for itself.

#[cfg(all(feature = "masked-time", not(any(unix, windows))))]
use core::sync::atomic::AtomicU64;

#[cfg(feature = "smp")]
use crate::smp::{Counts, Inboxes};
#[cfg(not(any(unix, windows)))]
use crate::sync::Nesting;

/// The number of CPUs that can use the crate: 16 with the feature `smp`, or else 1.
pub(crate) const MAX_CPUS: usize = if cfg!(feature = "smp") { 16 } else { 1 };

/// What one CPU has for itself.
pub(crate) struct CpuLocal {
    pub(crate) number: usize,
    /// The locks that the CPU holds.
    #[cfg(not(any(unix, windows)))]
    pub(crate) nesting: Nesting,
    /// When its interrupts were masked.
    #[cfg(all(feature = "masked-time", not(any(unix, windows))))]
    pub(crate) masked_since: AtomicU64,
    /// What other CPUs want of it.
    #[cfg(feature = "smp")]
    pub(crate) inboxes: Inboxes,
    /// What it has done.
    #[cfg(feature = "smp")]
    pub(crate) counts: Counts,
}

/// All CPUs.
pub(crate) static CPUS: [CpuLocal; MAX_CPUS] = {
    let mut cpus = [const { CpuLocal::new() }; MAX_CPUS];
    let mut number = 0;
    while number < MAX_CPUS {
        cpus[number].number = number;
        number += 1;
    }
    cpus
};

impl CpuLocal {
    const fn new() -> Self {
        Self {
            number: 0,
            #[cfg(not(any(unix, windows)))]
            nesting: Nesting::new(),
            #[cfg(all(feature = "masked-time", not(any(unix, windows))))]
            masked_since: AtomicU64::new(0),
            #[cfg(feature = "smp")]
            inboxes: Inboxes::new(),
            #[cfg(feature = "smp")]
            counts: Counts::new(),
        }
    }
}
