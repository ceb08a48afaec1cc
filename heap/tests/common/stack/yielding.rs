//! A lock that yields to other threads while it waits, and runs interrupts when it is released.

use std::sync::atomic::{AtomicBool, Ordering};

use super::injection::Call;
use super::interrupt::interrupt;

/// Attempts after which the lock counts as never released: a deadlock.
const MAX_ATTEMPTS: u32 = 1 << 24;

/// A raw mutex for more threads than there are processors.
pub(crate) struct YieldingMutex(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, and the orderings are acquire and
// release.
unsafe impl lock_api::RawMutex for YieldingMutex {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait has it so")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        for _ in 0..MAX_ATTEMPTS {
            if self.try_lock() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("deadlock: the holder of the lock waits for itself");
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
        // Interrupts that were masked come now.
        interrupt(Call::Unlock, 0);
    }
}
