//! How long interrupts are masked by the heap and the layers below it, and by the console.

use alloc::vec::Vec;
use core::alloc::Layout;

use heap::vmem::AllocPolicy;
use kernel::heap::HEAP;
use kernel::memory::frames;
use kernel::memory::{PAGE_SIZE, heap_pages};
use kernel::sync::masked_time;
use kernel::{kernel_test, println, time_stamp};

use crate::support::{Blocks, Random, heap_pages_arena};

/// The pages that what is done with interrupts masked may take as long as.
const PAGES: usize = 16;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small layout")
}

/// Returns how long [`PAGES`] pages take, by the time-stamp counter: to be mapped, or, which takes
/// longer, to be unmapped and cleared.
fn time_of_pages() -> u64 {
    let pages = Layout::from_size_align(PAGES * PAGE_SIZE, PAGE_SIZE).expect("a small layout");
    let measure = || {
        let began = time_stamp();
        let base = heap_pages_arena().alloc(pages.size(), AllocPolicy::InstantFit);
        let mapped = time_stamp();
        heap_pages_arena()
            .free(base.expect("memory is free"))
            .expect("allocated above");
        (mapped - began).max(time_stamp() - mapped)
    };
    measure().min(measure())
}

/// Blocks of all sizes come and go, the heap grows, shrinks and gets holes, and pages come again.
fn run(random: &mut Random) {
    let mut blocks = Blocks::new();
    for round in 0..40 {
        for _ in 0..300 {
            match random.below(8) {
                0..4 => {
                    let size = random.size(13);
                    blocks.allocate(layout(size)).expect("memory is free");
                }
                4 => {
                    let size = random.size(16);
                    blocks
                        .allocate_zeroed(layout(size))
                        .expect("memory is free");
                }
                5 => blocks.reallocate(random),
                _ => blocks.free_any(random),
            }
        }
        match round % 8 {
            1 | 5 => blocks.free_half(random),
            2 => _ = HEAP.decay(),
            4 => _ = HEAP.reap(),
            6 => _ = HEAP.drain(),
            _ => {}
        }
        // More than one growth, and more than one batch of pages.
        let size = (1 + random.below(24)) << 16;
        blocks.allocate(layout(size)).expect("memory is free");
    }
}

/// Prints a histogram, and asserts that interrupts were not masked for longer than `bound`.
fn check(what: &str, bound: u64) {
    let histogram = masked_time::take();
    println!("how long interrupts were masked {what}, by the time-stamp counter:\n{histogram}");
    println!("    {PAGES} pages take {bound}");
    assert!(histogram.longest <= bound);
}

kernel_test! {
    fn interrupts_are_masked_no_longer_than_sixteen_pages_take(
        deadline = 300,
        counts_instructions = true,
    ) {
        let bound = time_of_pages();
        masked_time::take();
        run(&mut Random::new(1));
        HEAP.reap();
        check("by a program", bound);
    }

    /// A large block is mapped at once, and unmapped.
    fn a_large_block_masks_interrupts_no_longer(deadline = 120, counts_instructions = true) {
        HEAP.reap();
        let bound = time_of_pages();
        masked_time::take();
        let size = frames::usage().free / 2 * PAGE_SIZE;
        let mut block: Vec<u8> = Vec::new();
        block.try_reserve_exact(size).expect("half of all frames");
        assert!(heap_pages().allocated_space() > size);
        drop(block);
        HEAP.reap();
        check("by a block of half of all memory", bound);
    }

    /// Memory runs out: everything is tried before an allocation fails.
    fn running_out_masks_interrupts_no_longer(deadline = 300, counts_instructions = true) {
        HEAP.reap();
        let bound = time_of_pages();
        masked_time::take();
        let mut blocks = Vec::with_capacity(frames::usage().free);
        let large = layout(20 * PAGE_SIZE);
        // SAFETY: the size is not zero.
        while let Some(block) = core::ptr::NonNull::new(unsafe { alloc::alloc::alloc(large) }) {
            blocks.push(block);
        }
        for block in blocks {
            // SAFETY: the block is live, and is freed once.
            unsafe { alloc::alloc::dealloc(block.as_ptr(), large) };
        }
        HEAP.reap();
        check("by running out of memory", bound);
    }
    /// Text is drawn, and the screen scrolls, while interrupts are enabled.
    fn printing_masks_interrupts_no_longer(counts_instructions = true) {
        let bound = time_of_pages();
        masked_time::take();
        for line in 0..100 {
            println!("line {line} of one hundred, which are more than the screen has");
        }
        check("by printing", bound);
    }
}
