//! An allocator behind a lock: for several threads, and as the `#[global_allocator]`.

use core::fmt;

use lock_api::{Mutex, MutexGuard, RawMutex};

use super::Talc;
use super::binning::{Binning, DefaultBinning};
use super::shared::{Shared, allocators, global_alloc};
use crate::source::Source;

/// A [`Talc`] in a [`lock_api`] mutex.
///
/// The lock is held while the allocator works, and never while memory is copied or cleared. When
/// `realloc` has to move a block, for instance:
///
/// ```text
///     lock held     ├─ try in place ─┤  ├─ allocate ─┤            ├─ free ─┤
///     lock free                      ├──┤            ├── copy ────┤
///     time ────────────────────────────────────────────────────────────────────>
/// ```
///
/// ```
/// use heap::talc::{TalcLock, source::Manual};
///
/// static HEAP: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);
///
/// assert!(!HEAP.lock().is_metadata_established());
/// ```
///
/// It is a `GlobalAlloc`, and an `Allocator`, as are references to it.
pub struct TalcLock<R: RawMutex, S: Source, B: Binning = DefaultBinning> {
    mutex: Mutex<R, Talc<S, B>>,
}

impl<R: RawMutex, S: Source, B: Binning> TalcLock<R, S, B> {
    /// An allocator that has no memory yet.
    pub const fn new(source: S) -> Self {
        Self {
            mutex: Mutex::new(Talc::new(source)),
        }
    }

    /// Waits for the lock, and holds it as long as the guard lives.
    ///
    /// Whoever has the guard must not allocate through this lock: that would wait for ever.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, R, Talc<S, B>> {
        self.mutex.lock()
    }

    /// Takes the lock unless it is held; `None` if it is.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, R, Talc<S, B>>> {
        self.mutex.try_lock()
    }

    /// The allocator, which nobody else can be using.
    #[inline]
    pub fn get_mut(&mut self) -> &mut Talc<S, B> {
        self.mutex.get_mut()
    }

    /// The allocator without its lock.
    pub fn into_inner(self) -> Talc<S, B> {
        self.mutex.into_inner()
    }
}

impl<R: RawMutex, S: Source, B: Binning> Shared for TalcLock<R, S, B> {
    type Source = S;
    type Binning = B;

    #[inline]
    fn with<T>(&self, work: impl FnOnce(&mut Talc<S, B>) -> T) -> T {
        let mut talc = self.lock();
        let (result, reports) = talc.deferring(work);
        drop(talc);
        reports.report();
        result
    }
}

global_alloc!([R: RawMutex, S: Source, B: Binning] TalcLock<R, S, B>);
allocators!([R: RawMutex, S: Source, B: Binning] TalcLock<R, S, B>);

impl<R: RawMutex, S: Source, B: Binning> fmt::Debug for TalcLock<R, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `f` writes to may allocate from here: the lock must be free again.
        let summary = self.try_lock().map(|talc| talc.summary());
        match summary {
            Some(summary) => f.debug_tuple("TalcLock").field(&summary).finish(),
            None => f.write_str("TalcLock(<locked>)"),
        }
    }
}
