//! [`Region`]: how a bump allocator takes a range of its memory.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

// Not the path in `core`: `heap/loom` includes this file, and replaces the atomic.
use super::AtomicUsize;
use super::allocation::{AllocTime, Allocation, Failure, Level};

/// The count of used bytes.
pub(super) trait Count {
    fn get(&self) -> usize;

    /// Compare-and-swap: changes the count from `from` to `to`. Returns the actual count as an
    /// error if it is not `from`.
    fn advance(&self, from: usize, to: usize) -> Result<(), usize>;
}

impl Count for AtomicUsize {
    fn get(&self) -> usize {
        self.load(Relaxed)
    }

    fn advance(&self, from: usize, to: usize) -> Result<(), usize> {
        self.compare_exchange(from, to, Relaxed, Relaxed).map(drop)
    }
}

impl Count for Cell<usize> {
    fn get(&self) -> usize {
        self.get()
    }

    fn advance(&self, from: usize, to: usize) -> Result<(), usize> {
        if self.get() != from {
            return Err(self.get());
        }
        self.set(to);
        Ok(())
    }
}

/// A region of memory, and the count of its used bytes.
///
/// The count changes only by compare-and-swap: from its value when a range was chosen, to the end
/// of that range. All changes of one atomic have one order, in which each begins where the previous
/// one ended. So ranges never overlap, and `Relaxed` suffices.
///
/// No other access needs a stronger order. A new range holds nothing that another thread has
/// written. Code that passes an allocation to another thread orders the accesses itself.
/// [`reset`](super::Bump::reset) has exclusive access.
pub(super) struct Region<'a, C> {
    base: NonNull<u8>,
    capacity: usize,
    used: &'a C,
}

impl<'a, C: Count> Region<'a, C> {
    /// Creates a view of a region and its count.
    ///
    /// # Safety
    /// * `base` is valid for `capacity` bytes for all of `'a`.
    /// * Every other `Region` that overlaps this one has the same base, capacity and count.
    /// * Only this module changes the count.
    pub(super) unsafe fn new(base: NonNull<u8>, capacity: usize, used: &'a C) -> Self {
        Self {
            base,
            capacity,
            used,
        }
    }

    pub(super) fn level(&self) -> Level {
        Level(self.used.get())
    }

    pub(super) fn allocation(&self, ptr: NonNull<u8>, level: Level) -> Allocation<'a> {
        Allocation {
            ptr,
            lifetime: AllocTime::default(),
            level,
        }
    }

    /// Takes the lowest range that is unused and aligned. O(1), except for lost races.
    pub(super) fn take(&self, layout: Layout) -> Result<Allocation<'a>, Failure> {
        let mut level = self.level();
        loop {
            match self.take_at(layout, level) {
                Err(Failure::Mismatch { observed }) => level = observed,
                result => return result,
            }
        }
    }

    /// Takes the lowest range that is unused and aligned, if the level is `level`. Zero-sized
    /// requests always succeed.
    pub(super) fn take_at(&self, layout: Layout, level: Level) -> Result<Allocation<'a>, Failure> {
        if layout.size() == 0 {
            let dangling = NonNull::new(ptr::without_provenance_mut(layout.align())).unwrap();
            return Ok(self.allocation(dangling, level));
        }
        let observed = self.level();
        if observed != level {
            return Err(Failure::Mismatch { observed });
        }
        let (start, end) = self.fit(layout, level.0).ok_or(Failure::Exhausted)?;
        self.advance(level.0, end)?;
        // SAFETY: `fit` returns a range within the region.
        let ptr = unsafe { self.base.byte_add(start) };
        Ok(self.allocation(ptr, Level(end)))
    }

    /// Returns where the lowest range for `layout` begins and ends while `used` bytes are used.
    fn fit(&self, layout: Layout, used: usize) -> Option<(usize, usize)> {
        // No overflow: the sum is an address in the region, or its end.
        let padding = (self.base.addr().get() + used).wrapping_neg() & (layout.align() - 1);
        let start = used.checked_add(padding)?;
        let end = start.checked_add(layout.size())?;
        (end <= self.capacity).then_some((start, end))
    }

    /// Extends an allocation in place. Returns `false` if it is not the last one, or if the region
    /// is too small. `ptr` and `size` must be those of an allocation.
    pub(super) fn try_grow(&self, ptr: *mut u8, size: usize, new_size: usize) -> bool {
        let start = ptr.addr() - self.base.addr().get();
        let Some(new_end) = start.checked_add(new_size) else {
            return false;
        };
        new_end <= self.capacity && self.advance(start + size, new_end).is_ok()
    }

    /// Raises the level from `from` to `to`. Fails if the level is not `from`.
    fn advance(&self, from: usize, to: usize) -> Result<(), Failure> {
        let mismatch = |observed| Failure::Mismatch {
            observed: Level(observed),
        };
        self.used.advance(from, to).map_err(mismatch)
    }
}
