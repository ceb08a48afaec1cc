//! Holes of the kernel heap: pages inside it that are unmapped, and mapped again.
//!
//! With `hardened` the heap makes no holes: its free memory is filled with a pattern.

use alloc::vec::Vec;

use kernel::heap::HEAP;
use kernel::heap::decay::{self, Interval};
use kernel::interrupts::timer;
use kernel::kernel_test;
use kernel::memory::PAGE_SIZE;
use kernel::memory::fault_injection::FRAMES;

use crate::storm;
use crate::support::{Blocks, Random, filled};

const LARGE: usize = 50 * PAGE_SIZE;

/// Returns the blocks that are left when every second block of `LARGE` bytes was freed.
fn every_second() -> Vec<Vec<u8>> {
    let mut blocks: Vec<_> = (0..8).map(|number| filled(number, LARGE)).collect();
    let mut number = 0;
    blocks.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    blocks
}

fn verify(blocks: &[Vec<u8>]) {
    for (block, number) in blocks.iter().zip((1..).step_by(2)) {
        assert!(block.iter().all(|&byte| byte == number), "block {number}");
    }
}

kernel_test! {
    fn pages_inside_the_heap_go_back_and_come_again() {
        HEAP.reap();
        let blocks = every_second();
        let before = HEAP.stats();
        assert_eq!(before.holes, 0);
        HEAP.reap();
        let after = HEAP.stats();
        // Of the lowest free block, too, for something lies below it.
        assert!(after.holes >= 4 * (LARGE - 2 * PAGE_SIZE), "{after:?}");
        assert_eq!(after.mapped, after.claimed - after.holes);
        assert!(before.heap_frames - after.heap_frames >= 4 * 48, "{before:?} {after:?}");
        verify(&blocks);
        // What is allocated now lies in a hole, and is zero where it must be.
        let again = alloc::vec![0_u8; LARGE];
        assert!(again.iter().all(|&byte| byte == 0));
        assert_eq!(HEAP.stats().claimed, after.claimed);
        verify(&blocks);
    }

    fn what_stays_free_for_an_interval_is_unmapped() {
        let interval = decay::set_interval(Interval { frees: 0, ticks: 0 });
        HEAP.reap();
        let blocks = every_second();
        HEAP.decay();
        assert!(HEAP.stats().holes <= LARGE, "they have just been freed");
        HEAP.decay();
        assert!(HEAP.stats().holes >= 3 * (LARGE - 2 * PAGE_SIZE));

        // The heap does it without being asked, after some frees.
        HEAP.reap();
        let more = every_second();
        let before = HEAP.stats().holes;
        decay::set_interval(Interval { frees: 100, ticks: 0 });
        for _ in 0..400 {
            drop(filled(1, 1000));
        }
        assert!(HEAP.stats().holes >= before + 3 * (LARGE - 2 * PAGE_SIZE));
        verify(&blocks);
        verify(&more);
        decay::set_interval(interval);
    }

    /// The timer says that the interval has passed. The next free unmaps the pages.
    fn an_interval_passes_by_the_clock(deadline = 120) {
        let interval = decay::set_interval(Interval { frees: 0, ticks: 5 });
        HEAP.reap();
        let blocks = every_second();
        timer::start(1000);
        for _ in 0..4 {
            let ticks = timer::ticks();
            while timer::ticks() < ticks + 6 {
                x86_64::instructions::hlt();
            }
            drop(filled(1, 1000));
        }
        timer::stop();
        assert!(HEAP.stats().holes >= 3 * (LARGE - 2 * PAGE_SIZE));
        verify(&blocks);
        decay::set_interval(interval);
    }

    /// Frames run out at each step of a restore. The allocation fails, or gets other memory.
    fn a_restore_that_fails_changes_nothing(deadline = 240) {
        let interval = decay::set_interval(Interval { frees: 0, ticks: 0 });
        HEAP.reap();
        let blocks = every_second();
        HEAP.reap();
        for calls in 0..120 {
            FRAMES.fail_from(calls);
            let mut block = Vec::<u8>::new();
            let result = block.try_reserve_exact(LARGE - 2 * PAGE_SIZE);
            let failed = FRAMES.fail_never();
            assert_eq!(result.is_err(), failed > 0, "{calls} calls");
            drop(block);
            HEAP.reap();
            kernel::audit::check().expect("all layers agree");
            verify(&blocks);
            if failed == 0 {
                assert!(calls > 40);
                decay::set_interval(interval);
                return;
            }
        }
        panic!("a restore takes fewer calls");
    }

    /// When frames run out, free pages inside the heap go back before an allocation fails.
    fn exhaustion_takes_pages_from_inside_the_heap(deadline = 120) {
        const FREE: usize = 32 << 20;
        HEAP.reap();
        // What is left is so little that its page tables take less than the pages that go back.
        let free = || kernel::memory::frames::usage().free * PAGE_SIZE;
        let mut rest = Vec::<u8>::new();
        rest.try_reserve_exact(free().saturating_sub(FREE)).expect("as much is free");
        let mut blocks = every_second();
        let free = free();
        // More than is free: the rest must come from inside the heap. It does not fit there.
        let mut large = Vec::<u8>::new();
        large.try_reserve_exact(free + LARGE).expect("pages inside the heap go back");
        verify(&blocks);
        drop((large, rest));
        blocks.clear();
    }

    /// The timer's handler allocates and frees while pages inside the heap are unmapped.
    fn handlers_allocate_while_pages_go_back(deadline = 240) {
        const COUNT: u64 = 20_000;
        let mut random = Random::new(11);
        let mut blocks = Blocks::new();
        let (last, _) = storm::start_for(COUNT);
        let (mut passes, mut most) = (0, 0);
        while storm::ticks() <= last {
            for _ in 0..10 {
                if blocks.bytes() < 1 << 20 {
                    let layout = core::alloc::Layout::from_size_align(
                        1 + random.below(20_000),
                        1 << random.below(7),
                    );
                    assert!(blocks.allocate(layout.expect("valid")).is_some());
                } else {
                    blocks.free_half(&mut random);
                }
            }
            HEAP.decay();
            most = most.max(HEAP.stats().holes);
            if random.below(4) == 0 {
                HEAP.reap();
            }
            passes += 1;
        }
        storm::stop();
        blocks.verify();
        kernel::println!("{passes} passes, at most {most} bytes in holes");
        assert!(most > 100_000 && passes > 10);
    }
}
