//! Locks that interrupt handlers may take, and how the heap keeps handlers out.
//!
//! In a program of the host, there are no interrupts: the locks are plain spin locks.

#[cfg(all(feature = "masked-time", not(any(unix, windows))))]
pub mod masked_time;
#[cfg(any(test, not(any(unix, windows))))]
mod nesting;

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use heap::source::ReleaseGate;
use lock_api::{GuardNoSend, RawMutex};

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
/// interrupts again, if they were enabled when the CPU took the first lock.
///
/// This lock is for kernels that run on one CPU. (On more it still excludes others. But it does not
/// know which CPU masks its interrupts, and takes one that waits for one that waits for itself.)
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
            machine::panic_on_self_deadlock();
            core::hint::spin_loop();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        machine::enter();
        let locked = RawMutex::try_lock(&self.lock);
        if !locked {
            machine::leave();
        }
        locked
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds this lock, and with it the spin lock inside.
        unsafe { RawMutex::unlock(&self.lock) };
        machine::leave();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
}

/// Says to a [`SlabAllocator`](heap::slab::SlabAllocator) which CPU runs, the only one, and masks
/// its interrupts while it uses its slabs.
pub struct ThisCpu {
    exclusion: machine::Exclusion,
}

impl ThisCpu {
    /// The number of CPUs.
    pub const COUNT: usize = 1;

    /// Returns the only CPU.
    ///
    /// # Safety
    /// * All code that uses the value runs on one CPU.
    /// * What interrupts this code although interrupts are masked does not use the value: handlers
    ///   of non-maskable interrupts, of machine checks and of debug exceptions. If the value is a
    ///   part of the global allocator, these handlers do not allocate.
    pub const unsafe fn new() -> Self {
        Self {
            exclusion: machine::Exclusion::new(),
        }
    }
}

// SAFETY: the caller of `new` guarantees that one CPU uses the value. While its interrupts are
// masked, no other code that uses the value runs on it. (On the host, a lock excludes all other
// threads.)
unsafe impl heap::slab::Cpus for ThisCpu {
    const COUNT: usize = ThisCpu::COUNT;

    #[inline]
    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        self.exclusion.run(|| work(0))
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
