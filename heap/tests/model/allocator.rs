//! Model tests through `Allocator`: zero-sized blocks, growing and shrinking with changing
//! alignment.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use heap::talc::source::Claim;
use heap::talc::{TalcCell, TalcLock};

use crate::common::memory::Memory;
use crate::common::programs::{Program, for_programs};
use crate::common::random::Random;
use crate::common::shadow::Shadow;

fn random_layout(random: &mut Random, up_to: usize) -> Layout {
    layout(random.below(up_to + 1), 1 << random.below(8))
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn run(program: &Program, allocator: impl Allocator) {
    let mut shadow = Shadow::new();
    for mut random in program.steps() {
        step(&allocator, &mut shadow, &mut random);
    }
    while let Some(block) = shadow.take(&mut program.set_up()) {
        // SAFETY: the block is live.
        unsafe { allocator.deallocate(NonNull::new(block.ptr).unwrap(), block.layout) };
    }
}

fn step(allocator: &impl Allocator, shadow: &mut Shadow, random: &mut Random) {
    let choice = random.below(6);
    if choice < 2 {
        let new = random_layout(random, 1500);
        if let Ok(block) = allocator.allocate(new) {
            assert_eq!(block.len(), new.size());
            enter(shadow, block.cast(), new);
        }
        return;
    }
    let Some(block) = shadow.take(random) else {
        return;
    };
    let (old, ptr) = (block.layout, NonNull::new(block.ptr).unwrap());
    if choice == 2 {
        // SAFETY: the block is live.
        return unsafe { allocator.deallocate(ptr, old) };
    }
    let align = 1 << random.below(8);
    let grown = layout(old.size() + random.below(1000), align);
    let shrunk = layout(random.below(old.size() + 1), align);
    // SAFETY: the block is live, and the new size is larger or smaller as the call requires.
    let (new, result) = unsafe {
        match choice {
            3 => (grown, allocator.grow(ptr, old, grown)),
            4 => (grown, allocator.grow_zeroed(ptr, old, grown)),
            _ => (shrunk, allocator.shrink(ptr, old, shrunk)),
        }
    };
    let Ok(moved) = result else {
        return shadow.put_back(block, block.ptr, old.size());
    };
    assert_eq!(moved.len(), new.size());
    let common = old.size().min(new.size());
    block.moved_to(moved.cast().as_ptr()).assert_intact(common);
    if choice == 4 {
        // SAFETY: the block has this size.
        let bytes = unsafe { moved.as_ref() };
        assert!(bytes[old.size()..].iter().all(|&byte| byte == 0));
    }
    enter(shadow, moved.cast(), new);
}

/// Enters a block in the model. Zero-sized blocks take no memory, but are aligned.
fn enter(shadow: &mut Shadow, block: NonNull<u8>, layout: Layout) {
    assert!(block.addr().get() % layout.align() == 0);
    if layout.size() > 0 {
        shadow.insert(block.as_ptr(), layout);
    }
}

fn with_claim(program: &Program, test: impl FnOnce(Claim)) {
    let memory = Memory::new((8 << 10) + program.set_up().below(32 << 10));
    // SAFETY: the memory outlives the allocator, and only the allocator uses it.
    test(unsafe { Claim::new(memory.base(), memory.size()) });
}

#[test]
fn a_lock_and_blocks_of_changing_alignment() {
    for_programs(|program| {
        with_claim(program, |claim| {
            let lock = TalcLock::<spin::Mutex<()>, _>::new(claim);
            run(program, &lock);
            let talc = lock.into_inner();
            talc.check().unwrap();
            assert!(talc.gaps().count() <= 1, "not all merged");
        });
    });
}

#[test]
fn a_cell_and_blocks_of_changing_alignment() {
    for_programs(|program| {
        with_claim(program, |claim| {
            let cell = TalcCell::new(claim);
            run(program, &cell);
            let talc = cell.into_inner();
            talc.check().unwrap();
            assert!(talc.gaps().count() <= 1, "not all merged");
        });
    });
}
