//! `Allocator` for the lock and the cell, by value and by reference.
#![cfg_attr(feature = "nightly", feature(allocator_api, btreemap_alloc))]

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use common::memory::Memory;
use common::shadow::Shadow;
use heap::talc::source::Claim;
use heap::talc::{TalcCell, TalcLock};

type Lock = TalcLock<spin::Mutex<()>, Claim>;

fn claim(memory: &Memory) -> Claim {
    // SAFETY: in each test the memory outlives the allocator.
    unsafe { Claim::new(memory.base(), memory.size()) }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn collections_can_own_their_allocator() {
    let memory = Memory::new(1 << 16);
    let mut numbers = Vec::new_in(Lock::new(claim(&memory)));
    numbers.extend(0..1000);
    assert!(numbers.iter().copied().eq(0..1000));
    let memory = Memory::new(1 << 16);
    let mut numbers = Vec::new_in(TalcCell::new(claim(&memory)));
    numbers.extend(0..1000);
    assert!(numbers.iter().copied().eq(0..1000));
}

#[test]
fn collections_share_a_cell_and_free_all_their_memory() {
    let memory = Memory::new(1 << 17);
    let cell = TalcCell::new(claim(&memory));
    {
        let mut lists: std::vec::Vec<_> = (0..10).map(|_| Vec::new_in(&cell)).collect();
        for n in 0..1000 {
            lists[n % 10].push(Box::new_in(n, &cell));
        }
        lists.retain(|list| *list[0] % 2 == 0);
        assert!(lists.iter().flatten().all(|n| **n % 2 == 0));
    }
    let talc = cell.into_inner();
    talc.check().unwrap();
    assert_eq!(talc.gaps().count(), 1);
}

#[test]
fn zero_sized_blocks_take_no_memory() {
    let lock = Lock::new(Claim::standby());
    let nothing = lock.allocate(layout(0, 4096)).expect("always there");
    assert_eq!(
        (nothing.len(), nothing.cast::<u8>().addr().get() % 4096),
        (0, 0)
    );
    // SAFETY: the block is live, and each call gets its present layout.
    unsafe {
        let same = lock
            .grow(nothing.cast(), layout(0, 4096), layout(0, 1))
            .unwrap();
        assert!(lock.grow(same.cast(), layout(0, 1), layout(1, 1)).is_err());
        lock.deallocate(same.cast(), layout(0, 1));
    }
    assert!(lock.allocate(layout(1, 1)).is_err());

    let memory = Memory::new(1 << 16);
    let lock = Lock::new(claim(&memory));
    let nothing = lock.allocate(layout(0, 8)).unwrap();
    memory.assert_untouched(memory.base(), memory.end());
    // SAFETY: the block is live, and each call gets the last layout.
    unsafe {
        let some = lock
            .grow_zeroed(nothing.cast(), layout(0, 8), layout(100, 8))
            .unwrap();
        assert_eq!(some.as_ref(), [0; 100]);
        let nothing = lock
            .shrink(some.cast(), layout(100, 8), layout(0, 16))
            .unwrap();
        assert_eq!(nothing.len(), 0);
        assert_eq!(lock.lock().gaps().count(), 1, "it was freed");
        lock.deallocate(nothing.cast(), layout(0, 16));
    }
}

#[test]
fn resizing_in_place_accepts_an_already_aligned_block() {
    let memory = Memory::new(1 << 16);
    let lock = Lock::new(claim(&memory));
    let block = lock.allocate(layout(100, 4096)).unwrap();
    let may_stay = !cfg!(feature = "disable-realloc-in-place");
    let may_grow = may_stay && !cfg!(feature = "disable-grow-in-place");
    // SAFETY: the block is live, and each call gets the last layout.
    unsafe {
        let grown = lock
            .grow(block.cast(), layout(100, 4096), layout(5000, 16))
            .unwrap();
        assert_eq!(grown.cast::<u8>() == block.cast(), may_grow);
        let aligned = lock
            .grow(grown.cast(), layout(5000, 16), layout(5000, 4096))
            .unwrap();
        let shrunk = lock
            .shrink(aligned.cast(), layout(5000, 4096), layout(10, 512))
            .unwrap();
        assert_eq!(shrunk.cast::<u8>() == aligned.cast(), may_stay);
        let moved = lock
            .shrink(shrunk.cast(), layout(10, 512), layout(10, 8192))
            .unwrap();
        assert!(moved.cast::<u8>().addr().get() % 8192 == 0);
        lock.deallocate(moved.cast(), layout(10, 8192));
    }
    assert_eq!(lock.lock().gaps().count(), 1);
}

#[test]
fn a_failed_resize_leaves_the_block_unchanged() {
    let memory = Memory::new(1 << 14);
    let lock = Lock::new(claim(&memory));
    let mut shadow = Shadow::new();
    let old = layout(1000, 8);
    shadow.insert(lock.allocate(old).unwrap().cast().as_ptr(), old);
    let block = shadow.take_at(0);
    let ptr = NonNull::new(block.ptr).unwrap();
    // SAFETY: the block is live.
    unsafe {
        assert!(lock.grow(ptr, old, layout(1 << 15, 8)).is_err());
        assert!(lock.grow_zeroed(ptr, old, layout(1 << 15, 8)).is_err());
        assert!(lock.shrink(ptr, old, layout(999, 1 << 30)).is_err());
        block.assert_intact(1000);
        lock.deallocate(ptr, old);
    }
    assert_eq!(lock.lock().gaps().count(), 1);
}

#[cfg(feature = "nightly")]
#[test]
fn standard_collections_accept_the_allocators() {
    let memory = Memory::new(1 << 18);
    let cell = TalcCell::new(claim(&memory));
    let mut numbers = std::vec::Vec::new_in(&cell);
    numbers.extend(0..1000);
    let map: std::collections::BTreeMap<_, _, _> = {
        let mut map = std::collections::BTreeMap::new_in(&cell);
        map.extend(
            numbers
                .iter()
                .map(|n| (n, std::boxed::Box::new_in(n * n, &cell))),
        );
        map
    };
    assert!(map.into_iter().all(|(n, square)| *square == n * n));
}
