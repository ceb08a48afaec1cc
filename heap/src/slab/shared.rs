//! The slabs that no CPU owns although blocks in them are free, and the counts of all slabs.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::list::SlabList;
use super::size_class::CLASSES;
use super::slab::{Ownership, Slab};

/// Partial slabs that any CPU may take, behind a spin lock.
pub(super) struct Shared {
    locked: AtomicBool,
    lists: UnsafeCell<[SlabList; CLASSES]>,
    /// The length of each list, so that an empty one costs no lock.
    lengths: [AtomicUsize; CLASSES],
    /// The number of slabs of each class, wherever they are.
    slabs: [AtomicUsize; CLASSES],
    /// The number of CPU-local parts that have had a slab.
    active: AtomicUsize,
}

// SAFETY: the lock protects the lists.
unsafe impl Sync for Shared {}
// SAFETY: slabs belong to no thread.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) const fn new() -> Self {
        Self {
            locked: AtomicBool::new(false),
            lists: UnsafeCell::new([const { SlabList::new() }; CLASSES]),
            lengths: [const { AtomicUsize::new(0) }; CLASSES],
            slabs: [const { AtomicUsize::new(0) }; CLASSES],
            active: AtomicUsize::new(0),
        }
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> SharedGuard<'_> {
        while self
            .locked
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spin_loop();
        }
        SharedGuard { shared: self }
    }

    /// Takes a partial slab of a class for the part `index`.
    pub(super) fn take(&self, class: usize, index: u16) -> Option<Slab> {
        if self.lengths[class].load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut guard = self.lock();
        let slab = guard.lists()[class].pop()?;
        guard.update_length(class);
        slab.unshare(index);
        Some(slab)
    }

    /// Returns the number of slabs of a class.
    pub(super) fn slabs(&self, class: usize) -> usize {
        self.slabs[class].load(Ordering::Relaxed)
    }

    pub(super) fn count_slab(&self, class: usize) {
        self.slabs[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn uncount_slab(&self, class: usize) {
        self.slabs[class].fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more part that has slabs.
    pub(super) fn count_part(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether more than one part has had a slab.
    pub(super) fn is_shared(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 1
    }
}

/// The lock of the shared lists.
pub(super) struct SharedGuard<'a> {
    shared: &'a Shared,
}

impl SharedGuard<'_> {
    pub(super) fn lists(&mut self) -> &mut [SlabList; CLASSES] {
        // SAFETY: the lock is held, and the result cannot outlive the borrow of the guard.
        unsafe { &mut *self.shared.lists.get() }
    }

    /// Adds a slab whose owner shares it. Returns `false`, and changes nothing, if other CPUs have
    /// freed blocks of it meanwhile.
    pub(super) fn share(&mut self, slab: Slab) -> bool {
        // Who sees that the slab is shared waits for the lock, and then finds it in its list.
        if !slab.disown(Ownership::Shared, false) {
            return false;
        }
        let class = slab.class();
        self.lists()[class].push(slab);
        self.update_length(class);
        true
    }

    /// Removes a shared slab from its list.
    pub(super) fn remove(&mut self, slab: Slab) {
        let class = slab.class();
        self.lists()[class].remove(slab);
        self.update_length(class);
    }

    fn update_length(&mut self, class: usize) {
        let length = self.lists()[class].len() as usize;
        self.shared.lengths[class].store(length, Ordering::Relaxed);
    }
}

impl Drop for SharedGuard<'_> {
    fn drop(&mut self) {
        self.shared.locked.store(false, Ordering::Release);
    }
}
