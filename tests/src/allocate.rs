//! Allocation and reallocation on the kernel heap, with verified contents.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;

use kernel::heap::HEAP;
use kernel::kernel_test;

use crate::support::{Blocks, Random, filled};

kernel_test! {
    fn boxes_and_reference_counts_hold_their_values() {
        let boxes: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
        assert!(boxes.iter().zip(0..).all(|(boxed, value)| **boxed == value));
        let shared = Rc::new([7_u8; 100]);
        let others: Vec<_> = (0..10).map(|_| Rc::clone(&shared)).collect();
        assert_eq!(Rc::strong_count(&shared), 11);
        assert!(others.iter().all(|other| other[99] == 7));
    }
}

kernel_test! {
    fn a_vector_grows_to_a_million_numbers() {
        let mut numbers = Vec::new();
        for number in 0..1_000_000_u32 {
            numbers.push(number);
        }
        assert_eq!(numbers.iter().map(|&number| u64::from(number)).sum::<u64>(), 499_999_500_000);
    }
}

kernel_test! {
    fn maps_strings_and_queues_keep_their_order() {
        let mut map = BTreeMap::new();
        let mut random = Random::new(11);
        for _ in 0..5000 {
            let key = random.below(100_000);
            map.insert(key, alloc::format!("value {key}"));
        }
        assert!(map.iter().all(|(key, value)| *value == alloc::format!("value {key}")));
        let keys: Vec<_> = map.keys().copied().collect();
        assert!(keys.is_sorted());
        for key in keys.iter().step_by(2) {
            map.remove(key);
        }
        assert_eq!(map.len(), keys.len() / 2);
        let mut queue: VecDeque<String> = map.into_values().collect();
        let front = queue.pop_front();
        assert!(front.is_some_and(|value| value.starts_with("value ")));
    }
}

kernel_test! {
    fn every_alignment_up_to_two_mebibytes_is_met() {
        let mut blocks = Blocks::new();
        for log in 0..=21 {
            for size in [1, 24, 4096, (1 << log) + 1] {
                let layout = Layout::from_size_align(size, 1 << log).expect("a small layout");
                let block = blocks.allocate(layout).expect("memory is free");
                assert_eq!(block.addr() % layout.align(), 0, "{layout:?} at {block:p}");
            }
        }
        blocks.verify();
    }
}

kernel_test! {
    fn sizes_near_their_alignment_do_not_overlap() {
        let mut blocks = Blocks::new();
        for align in [256_usize, 512, 1024, 4096] {
            for size in [1, align - 1, align, align + 1, 2 * align - 32, 2 * align] {
                for _ in 0..4 {
                    let layout = Layout::from_size_align(size, align).expect("a small layout");
                    let block = blocks.allocate(layout).expect("memory is free");
                    assert_eq!(block.addr() % align, 0);
                }
            }
        }
        blocks.verify();
    }
}

kernel_test! {
    fn zeroed_memory_is_zero_where_it_was_dirty() {
        let dirty: Vec<Vec<u8>> = (1..50).map(|n| filled(0xEE, n * 300)).collect();
        drop(dirty);
        for n in 1..50 {
            let zeroed = filled(0, n * 300);
            assert!(zeroed.iter().all(|&byte| byte == 0), "{} bytes", n * 300);
        }
        let large = filled(0, 3 << 20);
        assert!(large.iter().all(|&byte| byte == 0));
    }
}

kernel_test! {
    fn realloc_in_place_keeps_the_address() {
        // In Talc, and in a slab: the blocks of both sizes have 496 bytes.
        for (large, small) in [(2000, 600), (490, 410)] {
            let of = |size| Layout::from_size_align(size, 8).expect("a small layout");
            // SAFETY: no size is zero; each block is freed with the size it has then.
            unsafe {
                let block = HEAP.alloc(of(large));
                assert!(!block.is_null());
                block.write_bytes(0x5A, large);
                let shrunk = HEAP.realloc(block, of(large), small);
                assert_eq!(shrunk, block, "shrinking does not move");
                let grown = HEAP.realloc(shrunk, of(small), large);
                assert_eq!(grown, block, "the bytes above are free after shrinking");
                assert!((0..small).all(|at| *grown.add(at) == 0x5A));
                HEAP.dealloc(grown, of(large));
            }
        }
    }
}

kernel_test! {
    fn realloc_that_moves_copies_the_contents() {
        let mut vectors: Vec<Vec<u32>> = (0..20).map(|n| vec![n; 16]).collect();
        // Each vector blocks the growth of the vector before it.
        for round in 0..10 {
            for (vector, n) in vectors.iter_mut().zip(0..) {
                vector.resize(vector.len() * 2, n);
                assert!(vector.iter().all(|&value| value == n), "vector {n}, round {round}");
            }
        }
    }
}

kernel_test! {
    fn realloc_keeps_large_alignments_and_contents() {
        for align in [64, 4096, 1 << 16] {
            let mut layout = Layout::from_size_align(100, align).expect("a small layout");
            // SAFETY: no size is zero; the block is always passed with its layout.
            unsafe {
                let mut block = HEAP.alloc(layout);
                block.write_bytes(0xC3, 100);
                let mut others = Blocks::new();
                for size in [200, 5000, 300, 100_000, 100] {
                    others.allocate(Layout::from_size_align(64, 8).expect("a small layout"));
                    block = HEAP.realloc(block, layout, size);
                    assert!(!block.is_null());
                    layout = Layout::from_size_align(size, align).expect("a small layout");
                    assert_eq!(block.addr() % align, 0);
                    assert!((0..100).all(|at| *block.add(at) == 0xC3));
                }
                HEAP.dealloc(block, layout);
            }
        }
    }
}

kernel_test! {
    fn zero_sized_types_take_no_memory() {
        let before = HEAP.stats();
        let units: Vec<()> = vec![(); 1_000_000];
        let boxed = Box::new(());
        assert_eq!(HEAP.stats(), before);
        assert_eq!(units.len(), 1_000_000);
        drop(boxed);
    }
}

kernel_test! {
    fn a_layout_larger_than_memory_fails_and_changes_nothing() {
        HEAP.reap();
        let before = HEAP.stats();
        for size in [isize::MAX as usize, isize::MAX as usize - 4096, 1 << 46, 1 << 38] {
            let layout = Layout::from_size_align(black_box(size), 1).expect("a valid layout");
            // SAFETY: the size is not zero.
            assert!(unsafe { HEAP.alloc(layout) }.is_null(), "{size:#x} bytes");
        }
        let widest = Layout::from_size_align(1, 1 << 62).expect("a valid layout");
        // SAFETY: the size is not zero.
        assert!(unsafe { HEAP.alloc(widest) }.is_null());
        HEAP.reap();
        assert_eq!(HEAP.stats(), before);
    }
}

kernel_test! {
    fn random_programs_find_their_contents_unchanged() {
        for seed in 1..=5 {
            let mut random = Random::new(seed);
            let mut blocks = Blocks::new();
            for step in 0..4000 {
                match random.below(8) {
                    0..=3 => {
                        let size = random.size(15);
                        let layout = Layout::from_size_align(size, 1 << random.below(8))
                            .expect("a small layout");
                        assert!(
                            blocks.allocate(layout).is_some(),
                            "seed {seed}, step {step}"
                        );
                    }
                    4 => blocks.reallocate(&mut random),
                    _ => blocks.free_any(&mut random),
                }
            }
            blocks.verify();
        }
    }
}

kernel_test! {
    fn churn_of_tiny_blocks_does_not_fragment_the_heap() {
        // Regression scenario 4: blocks of 1 to 4 bytes, then 64 bytes, in 8 MiB.
        let mut random = Random::new(53);
        let mut blocks = Blocks::new();
        for _ in 0..60_000 {
            if blocks.bytes() < 100_000 && random.below(3) > 0 {
                let layout =
                    Layout::from_size_align(1 + random.below(4), 1).expect("a small layout");
                assert!(blocks.allocate(layout).is_some());
            } else {
                blocks.free_any(&mut random);
            }
        }
        assert!(
            blocks
                .allocate(Layout::from_size_align(64, 8).expect("a small layout"))
                .is_some()
        );
        assert_eq!(HEAP.core().lock().check(), Ok(()));
        blocks.verify();
    }
}
