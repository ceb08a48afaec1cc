//! Model tests through `GlobalAlloc`: a lock and a cell, over sources of every kind.

use std::alloc::{GlobalAlloc, System};
use std::slice;

use allocator_api2::alloc::Global;
use heap::talc::source::{AllocatorSource, Claim, GlobalAllocSource, Source};
use heap::talc::{DefaultBinning, TalcCell, TalcLock, min_first_heap_size};

use super::operations::{is_growing, random_layout};
use crate::common::memory::Memory;
use crate::common::programs::{Program, for_programs};
use crate::common::random::Random;
use crate::common::shadow::Shadow;

/// Allocates (zeroed or not), frees or reallocates. Returns whether memory sufficed.
pub(crate) fn step(
    allocator: &impl GlobalAlloc,
    shadow: &mut Shadow,
    random: &mut Random,
    growing: bool,
) -> bool {
    let choice = random.below(16);
    if choice < if growing { 10 } else { 3 } {
        let layout = random_layout(random);
        let zeroed = random.below(4) == 0;
        // SAFETY: the size is not zero.
        let block = unsafe {
            if zeroed {
                allocator.alloc_zeroed(layout)
            } else {
                allocator.alloc(layout)
            }
        };
        if block.is_null() {
            return false;
        }
        if zeroed {
            // SAFETY: the block has this size and is initialised.
            let bytes = unsafe { slice::from_raw_parts(block, layout.size()) };
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "not zeroed: {layout:?}"
            );
        }
        shadow.insert(block, layout);
    } else if let Some(block) = shadow.take(random) {
        if choice < 12 {
            // SAFETY: the block is live.
            unsafe { allocator.dealloc(block.ptr, block.layout) };
            return true;
        }
        let new_size = random_layout(random).size();
        // SAFETY: the block is live and the new size not zero.
        let moved = unsafe { allocator.realloc(block.ptr, block.layout, new_size) };
        if moved.is_null() {
            shadow.put_back(block, block.ptr, block.layout.size());
            return false;
        }
        shadow.put_back(block, moved, new_size);
    }
    true
}

/// Runs a program, and checks the allocator after each step. Returns the number of steps for which
/// memory did not suffice.
pub(crate) fn run<A: GlobalAlloc>(
    program: &Program,
    allocator: &A,
    check: impl Fn(&A, &Shadow),
) -> usize {
    let mut shadow = Shadow::new();
    let mut failures = 0;
    for (index, mut random) in program.steps().enumerate() {
        if !step(allocator, &mut shadow, &mut random, is_growing(index)) {
            failures += 1;
        }
        check(allocator, &shadow);
    }
    let mut random = program.set_up();
    while let Some(block) = shadow.take(&mut random) {
        // SAFETY: the block is live.
        unsafe { allocator.dealloc(block.ptr, block.layout) };
    }
    check(allocator, &shadow);
    failures
}

type Lock<S> = TalcLock<spin::Mutex<()>, S>;

fn check_lock<S: Source>(lock: &Lock<S>, _: &Shadow) {
    lock.lock().check().unwrap();
}

#[test]
fn a_lock_over_one_claimed_range() {
    for_programs(|program| {
        let least = min_first_heap_size::<DefaultBinning>();
        let memory = Memory::new(least + program.set_up().below(16 << 10));
        // SAFETY: the memory outlives the allocator, and only the allocator uses it.
        let claim = unsafe { Claim::new(memory.base(), memory.size()) };
        run(program, &Lock::new(claim), check_lock);
    });
}

#[test]
fn a_lock_over_blocks_of_another_global_allocator() {
    for_programs(|program| {
        let block_size = 1 << (9 + program.set_up().below(6));
        let source = GlobalAllocSource::with_block_size(System, block_size);
        let failures = run(program, &Lock::new(source), check_lock);
        assert_eq!(failures, 0);
    });
}

#[test]
fn a_cell_over_blocks_of_another_allocator() {
    for_programs(|program| {
        let block_size = 1 << (9 + program.set_up().below(6));
        let cell = TalcCell::new(AllocatorSource::with_block_size(Global, block_size));
        let failures = run(program, &cell, |_, _| {});
        assert_eq!(failures, 0);
        cell.into_inner().check().unwrap();
    });
}
