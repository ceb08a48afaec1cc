//! Locks that interrupt handlers may take, and how the heap keeps handlers out.
//!
//! In a program of the host, there are no interrupts: the locks are plain spin locks.

#[cfg(all(feature = "masked-time", not(any(unix, windows))))]
pub mod masked_time;
#[cfg(any(test, not(any(unix, windows))))]
mod nesting;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicUsize};

use heap::source::ReleaseGate;
use lock_api::{GuardNoSend, RawMutex};

use crate::cpu_local::MAX_CPUS;
use crate::machine;
#[cfg(not(any(unix, windows)))]
pub(crate) use nesting::Nesting;

/// A mutex for data that interrupt handlers share with other code: interrupts are masked while the
/// mutex is locked.
pub type InterruptMutex<T> = lock_api::Mutex<InterruptLock, T>;

/// The guard of an [`InterruptMutex`].
pub type InterruptMutexGuard<'a, T> = lock_api::MutexGuard<'a, InterruptLock, T>;

/// A spin lock that masks interrupts on this CPU while the lock is held, but not while it waits.
///
/// A CPU that holds several of these locks may release them in any order. The last release enables
/// interrupts again, if they were enabled when the CPU took the first lock. A CPU that waits does
/// meanwhile what other CPUs need of it to unmap pages, also if its interrupts are masked.
///
/// # Panics
/// `lock` panics if this CPU holds the lock already: waiting would never end.
pub struct InterruptLock {
    /// The number of the CPU that holds the lock, plus 1; 0 if no CPU does.
    holder: AtomicUsize,
}

impl InterruptLock {
    /// Takes the lock, unless it is held. Interrupts stay masked if it was taken.
    ///
    /// # Errors
    /// Returns which CPU holds the lock.
    #[inline]
    fn try_take(&self) -> Result<(), HeldBy> {
        let cpu = machine::enter();
        let this = cpu.number + 1;
        let taken = self.holder.compare_exchange(0, this, Acquire, Relaxed);
        taken.map(drop).map_err(|holder| {
            machine::leave();
            if holder == this {
                HeldBy::This
            } else {
                HeldBy::Other
            }
        })
    }

    #[cold]
    #[inline(never)]
    fn wait_and_take(&self) {
        #[cfg(feature = "smp")]
        machine::this_cpu().counts.count_wait(|| self.spin());
        #[cfg(not(feature = "smp"))]
        self.spin();
    }

    /// Takes the lock when it is free.
    fn spin(&self) {
        while let Err(holder) = self.try_take() {
            if holder == HeldBy::This {
                machine::panic_on_self_deadlock();
            }
            while RawMutex::is_locked(self) {
                #[cfg(feature = "smp")]
                crate::smp::serve_while_waiting();
                core::hint::spin_loop();
            }
        }
    }
}

/// The CPU that holds a lock.
#[derive(PartialEq, Eq)]
enum HeldBy {
    This,
    Other,
}

// SAFETY: `lock` and `try_lock` succeed only if they have made the word that of this CPU. All
// others find another word than 0 until `unlock`.
unsafe impl RawMutex for InterruptLock {
    const INIT: Self = Self {
        holder: AtomicUsize::new(0),
    };

    // Interrupts are masked on one CPU: the guard must be dropped on the same CPU.
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        if self.try_take().is_err() {
            self.wait_and_take();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.try_take().is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.holder.store(0, Release);
        machine::leave();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.holder.load(Relaxed) != 0
    }
}

/// Says to a [`SlabAllocator`](heap::slab::SlabAllocator) which CPU runs, and masks its interrupts
/// while it uses its slabs.
pub struct ThisCpu {
    exclusion: machine::Exclusion,
}

impl ThisCpu {
    /// The largest number of CPUs: 16 with the feature `smp`, or else 1.
    pub const COUNT: usize = MAX_CPUS;

    /// Returns the CPU that runs the code that uses the value.
    ///
    /// # Safety
    /// * Without the feature `smp`, all code that uses the value runs on one CPU. With it, each CPU
    ///   has called `smp::start_cpu` first.
    /// * What interrupts this code although interrupts are masked does not use the value: handlers
    ///   of non-maskable interrupts, of machine checks and of debug exceptions. If the value is a
    ///   part of the global allocator, these handlers do not allocate.
    pub const unsafe fn new() -> Self {
        Self {
            exclusion: machine::Exclusion::new(),
        }
    }
}

// SAFETY: `smp::start_cpu` gives each CPU a number of its own, below `COUNT`; or, without the
// feature, the caller of `new` guarantees that one CPU uses the value. While the interrupts of a
// CPU are masked, no other code that uses the value runs on it. (On the host, a lock excludes all
// other threads.)
unsafe impl heap::slab::Cpus for ThisCpu {
    const COUNT: usize = ThisCpu::COUNT;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        self.exclusion.run(work)
    }

    #[cfg(feature = "smp")]
    fn reap_others(&self) {
        crate::smp::reap_others();
    }

    #[cfg(feature = "smp")]
    fn may_wait(&self) -> bool {
        machine::are_interrupts_enabled()
    }
}

/// Lets a heap unmap pages where interrupts are enabled: not inside handlers, for instance.
///
/// A kernel that has not enabled interrupts yet has no handlers either, so it may unmap too. The
/// gate takes a kernel for one of these until it has found interrupts enabled once, or a call of
/// [`note`](Self::note).
#[derive(Debug, Clone, Copy)]
pub struct InterruptsEnabled;

impl InterruptsEnabled {
    /// Notes that interrupts are enabled from now on. Without this call, the first pages may be
    /// unmapped while interrupts are masked.
    pub fn note() {
        FOUND_ENABLED.store(true, Relaxed);
    }
}

static FOUND_ENABLED: AtomicBool = AtomicBool::new(false);

impl ReleaseGate for InterruptsEnabled {
    #[inline]
    fn is_open() -> bool {
        let are_enabled = machine::are_interrupts_enabled();
        if are_enabled {
            Self::note();
        }
        are_enabled || !FOUND_ENABLED.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::InterruptMutex;
    use crate::machine::DEPTH;

    #[test]
    fn a_lock_that_is_held_is_not_taken() {
        let mutex = InterruptMutex::new(1);
        let guard = mutex.lock();
        assert!(mutex.try_lock().is_none() && mutex.is_locked());
        drop(guard);
        assert!(mutex.try_lock().is_some() && !mutex.is_locked());
    }

    #[test]
    fn interrupts_are_masked_only_while_a_lock_is_held() {
        let depth = || DEPTH.with(|depth| depth.get());
        let mutex = InterruptMutex::new(1);
        let guard = mutex.lock();
        assert_eq!(depth(), 1);
        assert!(mutex.try_lock().is_none());
        assert_eq!(depth(), 1, "a lock that was not taken masks nothing");
        drop(guard);
        assert_eq!(depth(), 0);
    }
}
