//! Two CPUs, one after the other: what one does with the blocks and slabs of the other.
#![cfg(not(feature = "hardened"))] // Slabs serve nothing.

use std::cell::Cell;

use heap::slab::{CpuStats, Cpus, MAX_HELD_BACK, SLAB_SIZE, SlabAllocator};

use crate::support::{Block, Counted, assert_all_is_back, layout};

thread_local!(static CPU: Cell<usize> = const { Cell::new(0) });

/// The CPU that the test has chosen. The other does not let its part be reaped.
struct Chosen;

// SAFETY: one thread uses the allocator of a test, and `work` does not begin again before it ends.
unsafe impl Cpus for Chosen {
    const COUNT: usize = 2;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(CPU.get())
    }
}

type Heap = SlabAllocator<Counted, Chosen, 2>;

fn heap() -> Heap {
    SlabAllocator::new(Counted::new(1 << 20), Chosen)
}

fn on<R>(cpu: usize, work: impl FnOnce() -> R) -> R {
    CPU.set(cpu);
    work()
}

/// Allocates `count` blocks, of which a slab has eight.
fn blocks(heap: &Heap, count: usize) -> Vec<Block> {
    (0..count)
        .map(|_| Block::new(heap, layout(496, 1)).expect("there is room"))
        .collect()
}

fn free(heap: &Heap, blocks: impl IntoIterator<Item = Block>) {
    blocks.into_iter().for_each(|block| block.free(heap));
}

/// Checks that all is back after each CPU has reaped.
fn assert_reaped(heap: &Heap) {
    for cpu in [0, 1, 0] {
        on(cpu, || {
            heap.check().expect("the slabs are intact");
            heap.reap();
        });
    }
    on(1, || assert_all_is_back(heap));
}

#[test]
fn a_batch_with_all_blocks_of_a_full_slab_releases_it() {
    let heap = heap();
    let full = on(0, || blocks(&heap, 8));
    // The slab is still the current one of CPU 0, so these blocks wait.
    on(1, || free(&heap, full));
    let others = on(0, || blocks(&heap, 9));
    assert_eq!(heap.backing().blocks(), 3);
    let waiting: Vec<_> = others.into_iter().rev().collect();
    // The last one belongs to a current slab. The eight others are a full slab.
    let mut waiting = waiting.into_iter();
    on(0, || free(&heap, waiting.next()));
    let owned = on(0, || blocks(&heap, 8));
    on(1, || {
        assert!(heap.stats().held_back() <= MAX_HELD_BACK);
        free(&heap, owned);
        assert_eq!(heap.stats().held_back(), 0, "the batch was delivered");
    });
    assert_eq!(heap.backing().blocks(), 2, "the first slab is released");
    on(1, || free(&heap, waiting));
    assert_reaped(&heap);
}

#[test]
fn a_batch_with_all_blocks_of_a_shared_slab_releases_it() {
    let heap = heap();
    let mut shared = on(0, || blocks(&heap, 8));
    let last = shared.pop();
    on(1, || free(&heap, shared));
    on(0, || {
        free(&heap, last);
        // The slab has a free block, and seven that wait on CPU 1.
        heap.reap();
    });
    assert_eq!(heap.backing().blocks(), 1);
    let full = on(0, || blocks(&heap, 1));
    assert_eq!(heap.backing().blocks(), 1, "the shared slab serves");
    on(0, || {
        free(&heap, full);
        heap.reap();
    });
    let owned = on(0, || {
        (0..9)
            .map(|_| Block::new(&heap, layout(64, 1)).expect("there is room"))
            .collect::<Vec<_>>()
    });
    assert_eq!(heap.backing().blocks(), 2);
    on(1, || free(&heap, owned));
    assert_eq!(heap.backing().blocks(), 1, "the shared slab is released");
    assert_reaped(&heap);
}

#[test]
fn a_cpu_reaps_when_it_needs_a_slab_after_another_has_asked() {
    let heap = heap();
    let sizes = [16, 64, 128, 256, 336, 496];
    on(0, || {
        let blocks = sizes.map(|size| Block::new(&heap, layout(size, 1)).expect("there is room"));
        free(&heap, blocks);
        assert_eq!(heap.stats().held_back(), 3 * SLAB_SIZE);
    });
    on(1, || heap.reap());
    assert_eq!(heap.backing().blocks(), 3);
    let block = on(0, || {
        Block::new(&heap, layout(32, 1)).expect("there is room")
    });
    assert_eq!(heap.backing().blocks(), 1, "that of the new block");
    on(0, || block.free(&heap));
    assert_reaped(&heap);
}

#[test]
fn blocks_that_another_cpu_frees_serve_their_owner_again() {
    let heap = heap();
    let first = on(0, || blocks(&heap, 8));
    let second = on(0, || blocks(&heap, 8));
    let mut second = second.into_iter();
    let kept = second.next();
    // Seven blocks of the current slab, and the first slab, which was full: the first block of that
    // makes it this CPU's.
    on(1, || {
        free(&heap, second);
        let mut first = first.into_iter();
        free(&heap, first.next());
        free(&heap, first);
        heap.reap();
    });
    assert_eq!(heap.backing().blocks(), 1);
    let again = on(0, || blocks(&heap, 7));
    assert_eq!(
        heap.backing().blocks(),
        1,
        "the blocks are back in their slab"
    );
    on(0, || free(&heap, again.into_iter().chain(kept)));
    assert_reaped(&heap);
}

#[test]
fn all_memory_is_back_whichever_cpu_frees_it() {
    for step in [1, 3, 5, 7] {
        let heap = heap();
        let mut all = Vec::new();
        for n in 0..200 {
            all.extend(on(n / 9 % 2, || blocks(&heap, 1)));
        }
        let mut n = 0;
        while !all.is_empty() {
            n += step;
            let block = all.swap_remove(n % all.len());
            on(n / 4 % 2, || block.free(&heap));
            on(n / 4 % 2, || heap.check()).expect("the slabs are intact");
        }
        assert_reaped(&heap);
    }
}

#[test]
fn after_reaping_another_cpu_uses_the_free_blocks() {
    let heap = heap();
    on(0, || {
        // A current slab with a free block, and two partial ones.
        let mut blocks = blocks(&heap, 8 * 3 - 1).into_iter();
        free(&heap, blocks.by_ref().step_by(8).take(2));
        std::mem::forget(blocks.collect::<Vec<_>>());
        heap.reap();
    });
    assert_eq!(heap.backing().blocks(), 3);
    on(1, || std::mem::forget(blocks(&heap, 3)));
    assert_eq!(heap.backing().blocks(), 3, "no new slab");
    on(1, || heap.check()).expect("the slabs are intact");
}

#[test]
fn a_cpu_shares_the_oldest_of_its_partial_slabs() {
    let heap = heap();
    let other = on(1, || blocks(&heap, 8));
    let mut all = on(0, || blocks(&heap, 8 * 11)).into_iter();
    let page = |block: &Block| block.ptr.addr() / SLAB_SIZE;
    let (mut rest, mut pages) = (Vec::new(), Vec::new());
    on(0, || {
        // The first free of each full slab.
        for _ in 0..10 {
            let first = all.next().expect("a block of the next slab");
            pages.push(page(&first));
            first.free(&heap);
            rest.extend(all.by_ref().take(7));
        }
    });
    let taken = on(1, || blocks(&heap, 2));
    // A CPU keeps eight. The one that was shared last comes first.
    assert!(taken.iter().rev().map(page).eq(pages[..2].iter().copied()));
    on(0, || free(&heap, rest.into_iter().chain(all)));
    on(1, || free(&heap, other.into_iter().chain(taken)));
    assert_reaped(&heap);
}

#[test]
fn each_cpu_counts_for_itself() {
    let heap = heap();
    // Both slabs are full. The second is still the current one.
    let of_0 = on(0, || blocks(&heap, 16));
    let [first, second] = heap.cpu_stats();
    assert_eq!((first.new_slabs, first.batches, first.held_back), (2, 0, 0));
    assert!(first.misses >= 2);
    #[cfg(feature = "counters")]
    assert_eq!((first.hits + first.misses, second.hits), (16, 0));
    assert_eq!(second, CpuStats::default());

    // The blocks of the second slab wait in the batch.
    on(1, || free(&heap, of_0));
    let [first, second] = heap.cpu_stats();
    assert_eq!((first.held_back, second.held_back), (0, 8 * 496));
    assert_eq!((second.new_slabs, second.batches), (0, 0));
    on(1, || heap.reap());
    let [_, second] = heap.cpu_stats();
    assert_eq!((second.held_back, second.batches), (0, 1));
    on(1, || heap.reap());
    assert_eq!(heap.cpu_stats()[1].batches, 1, "no batch, no count");

    let block = on(1, || blocks(&heap, 1));
    on(1, || free(&heap, block));
    let [first, second] = heap.cpu_stats();
    assert_eq!((first.held_back, second.held_back), (0, SLAB_SIZE));
    assert_eq!(on(1, || heap.stats().held_back()), SLAB_SIZE);
    assert_eq!(on(0, || heap.stats().held_back()), 0);
    assert_reaped(&heap);
}

#[test]
fn reaping_collects_what_another_cpu_has_brought_to_the_current_slab() {
    let heap = heap();
    let of_0 = on(0, || blocks(&heap, 8));
    on(1, || {
        free(&heap, of_0);
        heap.reap();
    });
    assert_eq!(heap.stats().slabs(), 1, "CPU 0 still owns it");
    on(0, || heap.reap());
    assert_eq!(heap.stats().slabs(), 0);
}
