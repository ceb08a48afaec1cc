//! Locks that an interrupt handler may take too.

use lock_api::{GuardNoSend, RawMutex};

/// A value that code and interrupt handlers share: interrupts are masked while it is locked.
pub type InterruptMutex<T> = lock_api::Mutex<InterruptLock, T>;

/// The guard of an [`InterruptMutex`].
pub type InterruptMutexGuard<'a, T> = lock_api::MutexGuard<'a, InterruptLock, T>;

/// A spin lock that masks interrupts on this CPU while it is held. While it waits, interrupts are as
/// the caller had them.
///
/// A CPU that holds several of these locks may release them in any order. Interrupts come back with
/// the last one, if they were enabled when the CPU took the first.
///
/// # Panics
/// Taking a lock that this CPU holds already would wait for ever: it panics instead.
pub struct InterruptLock {
    lock: spin::Mutex<()>,
}

// SAFETY: exclusion is that of the spin lock, which is taken before and released after all else.
unsafe impl RawMutex for InterruptLock {
    const INIT: Self = Self {
        lock: <spin::Mutex<()> as RawMutex>::INIT,
    };

    // Interrupts are masked on one CPU: the guard must be dropped on that one.
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            mask::assert_another_cpu_may_unlock();
            core::hint::spin_loop();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        mask::enter();
        let locked = RawMutex::try_lock(&self.lock);
        if !locked {
            mask::leave();
        }
        locked
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds this lock, and so the spin lock in it.
        unsafe { RawMutex::unlock(&self.lock) };
        mask::leave();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
}

/// How many locks a CPU holds that mask its interrupts.
#[cfg(any(target_os = "none", test))]
mod nesting {
    use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// The count of one CPU. Only that CPU uses it, with its interrupts masked, so plain loads and stores
    /// do. An exception in between that takes and releases locks leaves the count as it was.
    pub struct Nesting {
        depth: AtomicUsize,
        /// Whether interrupts were enabled when the depth rose from 0.
        were_enabled: AtomicBool,
    }

    impl Nesting {
        pub const fn new() -> Self {
            Self {
                depth: AtomicUsize::new(0),
                were_enabled: AtomicBool::new(false),
            }
        }

        /// Counts a lock more. `were_enabled` says whether interrupts were enabled before they were
        /// masked for it.
        #[inline]
        pub fn enter(&self, were_enabled: bool) {
            let depth = self.depth.load(Ordering::Relaxed);
            // In this order, an exception in between counts as nested and keeps the flag.
            self.depth.store(depth + 1, Ordering::Relaxed);
            if depth == 0 {
                self.were_enabled.store(were_enabled, Ordering::Relaxed);
            }
        }

        /// Counts a lock less. Returns whether interrupts are to be enabled.
        #[inline]
        pub fn leave(&self) -> bool {
            let were_enabled = self.were_enabled.load(Ordering::Relaxed);
            let depth = self.depth.load(Ordering::Relaxed) - 1;
            self.depth.store(depth, Ordering::Relaxed);
            depth == 0 && were_enabled
        }
    }
}

/// The interrupt flag of this CPU.
#[cfg(target_os = "none")]
mod mask {
    use x86_64::instructions::interrupts;

    use super::nesting::Nesting;

    /// Returns the count of this CPU. There is one CPU; each further one needs a count of its own, found
    /// here by what tells it from the others (its `GS` base, for instance). Interrupts are masked when
    /// this is called, so the code stays on its CPU.
    #[inline]
    fn this_cpu() -> &'static Nesting {
        static ONLY_CPU: Nesting = Nesting::new();
        &ONLY_CPU
    }

    /// Masks interrupts until [`leave`] was called as often as this.
    #[inline]
    pub fn enter() {
        let were_enabled = interrupts::are_enabled();
        if were_enabled {
            interrupts::disable();
        }
        this_cpu().enter(were_enabled);
    }

    /// Undoes one [`enter`].
    #[inline]
    pub fn leave() {
        if this_cpu().leave() {
            interrupts::enable();
        }
    }

    /// Panics if a lock that could not be taken is held by this CPU. There is one CPU, so it is.
    #[cold]
    pub fn assert_another_cpu_may_unlock() {
        panic!("this CPU waits for a lock that it holds itself");
    }
}

/// On the host there are no interrupts to mask: this is a plain spin lock.
#[cfg(not(target_os = "none"))]
mod mask {
    pub fn enter() {}

    pub fn leave() {}

    pub fn assert_another_cpu_may_unlock() {}
}

#[cfg(test)]
mod tests {
    use super::nesting::Nesting;

    #[test]
    fn only_the_last_lock_enables_interrupts() {
        let cpu = Nesting::new();
        // The flag of the first counts: for the others interrupts are masked already.
        cpu.enter(true);
        cpu.enter(false);
        cpu.enter(false);
        assert_eq!([(); 3].map(|()| cpu.leave()), [false, false, true]);
    }

    #[test]
    fn interrupts_stay_masked_if_they_were_before_the_first_lock() {
        let cpu = Nesting::new();
        cpu.enter(false);
        cpu.enter(false);
        assert_eq!([cpu.leave(), cpu.leave()], [false; 2]);
        cpu.enter(true);
        assert!(cpu.leave(), "the next first lock has a flag of its own");
    }

    #[test]
    fn a_handler_within_a_lock_keeps_the_flag_of_the_first() {
        let cpu = Nesting::new();
        cpu.enter(true);
        // Somebody has enabled interrupts by hand, and one came: its handler locks and unlocks.
        cpu.enter(false);
        assert!(!cpu.leave());
        assert!(cpu.leave());
    }
}
