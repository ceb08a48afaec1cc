//! A lock that lets others run while it waits, and when it is released.

use std::sync::atomic::{AtomicBool, Ordering};

use super::injection::Call;
use super::interrupt::interrupt;

/// After so many attempts nobody is going to release the lock.
const FOR_EVER: u32 = 1 << 24;

/// A raw mutex for more threads than there are processors.
pub struct YieldingMutex(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`, and the orderings are acquire and release.
unsafe impl lock_api::RawMutex for YieldingMutex {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait has it so")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        for _ in 0..FOR_EVER {
            if self.try_lock() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("whoever holds the lock waits for itself");
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
        // What was masked comes now.
        interrupt(Call::Unlock, 0);
    }
}
