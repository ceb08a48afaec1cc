//! Slabs for small blocks, in front of Talc.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};

use heap::slab::{MAX_BLOCK_SIZE, MAX_HELD_BACK, SLAB_SIZE};
use kernel::heap::HEAP;
use kernel::memory::fault_injection::FRAMES;
use kernel::{audit, kernel_test};

use crate::support::{Blocks, Random, Snapshot, filled};

/// Whether small blocks come from slabs. With `hardened` each has a redzone, and is Talc's.
const SERVES: bool = cfg!(not(feature = "hardened"));

kernel_test! {
    fn small_blocks_take_whole_slabs_and_give_them_back() {
        let before = Snapshot::take();
        let slabs_before = HEAP.slabs().slabs();
        let mut boxes: Vec<_> = (0..10_000_u64).map(|n| Box::new([n; 8])).collect();
        if SERVES {
            let slabs = HEAP.slabs().slabs() - slabs_before;
            assert!((158..164).contains(&slabs), "{slabs} slabs for 63 blocks each");
        }
        // In an order that empties no slab before the end.
        for first in (0..63).rev() {
            let mut index = 0;
            boxes.retain(|numbers| {
                index += 1;
                assert!(numbers.iter().all(|number| number == &numbers[0]));
                index % (first + 1) != 0
            });
        }
        assert!(boxes.is_empty());
        drop(boxes);
        assert_eq!(Snapshot::take(), before);
    }
}

kernel_test! {
    fn free_slabs_are_held_back_up_to_the_stated_bound() {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for size in 1..=MAX_BLOCK_SIZE {
            blocks.push(filled(size as u8, size));
            blocks.push(filled(size as u8, size));
        }
        drop(blocks);
        let held_back = HEAP.slabs().held_back();
        assert!(held_back <= MAX_HELD_BACK, "{held_back} bytes");
        assert!(held_back >= SLAB_SIZE || !SERVES, "the next block would need a page");
        HEAP.reap();
        assert_eq!(HEAP.slabs().held_back(), 0);
    }
}

kernel_test! {
    fn a_small_block_is_refused_without_frames_and_nothing_is_lost() {
        let before = Snapshot::take();
        for refused in 0..20 {
            HEAP.reap();
            let mut kept = Vec::with_capacity(4000);
            FRAMES.fail_from(refused);
            let layout = Layout::new::<[u8; 400]>();
            while kept.len() < 4000 {
                // SAFETY: the size is not zero.
                let block = unsafe { HEAP.alloc(layout) };
                if block.is_null() {
                    break;
                }
                kept.push(block);
            }
            FRAMES.fail_never();
            assert_eq!(HEAP.check_slabs(), Ok(()), "after {refused} frames");
            assert!(kept.len() < 4000, "frames have run out");
            for block in kept.drain(..) {
                // SAFETY: the block is in use with this layout.
                unsafe { HEAP.dealloc(block, layout) };
            }
        }
        audit::quiesce();
        assert_eq!(Snapshot::take(), before);
    }
}

kernel_test! {
    fn a_small_program_finds_its_contents_in_slabs() {
        let mut random = Random::new(11);
        let mut blocks = Blocks::new();
        for _ in 0..20_000 {
            if random.below(100_000) > blocks.bytes() {
                let layout = Layout::from_size_align(1 + random.below(600), 1 << random.below(9));
                assert!(blocks.allocate(layout.expect("valid")).is_some());
            } else if random.below(8) == 0 {
                blocks.reallocate(&mut random);
            } else {
                blocks.free_any(&mut random);
            }
        }
        blocks.verify();
        assert_eq!(HEAP.check_slabs(), Ok(()));
    }
}

#[cfg(not(feature = "hardened"))]
kernel_test! {
    fn a_fault_in_a_slab_names_the_slab(should_fault = " of 252 blocks of 16 bytes, ") {
        let code = core::hint::black_box(Box::new([0xc3_u8; 16]));
        // SAFETY: jumping there is undefined on purpose: the heap is not executable.
        let code: extern "C" fn() = unsafe { core::mem::transmute(code.as_ptr()) };
        code();
    }
}
