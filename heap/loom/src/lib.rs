//! Models of the code in `heap` that uses atomics. Loom runs them in every order of the threads,
//! and with every value that a relaxed load may return.
//!
//! The models include two files unchanged: `bump/region.rs` of `heap`, and `smp/inbox.rs` of
//! `heap-x86_64`. Arenas and pools of boundary tags have no atomics: a lock, which the user of
//! `heap` chooses, guards all their state.
#![cfg(test)]

#[path = "../../src/bump/alloca.rs"]
#[allow(dead_code, missing_docs, reason = "`leaked` names it")]
mod alloca;
#[path = "../../src/bump/allocation.rs"]
#[allow(dead_code, missing_docs, reason = "the models use a part of it")]
mod allocation;
#[path = "../../x86_64/src/smp/inbox.rs"]
mod inbox;
mod inbox_tests;
#[path = "../../src/bump/leaked.rs"]
#[allow(
    dead_code,
    missing_docs,
    unused_imports,
    reason = "`allocation` names it"
)]
mod leaked;
#[path = "../../src/bump/region.rs"]
mod region;

use std::alloc::Layout;
use std::ptr::NonNull;

use allocation::{Allocation, Failure};
// `inbox` uses `atomic` and `cell` under these names.
use loom::cell::{self, UnsafeCell};
use loom::sync::Arc;
use loom::sync::atomic::{self, AtomicUsize};
use loom::thread;
use region::Region;

const CAPACITY: usize = 12;

/// The fields of a `Bump`, and for each byte a cell with which loom detects two writers.
struct Bump {
    used: AtomicUsize,
    storage: Box<[u64; 2]>,
    owners: Vec<UnsafeCell<usize>>,
}

impl Bump {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            storage: Box::default(),
            owners: (0..CAPACITY).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn region(&self) -> Region<'_, AtomicUsize> {
        let base = NonNull::from(&*self.storage).cast();
        // SAFETY: the storage is larger than `CAPACITY`, lives as long as `self`, and has one
        // count.
        unsafe { Region::new(base, CAPACITY, &self.used) }
    }

    /// Writes to each byte of an allocation.
    fn own(&self, allocation: &Allocation<'_>, size: usize, owner: usize) {
        let start = allocation.ptr.addr().get() - self.storage.as_ptr().addr();
        assert_eq!(start + size, allocation.level.byte_offset());
        self.own_bytes(start, start + size, owner);
    }

    fn own_bytes(&self, from: usize, to: usize, owner: usize) {
        for cell in &self.owners[from..to] {
            // SAFETY: loom panics if another thread accesses the cell, or did so unordered before.
            cell.with_mut(|byte| assert_eq!(unsafe { byte.replace(owner) }, 0));
        }
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn threads_never_get_the_same_bytes() {
    loom::model(|| {
        let bump = Bump::new();
        let threads = [1, 2].map(|owner| {
            let bump = bump.clone();
            thread::spawn(move || {
                let mut taken = 0;
                for layout in [layout(1, 1), layout(2 * owner, 2)] {
                    if let Ok(allocation) = bump.region().take(layout) {
                        assert!(allocation.ptr.addr().get().is_multiple_of(layout.align()));
                        bump.own(&allocation, layout.size(), owner);
                        taken += layout.size();
                    }
                }
                taken
            })
        });
        let taken = threads.map(|thread| thread.join().unwrap());
        // All fit, with any padding.
        assert_eq!(taken, [3, 5]);
        assert!((8..=CAPACITY).contains(&bump.region().level().byte_offset()));
    });
}

#[test]
fn of_two_threads_one_gets_the_last_bytes() {
    loom::model(|| {
        let bump = Bump::new();
        let threads = [1, 2].map(|owner| {
            let bump = bump.clone();
            thread::spawn(move || {
                let result = bump.region().take(layout(8, 4));
                if let Ok(allocation) = &result {
                    bump.own(allocation, 8, owner);
                }
                result.map(drop)
            })
        });
        let mut results = threads.map(|thread| thread.join().unwrap());
        results.sort_by_key(Result::is_err);
        assert_eq!(results, [Ok(()), Err(Failure::Exhausted)]);
    });
}

#[test]
fn an_allocation_at_a_level_follows_it_or_is_refused() {
    loom::model(|| {
        let bump = Bump::new();
        let other = bump.clone();
        let thread = thread::spawn(move || {
            let allocation = other.region().take(layout(2, 1)).unwrap();
            other.own(&allocation, 2, 2);
        });
        let region = bump.region();
        let first = region.take(layout(2, 1)).unwrap();
        bump.own(&first, 2, 1);
        match region.take_at(layout(2, 1), first.level) {
            Ok(second) => {
                assert_eq!(second.ptr.addr().get(), first.ptr.addr().get() + 2);
                bump.own(&second, 2, 1);
            }
            Err(failure) => {
                let observed = region.level();
                assert_eq!(failure, Failure::Mismatch { observed });
                assert!(observed > first.level);
            }
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_block_that_grows_in_place_gets_bytes_of_its_own() {
    loom::model(|| {
        let bump = Bump::new();
        let threads = [1, 2].map(|owner| {
            let bump = bump.clone();
            thread::spawn(move || {
                let region = bump.region();
                let block = region.take(layout(2, 1)).unwrap();
                bump.own(&block, 2, owner);
                let grown = region.try_grow(block.ptr.as_ptr(), 2, 5);
                if grown {
                    let end = block.level.byte_offset();
                    bump.own_bytes(end, end + 3, owner);
                }
                grown
            })
        });
        let grown = threads.map(|thread| thread.join().unwrap());
        // The thread that allocated last could grow its block.
        assert!(grown.contains(&true));
    });
}

#[test]
fn an_allocation_can_be_passed_to_another_thread() {
    use loom::sync::atomic::Ordering::{Acquire, Release};

    loom::model(|| {
        let bump = Bump::new();
        let published = Arc::new(AtomicUsize::new(0));
        let (from, publish) = (bump.clone(), published.clone());
        let thread = thread::spawn(move || {
            let block = from.region().take(layout(1, 1)).unwrap();
            from.own(&block, 1, 7);
            publish.store(block.level.byte_offset(), Release);
        });
        let end = published.load(Acquire);
        if end != 0 {
            // SAFETY: loom panics if another thread accesses the cell, or did so unordered before.
            bump.owners[end - 1].with(|byte| assert_eq!(unsafe { *byte }, 7));
        }
        // This thread also takes bytes of its own.
        let block = bump.region().take(layout(1, 1)).unwrap();
        bump.own(&block, 1, 1);
        thread.join().unwrap();
    });
}
