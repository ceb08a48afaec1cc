//! How a range is taken.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

// Not `core`'s by name: `heap/loom` includes this file with an atomic of its own.
use super::AtomicUsize;
use super::allocation::{AllocTime, Allocation, Failure, Level};

/// How much is used.
pub(super) trait Count {
    fn get(&self) -> usize;

    /// Changes it from what it is believed to be. If it is not, returns what it is.
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

/// Memory, and the count of how much of it is used.
///
/// The count is only changed by compare-and-swap, from what it was when a range was chosen to where
/// that range ends. All changes of one atomic have one order, in which each begins where the one
/// before ended: so ranges never overlap, and `Relaxed` suffices for that. Nor does anything else
/// need more: nobody reads in a new range what another thread has written, and whoever passes an
/// allocation to another thread orders their accesses. [`reset`](super::Bump::reset) is exclusive,
/// which somebody else has seen to.
pub(super) struct Region<'a, C> {
    base: NonNull<u8>,
    capacity: usize,
    used: &'a C,
}

impl<'a, C: Count> Region<'a, C> {
    /// # Safety
    /// `base` is valid for `capacity` bytes for the whole of `'a`. Every `Region` with any of these
    /// bytes has all of them and the same count, which only this module changes.
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

    /// Takes the lowest range that is unused and aligned.
    pub(super) fn take(&self, layout: Layout) -> Result<Allocation<'a>, Failure> {
        let mut level = self.level();
        loop {
            match self.take_at(layout, level) {
                Err(Failure::Mismatch { observed }) => level = observed,
                result => return result,
            }
        }
    }

    /// Takes the lowest range that is unused and aligned, if the level is `level`. No bytes are
    /// always there.
    pub(super) fn take_at(&self, layout: Layout, level: Level) -> Result<Allocation<'a>, Failure> {
        if layout.size() == 0 {
            let nowhere = NonNull::new(ptr::without_provenance_mut(layout.align())).unwrap();
            return Ok(self.allocation(nowhere, level));
        }
        let observed = self.level();
        if observed != level {
            return Err(Failure::Mismatch { observed });
        }
        let (start, end) = self.fit(layout, level.0).ok_or(Failure::Exhausted)?;
        self.advance(level.0, end)?;
        // SAFETY: the range lies in the memory.
        let ptr = unsafe { self.base.byte_add(start) };
        Ok(self.allocation(ptr, Level(end)))
    }

    /// Where a range begins and ends that is taken when `used` bytes are used.
    fn fit(&self, layout: Layout, used: usize) -> Option<(usize, usize)> {
        // No overflow: this is an address in the memory, or the one where it ends.
        let padding = (self.base.addr().get() + used).wrapping_neg() & (layout.align() - 1);
        let start = used.checked_add(padding)?;
        let end = start.checked_add(layout.size())?;
        (end <= self.capacity).then_some((start, end))
    }

    /// Makes the last allocation longer, if it is the last and there is room.
    ///
    /// `ptr` and `size` are an allocation's.
    pub(super) fn try_grow(&self, ptr: *mut u8, size: usize, new_size: usize) -> bool {
        let start = ptr.addr() - self.base.addr().get();
        let Some(new_end) = start.checked_add(new_size) else {
            return false;
        };
        new_end <= self.capacity && self.advance(start + size, new_end).is_ok()
    }

    /// Moves the level up, if it is where the caller believes it to be.
    fn advance(&self, from: usize, to: usize) -> Result<(), Failure> {
        let mismatch = |observed| Failure::Mismatch {
            observed: Level(observed),
        };
        self.used.advance(from, to).map_err(mismatch)
    }
}
