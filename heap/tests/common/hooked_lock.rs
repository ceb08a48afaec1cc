//! A spin lock that calls a hook before it is taken.

use std::marker::PhantomData;

/// What a [`HookedLock`] calls.
pub(crate) trait Hook {
    /// Called before the lock is taken.
    fn before();

    /// Called while the lock is found held, again and again.
    fn while_held();
}

/// A spin lock that calls the hooks of `H`.
pub(crate) struct HookedLock<H>(spin::Mutex<()>, PhantomData<fn() -> H>);

// SAFETY: the spin lock excludes all others.
unsafe impl<H: Hook> lock_api::RawMutex for HookedLock<H> {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "`lock_api` wants it so"
    )]
    const INIT: Self = Self(spin::Mutex::new(()), PhantomData);
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        H::before();
        while !self.try_lock() {
            H::while_held();
        }
    }

    fn try_lock(&self) -> bool {
        lock_api::RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        unsafe { lock_api::RawMutex::unlock(&self.0) };
    }
}
