//! Locks that interrupt handlers may take.

#[cfg(all(target_os = "none", feature = "masked-time"))]
pub mod masked_time;

use lock_api::{GuardNoSend, RawMutex};
#[cfg(all(target_os = "none", not(feature = "masked-time")))]
use x86_64::instructions::interrupts::without_interrupts;

#[cfg(all(target_os = "none", feature = "masked-time"))]
use self::masked_time::without_interrupts;

/// A mutex for data that interrupt handlers share with other code: interrupts are masked while the
/// mutex is locked.
pub type InterruptMutex<T> = lock_api::Mutex<InterruptLock, T>;

/// The guard of an [`InterruptMutex`].
pub type InterruptMutexGuard<'a, T> = lock_api::MutexGuard<'a, InterruptLock, T>;

/// A spin lock that masks interrupts on this CPU while the lock is held, but not while it waits.
///
/// A CPU that holds several of these locks may release them in any order. The last release enables
/// interrupts again, if they were enabled when the CPU took the first lock.
///
/// # Panics
/// `lock` panics if this CPU holds the lock already: waiting would never end.
pub struct InterruptLock {
    lock: spin::Mutex<()>,
}

// SAFETY: `lock` and `try_lock` succeed only if they took the spin lock inside, which excludes all
// others until `unlock` releases it.
unsafe impl RawMutex for InterruptLock {
    const INIT: Self = Self {
        lock: <spin::Mutex<()> as RawMutex>::INIT,
    };

    // Interrupts are masked on one CPU: the guard must be dropped on the same CPU.
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            mask::panic_on_self_deadlock();
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
        // SAFETY: the caller holds this lock, and with it the spin lock inside.
        unsafe { RawMutex::unlock(&self.lock) };
        mask::leave();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
}

/// Says to a [`SlabAllocator`](heap::slab::SlabAllocator) which CPU runs, and masks its interrupts
/// while it uses its slabs.
pub struct ThisCpu {
    /// On the host, threads take turns as the only CPU.
    #[cfg(not(target_os = "none"))]
    turn: spin::Mutex<()>,
}

impl ThisCpu {
    /// The number of CPUs.
    pub const COUNT: usize = 1;

    pub(crate) const fn new() -> Self {
        ThisCpu {
            #[cfg(not(target_os = "none"))]
            turn: spin::Mutex::new(()),
        }
    }
}

// SAFETY: the kernel runs on one CPU. While interrupts are masked, no other code runs on it. (A
// non-maskable interrupt ends in a report that does not allocate.)
#[cfg(target_os = "none")]
unsafe impl heap::slab::Cpus for ThisCpu {
    const COUNT: usize = ThisCpu::COUNT;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        without_interrupts(|| work(0))
    }
}

// SAFETY: the lock excludes all other threads.
#[cfg(not(target_os = "none"))]
unsafe impl heap::slab::Cpus for ThisCpu {
    const COUNT: usize = ThisCpu::COUNT;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        let _turn = self.turn.lock();
        work(0)
    }
}

/// Counts the locks that a CPU holds and that mask its interrupts.
#[cfg(any(target_os = "none", test))]
mod nesting {
    use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// The count of one CPU. Only this CPU uses the count, with its interrupts masked, so that
    /// plain loads and stores suffice. An exception in between that takes and releases locks leaves
    /// the count unchanged.
    pub(crate) struct Nesting {
        depth: AtomicUsize,
        /// Whether interrupts were enabled when the depth rose from 0.
        were_enabled: AtomicBool,
    }

    impl Nesting {
        pub(crate) const fn new() -> Self {
            Self {
                depth: AtomicUsize::new(0),
                were_enabled: AtomicBool::new(false),
            }
        }

        /// Counts one more lock. `were_enabled` says whether interrupts were enabled before they
        /// were masked for this lock.
        #[inline]
        pub(crate) fn enter(&self, were_enabled: bool) {
            let depth = self.depth.load(Ordering::Relaxed);
            // In this order, an exception in between counts as nested and does not change the flag.
            self.depth.store(depth + 1, Ordering::Relaxed);
            if depth == 0 {
                self.were_enabled.store(were_enabled, Ordering::Relaxed);
            }
        }

        /// Counts one lock less. Returns whether the caller must enable interrupts.
        #[inline]
        pub(crate) fn leave(&self) -> bool {
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

    /// Returns the count of this CPU. The kernel runs on one CPU. With more, each CPU needs a count
    /// of its own, which this function finds by the `GS` base, for instance. Callers have masked
    /// interrupts, so that the code stays on its CPU.
    #[inline]
    fn this_cpu() -> &'static Nesting {
        static ONLY_CPU: Nesting = Nesting::new();
        &ONLY_CPU
    }

    /// Masks interrupts until [`leave`] has been called as often as `enter`.
    #[inline]
    pub(super) fn enter() {
        let were_enabled = interrupts::are_enabled();
        if were_enabled {
            interrupts::disable();
            #[cfg(feature = "masked-time")]
            super::masked_time::begin();
        }
        this_cpu().enter(were_enabled);
    }

    /// Undoes one [`enter`].
    #[inline]
    pub(super) fn leave() {
        if this_cpu().leave() {
            #[cfg(feature = "masked-time")]
            super::masked_time::end();
            interrupts::enable();
        }
    }

    /// Panics: on a machine with one CPU, a CPU that waits for a lock holds that lock itself.
    #[cold]
    pub(super) fn panic_on_self_deadlock() {
        panic!("this CPU waits for a lock that it holds itself");
    }
}

/// On the host the lock is a plain spin lock: a program has no interrupts to mask.
#[cfg(not(target_os = "none"))]
mod mask {
    pub(crate) fn enter() {}

    pub(crate) fn leave() {}

    /// Does nothing: on the host another thread may release the lock.
    pub(crate) fn panic_on_self_deadlock() {}
}

#[cfg(test)]
mod tests {
    use super::nesting::Nesting;

    #[test]
    fn only_the_last_release_enables_interrupts() {
        let cpu = Nesting::new();
        // The flag of the first lock counts: interrupts are masked when the others are taken.
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
        // The code enables interrupts by hand, and the handler of one locks and unlocks.
        cpu.enter(false);
        assert!(!cpu.leave());
        assert!(cpu.leave());
    }
}
