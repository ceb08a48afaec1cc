//! Hooks: where and when misuse is reported.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::{NonNull, without_provenance_mut};

use allocator_api2::alloc::Allocator;
use heap::talc::base::Talc;
use heap::talc::hardened::{Misuse, Report};
use heap::talc::source::{Claim, Manual};
use heap::talc::{DefaultBinning, TalcCell, TalcLock, min_first_heap_size};

use super::{assert_reported, layout, note, reports};
use crate::common::memory::Memory;

#[test]
#[should_panic = "heap misuse at"]
fn misuse_panics_unless_a_hook_is_set() {
    let memory = Memory::new(1 << 14);
    let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    // SAFETY: only this test uses the memory; the detector refuses the second free.
    unsafe {
        talc.claim(memory.base(), memory.size()).unwrap();
        let block = talc.allocate(layout(10)).unwrap().as_ptr();
        talc.deallocate(block, layout(10));
        talc.deallocate(block, layout(10));
    }
}

type Lock = TalcLock<spin::Mutex<()>, Claim>;

static LOCK: Lock = TalcLock::new({
    const SIZE: usize = min_first_heap_size::<DefaultBinning>() + (1 << 16);
    static mut MEMORY: [u8; SIZE] = [0; SIZE];
    // SAFETY: only the heap uses `MEMORY`.
    unsafe { Claim::array(&raw mut MEMORY) }
});

/// A hook that allocates from the allocator it reports about, whose lock is free.
fn note_in_lock(report: &Report) {
    // SAFETY: sizes are not zero, and the block is freed as it was allocated.
    unsafe {
        let layout = layout(64);
        let block = LOCK.alloc(layout);
        assert!(!block.is_null());
        LOCK.dealloc(block, layout);
    }
    note(report);
}

#[test]
fn a_hook_may_allocate_because_the_lock_is_free() {
    LOCK.lock().set_hook(note_in_lock);
    let (right, wrong) = (layout(100), layout(50));
    let misuse = Misuse::WrongLayout {
        expected: right,
        found: wrong,
    };
    // SAFETY: the detector refuses the misuse.
    unsafe {
        let block = LOCK.alloc(right);
        LOCK.dealloc(block, wrong);
        assert_reported(block, misuse);
        // The block stays allocated, and is not copied with the wrong size.
        assert!(LOCK.realloc(block, wrong, 5000).is_null());
        assert_reported(block, misuse);
        assert!(LOCK.realloc(block, wrong, 20).is_null());
        assert_reported(block, misuse);
        let shared = &LOCK;
        let pointer = NonNull::new(block).unwrap();
        assert!(shared.grow(pointer, wrong, layout(200)).is_err());
        assert_reported(block, misuse);
        assert!(shared.shrink(pointer, wrong, layout(20)).is_err());
        assert_reported(block, misuse);
        // Unmapped memory is not read.
        let nowhere = without_provenance_mut(4096);
        assert!(LOCK.realloc(nowhere, right, 5000).is_null());
        assert_reported(nowhere, Misuse::ForeignPointer);
        LOCK.dealloc(block, right);
    }
    assert_eq!(LOCK.lock().check(), Ok(()));
    assert_eq!(reports(), []);
}

#[test]
fn a_cell_reports_after_its_borrow_has_ended() {
    thread_local! {
        static CELL: Cell<Option<&'static TalcCell<Claim>>> = const { Cell::new(None) };
    }
    let memory = Memory::new(1 << 16);
    // SAFETY: the memory outlives the cell.
    let claim = unsafe { Claim::new(memory.base(), memory.size()) };
    let mut cell = TalcCell::new(claim);
    cell.get_mut().set_hook(|report| {
        let cell = CELL.get().unwrap();
        let block = cell.allocate(layout(10)).expect("it is free").cast();
        // SAFETY: the block is live.
        unsafe { cell.deallocate(block, layout(10)) };
        note(report);
    });
    let cell: &'static TalcCell<Claim> = Box::leak(Box::new(cell));
    CELL.set(Some(cell));
    let block = cell.allocate(layout(100)).unwrap().cast::<u8>();
    // SAFETY: the detector refuses the misuse.
    unsafe { cell.deallocate(block, layout(99)) };
    let misuse = Misuse::WrongLayout {
        expected: layout(100),
        found: layout(99),
    };
    assert_reported(block.as_ptr(), misuse);
    std::mem::forget(memory);
}

#[test]
fn a_resized_block_is_freed_with_its_new_alignment() {
    let memory = Memory::new(1 << 16);
    // SAFETY: the memory outlives the lock.
    let lock: Lock = TalcLock::new(unsafe { Claim::new(memory.base(), memory.size()) });
    lock.lock().set_hook(note);
    let with = |size, align| Layout::from_size_align(size, align).unwrap();
    // SAFETY: the detector refuses the misuse.
    unsafe {
        let block = lock.allocate(with(100, 1)).unwrap().cast();
        let block = lock.grow(block, with(100, 1), with(200, 4)).unwrap().cast();
        let block: NonNull<u8> = lock
            .shrink(block, with(200, 4), with(50, 16))
            .unwrap()
            .cast();
        lock.deallocate(block, with(50, 4));
        let misuse = Misuse::WrongLayout {
            expected: with(50, 16),
            found: with(50, 4),
        };
        assert_reported(block.as_ptr(), misuse);
        lock.deallocate(block, with(50, 16));
    }
    assert_eq!(reports(), []);
    assert_eq!(lock.lock().check(), Ok(()));
}
