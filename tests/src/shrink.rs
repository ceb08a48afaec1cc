//! Shrinking: free pages are unmapped.

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};

use kernel::heap::HEAP;
use kernel::kernel_test;
use kernel::memory::{PAGE_SIZE, mapped_pages};
use x86_64::instructions::interrupts;

use crate::support::{Blocks, OwnedFrame, Random, filled, kernel_addresses_arena};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

kernel_test! {
    fn freeing_a_large_block_unmaps_its_pages() {
        HEAP.reap();
        let before = HEAP.stats();
        let block = filled(1, 8 * MIB);
        assert!(mapped_pages::mapped() * PAGE_SIZE >= before.mapped + 8 * MIB);
        drop(block);
        let after = HEAP.stats();
        assert!(
            after.mapped <= before.mapped + 2 * MIB,
            "{} bytes stay mapped",
            after.mapped - before.mapped
        );
        assert!(after.heap_frames <= before.heap_frames + 2 * MIB / PAGE_SIZE);
    }
}

kernel_test! {
    fn shrink_to_fit_unmaps_pages() {
        HEAP.reap();
        let before = mapped_pages::mapped();
        let mut vector = filled(7, 16 * MIB);
        vector.truncate(10 * KIB);
        vector.shrink_to_fit();
        let mapped = (mapped_pages::mapped() - before) * PAGE_SIZE;
        assert!(mapped <= 2 * MIB, "{mapped} bytes stay mapped for 10 KiB");
        assert!(vector.iter().all(|&byte| byte == 7));
    }
}

kernel_test! {
    fn trimming_leaves_less_than_a_page_free_at_the_top() {
        let block = filled(1, 3 * MIB);
        drop(block);
        HEAP.reap();
        let talc = HEAP.core().lock();
        for heap in talc.arena_heaps() {
            // SAFETY: `heap.end` is the present end of the heap.
            let reserved = unsafe { talc.reserved(heap.end) };
            assert!(heap.end.addr().get() - reserved.up_to.addr().get() < PAGE_SIZE);
            assert_eq!(heap.retained, heap.size);
        }
    }
}

kernel_test! {
    fn an_empty_heap_is_unmapped() {
        HEAP.reap();
        let heap = HEAP
            .core()
            .lock()
            .arena_heaps()
            .next()
            .expect("the harness has allocated");
        let obstacle = heap.base.addr().get() + heap.size + PAGE_SIZE;
        kernel_addresses_arena()
            .xalloc_at(obstacle, PAGE_SIZE)
            .expect("only the guard lies above the heap");
        let before = HEAP.stats();
        let blocks: Vec<Vec<u8>> = (0..20).map(|_| filled(5, 50 * KIB)).collect();
        let during = HEAP.stats();
        assert!(during.heaps > before.heaps && during.mapped > before.mapped + 900 * KIB);
        drop(blocks);
        HEAP.reap();
        assert_eq!(HEAP.stats(), before);
        kernel_addresses_arena()
            .free(obstacle)
            .expect("allocated above");
    }
}

kernel_test! {
    fn random_programs_return_to_the_initial_state() {
        HEAP.reap();
        let before = HEAP.stats();
        for seed in 20..24 {
            let mut random = Random::new(seed);
            let mut blocks = Blocks::new();
            for _ in 0..3000 {
                if random.below(5) < 3 {
                    let size = random.size(17);
                    assert!(
                        blocks
                            .allocate(Layout::from_size_align(size, 8).expect("valid"))
                            .is_some()
                    );
                } else {
                    blocks.free_any(&mut random);
                }
            }
            drop(blocks);
            HEAP.reap();
            assert_eq!(HEAP.stats(), before, "seed {seed}");
        }
    }
}

kernel_test! {
    fn crossing_a_boundary_100_000_times_maps_few_pages(deadline = 240) {
        HEAP.reap();
        let before = mapped_pages::ever_mapped();
        let layout = Layout::from_size_align(PAGE_SIZE, 8).expect("valid");
        for _ in 0..100_000 {
            // SAFETY: the size is not zero; the block is freed with its layout.
            unsafe {
                let block = HEAP.alloc(layout);
                assert!(!block.is_null());
                HEAP.dealloc(block, layout);
            }
        }
        let mapped = mapped_pages::ever_mapped() - before;
        assert!(mapped <= 64, "{mapped} pages were mapped");
    }
}

kernel_test! {
    fn pages_freed_with_interrupts_masked_are_queued() {
        HEAP.reap();
        let block = filled(1, 8 * MIB);
        let during = mapped_pages::mapped();
        interrupts::without_interrupts(|| {
            drop(block);
            assert_eq!(
                mapped_pages::mapped(),
                during,
                "no page is unmapped while interrupts are masked"
            );
            assert!(HEAP.core().lock().source.has_pending_releases());
        });
        // Slabs serve small blocks without asking Talc.
        drop(filled(0, 1000));
        assert!(
            mapped_pages::mapped() < during - 4 * MIB / PAGE_SIZE,
            "the next call that reaches Talc drained"
        );
    }
}

kernel_test! {
    fn queued_pages_are_reused_without_mapping() {
        HEAP.reap();
        let block = filled(1, 8 * MIB);
        let ever = mapped_pages::ever_mapped();
        interrupts::without_interrupts(|| {
            drop(block);
            let again = filled(2, 8 * MIB);
            assert_eq!(mapped_pages::ever_mapped(), ever, "no page was mapped anew");
            drop(again);
        });
    }
}

kernel_test! {
    fn freed_frames_are_cleared() {
        let block = filled(0xA5, 4 * MIB);
        drop(block);
        HEAP.reap();
        for _ in 0..1024 {
            let frame = OwnedFrame::take().expect("frames are free");
            let words =
                kernel::memory::physical::pointer::<[u64; 512]>(frame.get().start_address());
            // SAFETY: the test owns the frame, and physical memory is mapped.
            let clear = unsafe { words.as_ref() }
                .iter()
                .all(|&word| word != 0xA5A5_A5A5_A5A5_A5A5);
            assert!(clear, "{:?} still holds what the heap wrote", frame.get());
        }
    }
}

kernel_test! {
    fn accessing_an_unmapped_page_faults(should_fault = "that was unmapped") {
        HEAP.reap();
        let block = filled(1, 8 * MIB);
        let address = block.as_ptr().wrapping_add(6 * MIB);
        drop(block);
        HEAP.reap();
        // SAFETY: this read is undefined behaviour on purpose: the page is unmapped, and the read
        // faults.
        unsafe { address.read_volatile() };
    }
}
