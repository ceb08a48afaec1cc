//! Collections in memory of the program's choice: on the stack, and in blocks of another allocator.
//!
//!     cargo run -p heap --example allocator_api

use std::alloc::Layout;

use allocator_api2::alloc::{Allocator, Global};
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use heap::source::{AllocatorSource, Claim};
use heap::talc::TalcCell;

fn main() {
    let mut memory = [0_u8; 10_000];
    // SAFETY: nothing else uses `memory` while `talc` does.
    let talc = TalcCell::new(unsafe { Claim::array(&raw mut memory) });

    let mut squares = Vec::with_capacity_in(10, &talc);
    squares.extend((1..=10).map(|n| n * n));
    let sum = Box::new_in(squares.iter().sum::<i32>(), &talc);
    println!("{squares:?} add up to {sum}");

    let layout = Layout::new::<[u64; 100]>();
    let block = talc.allocate_zeroed(layout).expect("the array has room");
    // SAFETY: the block was allocated with this layout, and is not used any more.
    unsafe { talc.deallocate(block.cast(), layout) };

    // An allocator for one task: dropping it frees all blocks that the task has leaked.
    let task = TalcCell::new(AllocatorSource::new(Global));
    let leaked = Box::leak(Box::new_in([1_u8; 100], &task));
    println!("{} bytes are freed with the allocator", leaked.len());
}
