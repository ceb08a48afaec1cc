//! Locks that an interrupt handler may take too.

use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::{GuardNoSend, RawMutex};

/// A value that code and interrupt handlers share: interrupts are masked while it is locked.
pub type InterruptMutex<T> = lock_api::Mutex<InterruptLock, T>;

/// The guard of an [`InterruptMutex`].
pub type InterruptMutexGuard<'a, T> = lock_api::MutexGuard<'a, InterruptLock, T>;

/// A spin lock that masks interrupts on this CPU while it is held, and then restores what was there
/// before. While it waits, interrupts are as the caller had them.
///
/// Locks are to be released in the reverse order in which they were acquired; otherwise interrupts
/// come back too early.
pub struct InterruptLock {
    lock: spin::Mutex<()>,
    /// Whether the holder had interrupts enabled. Written only by the holder.
    enable: AtomicBool,
}

// SAFETY: exclusion is that of the spin lock, which is taken before and released after all else.
unsafe impl RawMutex for InterruptLock {
    const INIT: Self = Self {
        lock: <spin::Mutex<()> as RawMutex>::INIT,
        enable: AtomicBool::new(false),
    };

    // Interrupts are masked on one CPU: the guard must be dropped on that one.
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        let enabled = mask::disable();
        let locked = RawMutex::try_lock(&self.lock);
        if locked {
            self.enable.store(enabled, Ordering::Relaxed);
        } else {
            mask::restore(enabled);
        }
        locked
    }

    #[inline]
    unsafe fn unlock(&self) {
        let enabled = self.enable.load(Ordering::Relaxed);
        // SAFETY: the caller holds this lock, and so the spin lock in it.
        unsafe { RawMutex::unlock(&self.lock) };
        mask::restore(enabled);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        RawMutex::is_locked(&self.lock)
    }
}

/// The interrupt flag of this CPU.
#[cfg(target_os = "none")]
mod mask {
    use x86_64::instructions::interrupts;

    /// Masks interrupts, and says whether they were enabled.
    #[inline]
    pub fn disable() -> bool {
        let enabled = interrupts::are_enabled();
        if enabled {
            interrupts::disable();
        }
        enabled
    }

    /// Enables interrupts again if they were `enabled` before.
    #[inline]
    pub fn restore(enabled: bool) {
        if enabled {
            interrupts::enable();
        }
    }
}

/// On the host there are no interrupts to mask: this is a plain spin lock.
#[cfg(not(target_os = "none"))]
mod mask {
    pub fn disable() -> bool {
        false
    }

    pub fn restore(_enabled: bool) {}
}
