//! The lock of an arena: a trait, and implementations of it.

use lock_api::{Mutex, MutexGuard, RawMutex};

/// A lock without data, held by an arena for the short time in which it changes its structures.
///
/// ```text
///  one thread     lock() ─▶ guard ════════════════ drop
///  another            lock() ┄┄┄┄┄┄┄┄ waits ┄┄┄┄┄┄┄┄┄┄─▶ guard ═══════ drop
///  fault handler                try_lock() ─▶ None
/// ```
///
/// # Safety
/// Until the guard is dropped, no other call of `lock` on the same value returns and no call of
/// `try_lock` returns a guard. Releasing it makes what was written under it visible to whoever
/// acquires it next.
pub unsafe trait Lock: Default {
    /// Keeps the lock held until it is dropped.
    type Guard<'a>
    where
        Self: 'a;

    /// Waits until the lock is free, and acquires it.
    fn lock(&self) -> Self::Guard<'_>;

    /// Acquires the lock if that is possible without waiting.
    ///
    /// A lock that cannot tell says `None`, as the default does.
    fn try_lock(&self) -> Option<Self::Guard<'_>> {
        None
    }
}

/// A [`Lock`] made of any raw mutex of [`lock_api`].
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
    /// A lock that is free.
    pub const fn new() -> Self {
        Self(Mutex::new(()))
    }
}

impl<R: RawMutex> Default for LockApi<R> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `RawMutex` promises mutual exclusion with acquire and release ordering.
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
// SAFETY: a spin mutex excludes, with acquire and release ordering.
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
// SAFETY: a `std` mutex excludes, with acquire and release ordering. No data is behind it that a
// panic could leave half-written, so poison is of no concern.
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

    fn excludes<L: Lock>() {
        let lock = L::default();
        let guard = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert!(lock.try_lock().is_some());
        drop(lock.lock());
    }

    #[test]
    fn every_lock_excludes_until_its_guard_is_dropped() {
        excludes::<LockApi<spin::Mutex<()>>>();
        excludes::<std::sync::Mutex<()>>();
        #[cfg(feature = "spin")]
        excludes::<spin::Mutex<()>>();
    }

    #[test]
    fn a_standard_lock_works_after_a_panic() {
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
