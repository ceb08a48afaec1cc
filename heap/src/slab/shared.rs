//! The slabs that no CPU owns although blocks in them are free, and the list of all slabs.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::list::{ALL, SlabList};
use super::local::Context;
use super::size_class::CLASSES;
use super::slab::{Ownership, Slab};
use crate::patience;

/// What all CPUs share, behind a spin lock.
pub(super) struct Shared {
    locked: AtomicBool,
    lists: UnsafeCell<Lists>,
    /// The length of each partial list, so that an empty one costs no lock.
    lengths: [AtomicUsize; CLASSES],
    /// The number of slabs that were ever unregistered …
    unregistered: AtomicUsize,
    /// … and of those whose pages the allocator behind the slabs has got since.
    released: AtomicUsize,
}

struct Lists {
    /// Partial slabs that any CPU may take.
    partial: [SlabList; CLASSES],
    /// All slabs, with and without an owner.
    all: SlabList<ALL>,
}

// SAFETY: the lock protects the lists.
unsafe impl Sync for Shared {}
// SAFETY: slabs belong to no thread.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) const fn new() -> Self {
        Self {
            locked: AtomicBool::new(false),
            lists: UnsafeCell::new(Lists {
                partial: [const { SlabList::new() }; CLASSES],
                all: SlabList::new(),
            }),
            lengths: [const { AtomicUsize::new(0) }; CLASSES],
            unregistered: AtomicUsize::new(0),
            released: AtomicUsize::new(0),
        }
    }

    /// Counts a slab whose page has gone to the allocator behind the slabs.
    pub(super) fn count_released(&self) {
        // Release: who sees this finds the page there.
        self.released.fetch_add(1, Ordering::Release);
    }

    /// Returns how many pages have gone to the allocator behind the slabs, for
    /// [`wait_for_releases`](Self::wait_for_releases).
    pub(super) fn released(&self) -> usize {
        self.released.load(Ordering::Acquire)
    }

    /// Waits while there are slabs on their way to the allocator behind the slabs. `before` is from
    /// before an allocation that has failed. Returns whether another page has gone there since.
    ///
    /// Waits for a bounded time.
    pub(super) fn wait_for_releases(&self, before: usize) -> bool {
        let has_come = patience::wait(|| {
            let released = self.released();
            let is_over =
                released != before || self.unregistered.load(Ordering::Relaxed) == released;
            is_over.then_some(released != before)
        });
        has_come.unwrap_or(false)
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> SharedGuard<'_> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            spin_loop();
        }
    }

    /// Takes the lock, unless it is held.
    pub(super) fn try_lock(&self) -> Option<SharedGuard<'_>> {
        self.locked
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| SharedGuard { shared: self })
    }

    /// Takes a partial slab of a class for the part of `context`.
    pub(super) fn take(&self, class: usize, context: Context<'_>) -> Option<Slab> {
        if self.lengths[class].load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut guard = context.lock();
        let slab = guard.lists().partial[class].pop()?;
        guard.update_length(class);
        slab.unshare(context.index);
        Some(slab)
    }
}

/// The lock of the shared lists.
pub(super) struct SharedGuard<'a> {
    shared: &'a Shared,
}

impl SharedGuard<'_> {
    fn lists(&mut self) -> &mut Lists {
        // SAFETY: the lock is held, and the result cannot outlive the borrow of the guard.
        unsafe { &mut *self.shared.lists.get() }
    }

    /// Returns the partial slabs that any CPU may take.
    pub(super) fn partial_lists(&mut self) -> &[SlabList; CLASSES] {
        &self.lists().partial
    }

    /// Returns all slabs, with and without an owner.
    pub(super) fn all(&mut self) -> &SlabList<ALL> {
        &self.lists().all
    }

    /// Adds a new slab to the list of all.
    pub(super) fn register(&mut self, slab: Slab) {
        self.lists().all.push(slab);
    }

    /// Removes a slab, whose page is about to be released, from the list of all.
    pub(super) fn unregister(&mut self, slab: Slab) {
        self.lists().all.remove(slab);
        self.shared.unregistered.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a slab whose owner shares it. Returns `false`, and changes nothing, if other CPUs have
    /// freed blocks of it meanwhile.
    pub(super) fn share(&mut self, slab: Slab) -> bool {
        // Who sees that the slab is shared waits for the lock, and then finds it in its list.
        if !slab.disown(Ownership::Shared, false) {
            return false;
        }
        let class = slab.class();
        self.lists().partial[class].push(slab);
        self.update_length(class);
        true
    }

    /// Removes a shared slab from its list.
    pub(super) fn remove(&mut self, slab: Slab) {
        let class = slab.class();
        self.lists().partial[class].remove(slab);
        self.update_length(class);
    }

    fn update_length(&mut self, class: usize) {
        let length = self.lists().partial[class].len() as usize;
        self.shared.lengths[class].store(length, Ordering::Relaxed);
    }
}

impl Drop for SharedGuard<'_> {
    fn drop(&mut self) {
        self.shared.locked.store(false, Ordering::Release);
    }
}
