//! Slabs in front of the heap, on CPUs that change at any time.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heap::slab::{Cpus, SlabAllocator};
use heap::source::StableGlobalAlloc;

use super::Heap;

/// The number of CPUs.
const CPUS: usize = 3;

/// Slabs in front of a heap that others use directly too.
pub(crate) type Slabs<'s, 'a> = SlabAllocator<Behind<'s, 'a>, Changing, CPUS>;

/// Returns slabs in front of a heap.
pub(crate) fn slabs<'s, 'a>(heap: &'s Heap<'a>) -> Slabs<'s, 'a> {
    Slabs::new(Behind(heap), Changing::default())
}

/// Gives all memory back that no block is in.
pub(crate) fn reap_all(slabs: &Slabs<'_, '_>) {
    // What one part holds back may belong to the slab of another, which was reaped before.
    for _ in 0..2 {
        slabs.reap();
    }
}

/// The heap behind the slabs.
pub(crate) struct Behind<'s, 'a>(&'s Heap<'a>);

// SAFETY: all operations are those of the heap.
unsafe impl GlobalAlloc for Behind<'_, '_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this method.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this method.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this method.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this method.
        unsafe { self.0.realloc(block, layout, size) }
    }
}

// SAFETY: the heap is behind a reference, so its blocks stay.
unsafe impl StableGlobalAlloc for Behind<'_, '_> {}

/// CPUs between which the code moves at random, each time that it may.
#[derive(Default)]
pub(crate) struct Changing {
    in_use: [AtomicBool; CPUS],
    /// How often CPUs have changed.
    changes: AtomicUsize,
}

impl Changing {
    /// Runs `work` unless another thread is on the CPU.
    fn try_on<R>(&self, cpu: usize, work: impl FnOnce(usize) -> R) -> Option<R> {
        if self.in_use[cpu].swap(true, Ordering::Acquire) {
            return None;
        }
        let result = work(cpu);
        self.in_use[cpu].store(false, Ordering::Release);
        Some(result)
    }
}

// SAFETY: the flag of each CPU excludes all others. Handlers run only while the heap behind works,
// which is outside `work`.
unsafe impl Cpus for Changing {
    const COUNT: usize = CPUS;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        let mut work = Some(work);
        loop {
            let change = self.changes.fetch_add(1, Ordering::Relaxed);
            // Most operations follow one on the same CPU.
            let cpu = change / 5 % CPUS;
            let run = |cpu| work.take().map(|work| work(cpu));
            if let Some(result) = self.try_on(cpu, run).flatten() {
                return result;
            }
            std::thread::yield_now();
        }
    }

    fn with_unused(&self, mut work: impl FnMut(usize)) {
        for cpu in 0..CPUS {
            self.try_on(cpu, &mut work);
        }
    }
}
