//! `GlobalAllocSource` and `AllocatorSource`: heaps in blocks of another allocator.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::{swap, take};
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use heap::source::{AllocatorSource, Claim, GlobalAllocSource, StableGlobalAlloc};
use heap::talc::source::Source;
use heap::talc::{TalcCell, TalcLock};

/// A backing allocator that records its live blocks.
#[derive(Debug, Default)]
struct Backing {
    blocks: RefCell<BTreeMap<*mut u8, Layout>>,
    calls: Cell<usize>,
    fails_at: Cell<usize>,
}

impl Backing {
    fn count(&self) -> usize {
        self.blocks.borrow().len()
    }
}

// SAFETY: `System` allocates the blocks.
unsafe impl GlobalAlloc for &Backing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.calls.set(self.calls.get() + 1);
        if self.calls == self.fails_at {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller vouches for the layout.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            self.blocks.borrow_mut().insert(block, layout);
        }
        block
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let known = self.blocks.borrow_mut().remove(&ptr);
        assert_eq!(
            known,
            Some(layout),
            "this block was not allocated with this layout"
        );
        // SAFETY: the block was allocated with this layout. The pattern exposes later reads.
        unsafe {
            ptr.write_bytes(0xa5, layout.size());
            System.dealloc(ptr, layout);
        }
    }
}

// SAFETY: the blocks belong to `System`.
unsafe impl StableGlobalAlloc for &Backing {}

// SAFETY: `System` allocates the blocks, and they stay where they are.
unsafe impl Allocator for Backing {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the sizes of blocks are not zero.
        let block = NonNull::new(unsafe { GlobalAlloc::alloc(&self, layout) }).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches for block and layout.
        unsafe { GlobalAlloc::dealloc(&self, ptr.as_ptr(), layout) }
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn run<S: Source>(source: S, seed: u64) {
    let cell = TalcCell::new(source);
    let mut random = Random::new(seed);
    let mut shadow = Shadow::new();
    for step in 0..20_000 {
        let grows = step / 2000 % 2 == 0;
        if random.below(8) < if grows { 5 } else { 3 } {
            let layout = layout(random.size(13), 1 << random.below(13));
            // SAFETY: the size is not zero.
            let block = unsafe { cell.alloc(layout) };
            if !block.is_null() {
                shadow.insert(block, layout);
            }
        } else if let Some(block) = shadow.take(&mut random) {
            // SAFETY: the block is live.
            unsafe { cell.dealloc(block.ptr, block.layout) };
        }
    }
    shadow.assert_all_intact();
    cell.into_inner().check().unwrap();
}

#[test]
fn random_programs_keep_contents_and_free_all_blocks() {
    for (seed, block_size) in [1, 1 << 12, 1 << 16].into_iter().enumerate() {
        let backing = Backing::default();
        run(
            GlobalAllocSource::with_block_size(&backing, block_size),
            seed as u64,
        );
        assert_eq!(backing.count(), 0, "all blocks are freed at the end");
        assert!(backing.calls.get() > 1);
        let backing = Backing::default();
        run(
            AllocatorSource::with_block_size(&backing, block_size),
            seed as u64,
        );
        assert_eq!(backing.count(), 0, "all blocks are freed at the end");
    }
}

#[test]
fn empty_blocks_are_freed_except_the_last_one() {
    let backing = Backing::default();
    let cell = TalcCell::new(GlobalAllocSource::with_block_size(&backing, 1 << 12));
    {
        let _first = Box::new_in(0, &cell);
        let large: std::vec::Vec<_> = (0..20)
            .map(|_| Vec::<u8, _>::with_capacity_in(5000, &cell))
            .collect();
        assert!(backing.count() >= 20);
        drop(large);
        assert_eq!(backing.count(), 2);
    }
    let calls = backing.calls.get();
    for _ in 0..1000 {
        Vec::<u8, _>::with_capacity_in(5000, &cell);
    }
    assert_eq!(backing.calls.get(), calls, "no thrashing at the boundary");
}

#[test]
fn block_sizes_are_multiples_and_leave_room_for_the_request() {
    let block_size = 1 << 14;
    for align in [1, 64, 4096, 1 << 16] {
        for size in (15_000..17_000).step_by(61) {
            let backing = Backing::default();
            let cell = TalcCell::new(AllocatorSource::with_block_size(&backing, block_size));
            for _ in 0..2 {
                let block = cell.allocate(layout(size, align)).unwrap();
                assert_eq!(block.cast::<u8>().addr().get() % align, 0);
            }
            assert!(backing.calls.get() <= 2, "one call is enough");
            for layout in backing.blocks.borrow().values() {
                assert!(layout.size() % block_size == 0);
                assert!(layout.size() <= size + align + 3 * block_size);
            }
        }
    }
}

#[test]
fn a_backing_failure_at_any_call_fails_one_allocation() {
    for fails_at in 1.. {
        let backing = Backing::default();
        backing.fails_at.set(fails_at);
        let cell = TalcCell::new(GlobalAllocSource::with_block_size(&backing, 1 << 12));
        let mut blocks = std::vec::Vec::new();
        let mut failures = 0;
        for size in (1..40).map(|n| n * 97) {
            let block = cell.allocate(layout(size, 8)).or_else(|_| {
                failures += 1;
                cell.allocate(layout(size, 8))
            });
            blocks.push((block.unwrap().cast(), layout(size, 8)));
        }
        for (block, layout) in blocks {
            // SAFETY: the block is live.
            unsafe { cell.deallocate(block, layout) };
        }
        assert_eq!(backing.count(), 2);
        cell.into_inner().check().unwrap();
        assert_eq!(backing.count(), 0);
        if failures == 0 {
            assert!(fails_at > 10, "the program needed few blocks");
            return;
        }
    }
}

#[test]
fn sizes_near_the_address_space_are_refused() {
    let backing = Backing::default();
    let cell = TalcCell::new(GlobalAllocSource::new(&backing));
    for layout in [
        layout(isize::MAX as usize, 1),
        layout(isize::MAX as usize - 100, 8),
        layout(1 << (isize::BITS - 2), 1 << (isize::BITS - 2)),
    ] {
        assert!(cell.allocate(layout).is_err());
    }
    assert_eq!(backing.count(), 0);
}

#[test]
fn a_replaced_source_leaks_blocks_that_are_in_use() {
    let (old, new) = (Backing::default(), Backing::default());
    let mut cell = TalcCell::new(GlobalAllocSource::with_block_size(&old, 1 << 12));
    let mut numbers = Vec::new_in(&cell);
    numbers.extend(0..2000);
    let shared = &cell;
    let large: Vec<u8, _> = Vec::with_capacity_in(9000, shared);
    let in_use = old.count();
    drop(cell.replace_source(GlobalAllocSource::new(&new)));
    assert_eq!(old.count(), in_use);
    drop(large);
    assert!(numbers.iter().copied().eq(0..2000));
    drop(numbers);
    assert!(
        cell.allocate(layout(1 << 20, 1)).is_err(),
        "a bound allocator gets nothing from another source"
    );
    cell.get_mut().check().unwrap();
    drop(cell);
    assert_eq!((old.count(), new.count()), (in_use, 0));
    free_leaked(&old);
}

/// Frees blocks that the test leaks on purpose, so that a leak checker reports only others.
fn free_leaked(backing: &Backing) {
    for (base, layout) in take(&mut *backing.blocks.borrow_mut()) {
        // SAFETY: `System` allocated the block, and its users were dropped.
        unsafe { System.dealloc(base, layout) };
    }
}

#[test]
fn swapped_sources_do_no_harm() {
    let (left, right) = (Backing::default(), Backing::default());
    let mut a = TalcCell::new(AllocatorSource::with_block_size(&left, 1 << 12));
    let mut b = TalcCell::new(AllocatorSource::with_block_size(&right, 1 << 12));
    let block = a.allocate(layout(10_000, 8)).unwrap().cast();
    let other = b.allocate(layout(10_000, 8)).unwrap().cast();
    swap(&mut a.get_mut().source, &mut b.get_mut().source);
    assert!(a.allocate(layout(1 << 20, 8)).is_err());
    let (in_left, in_right) = (left.count(), right.count());
    // SAFETY: the blocks are live.
    unsafe {
        a.deallocate(block, layout(10_000, 8));
        b.deallocate(other, layout(10_000, 8));
    }
    assert_eq!((left.count(), right.count()), (in_left, in_right));
    drop(a);
    assert_eq!(
        (left.count(), right.count()),
        (in_left, in_right),
        "b lives"
    );
    drop(b);
    assert_eq!(left.count(), 0, "a was dropped before its source");
    free_leaked(&right);
}

#[test]
fn allocators_can_be_stacked() {
    let memory = Memory::new(1 << 18);
    // SAFETY: the memory outlives the allocators.
    let claim = unsafe { Claim::new(memory.base(), memory.size()) };
    let below = TalcCell::new(claim);
    {
        let above = TalcCell::new(AllocatorSource::with_block_size(&below, 1 << 13));
        let mut lists = Vec::new_in(&above);
        for n in 0..50 {
            let mut list = Vec::new_in(&above);
            list.extend(0..n * 10);
            lists.push(list);
        }
        assert!(
            lists
                .iter()
                .enumerate()
                .all(|(n, list)| list.len() == n * 10)
        );
    }
    assert_eq!(below.into_inner().gaps().count(), 1);
}

#[test]
fn a_source_goes_to_another_thread_with_its_allocator() {
    fn assert_send<T: Send>(_: &T) {}
    let lock = TalcLock::<spin::Mutex<()>, _>::new(GlobalAllocSource::new(System));
    assert_send(&lock);
    let numbers = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut numbers = Vec::new_in(&lock);
            numbers.extend(0..10_000);
            numbers
        });
        thread.join().unwrap()
    });
    assert!(numbers.iter().copied().eq(0..10_000));
}

#[test]
#[should_panic = "power of two"]
fn a_block_size_is_a_power_of_two() {
    GlobalAllocSource::with_block_size(System, 1000);
}
