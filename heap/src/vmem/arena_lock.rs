//! The lock of an arena: a trait and its implementations.

use lock_api::{Mutex, MutexGuard, RawMutex};

/// A lock without data, which an arena holds for a short time while it accesses its structures.
///
/// ```text
///  one thread     lock() ─▶ guard ════════════════ drop
///  another            lock() ┄┄┄┄┄┄┄┄ waits ┄┄┄┄┄┄┄┄┄┄─▶ guard ═══════ drop
///  fault handler                try_lock() ─▶ None
/// ```
///
/// # Safety
/// * Mutual exclusion: until the guard is dropped, no other call of `lock` on the same value
///   returns, and no call of `try_lock` returns a guard.
/// * Ordering: releasing the lock makes all writes under it visible to the next thread that
///   acquires it.
pub unsafe trait Lock: Default {
    /// A guard that holds the lock until it is dropped.
    type Guard<'a>
    where
        Self: 'a;

    /// Waits until the lock is free, and acquires it.
    fn lock(&self) -> Self::Guard<'_>;

    /// Acquires the lock without waiting, or returns `None`.
    ///
    /// A lock without this ability always returns `None`, as the default does.
    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        None
    }
}

/// A [`Lock`] that uses a raw mutex of the crate [`lock_api`].
///
/// ```
/// use heap::vmem::{Lock, LockApi};
///
/// let lock = LockApi::<spin::Mutex<()>>::new();
/// let guard = lock.lock();
/// assert!(lock.try_lock().is_none());
/// drop(guard);
/// assert!(lock.try_lock().is_some());
/// ```
pub struct LockApi<R>(Mutex<R, ()>);

impl<R: RawMutex> LockApi<R> {
    /// Creates an unlocked lock.
    pub const fn new() -> Self {
        Self(Mutex::new(()))
    }
}

impl<R: RawMutex> Default for LockApi<R> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `RawMutex` guarantees mutual exclusion, with acquire and release ordering.
unsafe impl<R: RawMutex> Lock for LockApi<R> {
    type Guard<'a>
        = MutexGuard<'a, R, ()>
    where
        Self: 'a;

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock()
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        self.0.try_lock()
    }
}

#[cfg(feature = "spin")]
// SAFETY: `spin::Mutex` guarantees mutual exclusion, with acquire and release ordering.
unsafe impl Lock for spin::Mutex<()> {
    type Guard<'a> = spin::MutexGuard<'a, ()>;

    fn lock(&self) -> Self::Guard<'_> {
        self.lock()
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        self.try_lock()
    }
}

#[cfg(any(test, feature = "std"))]
// SAFETY: `std::sync::Mutex` guarantees mutual exclusion, with acquire and release ordering. Poison
// is ignored: the mutex protects no data that a panic could leave half-written.
unsafe impl Lock for std::sync::Mutex<()> {
    type Guard<'a> = std::sync::MutexGuard<'a, ()>;

    fn lock(&self) -> Self::Guard<'_> {
        self.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        match self.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_mutual_exclusion<L: Lock>() {
        let lock = L::default();
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
        drop(lock.lock());
    }

    #[test]
    fn every_lock_is_exclusive_until_its_guard_is_dropped() {
        assert_mutual_exclusion::<LockApi<spin::Mutex<()>>>();
        assert_mutual_exclusion::<std::sync::Mutex<()>>();
        #[cfg(feature = "spin")]
        assert_mutual_exclusion::<spin::Mutex<()>>();
    }

    #[test]
    fn a_poisoned_standard_mutex_still_locks() {
        let lock = std::sync::Mutex::new(());
        let panicked = std::panic::catch_unwind(|| {
            let _guard = Lock::lock(&lock);
            panic!("with the lock held");
        });
        assert!(panicked.is_err() && lock.is_poisoned());
        drop(Lock::lock(&lock));
        assert!(Lock::try_lock(&lock).is_some());
    }
}
