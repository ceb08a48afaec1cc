//! Several threads, each with a part of its own.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};

use heap::slab::{MAX_HELD_BACK, SLAB_SIZE, SlabAllocator, Threads};

use crate::random::{Choices, Random};
use crate::support::{Block, Counted, assert_all_is_back, layout};

type Heap<const N: usize> = SlabAllocator<Counted, Threads<N>, N>;

fn heap<const N: usize>(size: usize) -> Heap<N> {
    SlabAllocator::new(Counted::new(size), Threads::new())
}

/// The number of operations of each thread.
const OPERATIONS: usize = if cfg!(miri) { 200 } else { 30_000 };

/// Waits until threads have ended. (The end of a scope waits only for their closures.)
fn join_all<'scope>(threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>) {
    for thread in threads {
        thread.join().expect("the thread ends");
    }
}

/// Allocates and frees blocks of this thread and of others, which come and go through channels.
fn exchange<const N: usize>(
    heap: &Heap<N>,
    seed: u64,
    incoming: &mpsc::Receiver<Block>,
    outgoing: &[mpsc::Sender<Block>],
) {
    let mut random = Random::new(seed);
    let mut blocks: Vec<Block> = Vec::new();
    for _ in 0..OPERATIONS {
        match random.below(8) {
            0 => blocks.extend(incoming.try_recv()),
            1 if !blocks.is_empty() => {
                let block = blocks.swap_remove(random.below(blocks.len()));
                let to = &outgoing[random.below(outgoing.len())];
                if let Err(mpsc::SendError(block)) = to.send(block) {
                    block.free(heap);
                }
            }
            2..=4 if !blocks.is_empty() => {
                blocks.swap_remove(random.below(blocks.len())).free(heap);
            }
            _ if blocks.len() < 500 => {
                let size = random.pick(&[16, 64, 64, 100, 240, 400, 496, 600]);
                blocks.extend(Block::new(heap, layout(size, 1)));
            }
            _ => {}
        }
        if random.chance(2000) {
            heap.reap();
        }
    }
    blocks.into_iter().for_each(|block| block.free(heap));
}

fn exchange_among<const N: usize>(threads: usize, seed: u64) {
    let heap = heap::<N>(16 << 20);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel()).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, incoming) in receivers.into_iter().enumerate() {
            let (heap, outgoing) = (&heap, senders.clone());
            threads.push(scope.spawn(move || {
                exchange(heap, seed + index as u64, &incoming, &outgoing);
                drop(outgoing);
                incoming.into_iter().for_each(|block| block.free(heap));
            }));
        }
        drop(senders);
        join_all(threads);
    });
    assert_all_is_back(&heap);
}

#[test]
fn two_threads_free_each_others_blocks() {
    (0..4).for_each(|seed| exchange_among::<16>(2, seed));
}

#[test]
fn four_threads_free_each_others_blocks() {
    (0..4).for_each(|seed| exchange_among::<16>(4, seed));
}

#[test]
fn threads_without_a_part_of_their_own_share_one() {
    exchange_among::<1>(3, 10);
    exchange_among::<2>(3, 20);
}

#[test]
fn a_consumer_that_never_allocates_holds_nothing_back() {
    let heap = heap::<16>(16 << 20);
    let (sender, receiver) = mpsc::sync_channel(100);
    let heap = &heap;
    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            for n in 0..OPERATIONS {
                let size = [32, 64, 200, 496][n % 4];
                let block = Block::new(heap, layout(size, 1)).expect("memory comes back");
                sender.send(block).expect("the consumer runs");
            }
        });
        let consumer = scope.spawn(move || {
            receiver.into_iter().for_each(|block| block.free(heap));
            let held_back = heap.stats().held_back();
            assert!(held_back <= MAX_HELD_BACK, "{held_back}");
        });
        join_all([producer, consumer]);
    });
    assert_all_is_back(heap);
}

#[test]
fn memory_that_another_thread_frees_does_not_accumulate() {
    let heap = heap::<16>(16 << 20);
    let (sender, receiver) = mpsc::sync_channel::<Block>(100);
    let heap = &heap;
    let most = thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut most = 0;
            for n in 0..OPERATIONS {
                let block = Block::new(heap, layout(64, 1)).expect("there is room");
                sender.send(block).expect("the consumer runs");
                if n % 100 == 0 {
                    most = most.max(heap.backing().blocks());
                }
            }
            most
        });
        let consumer = scope.spawn(move || receiver.into_iter().for_each(|block| block.free(heap)));
        let most = producer.join().expect("the producer ends");
        join_all([consumer]);
        most
    });
    // At most 100 blocks are in use, in two slabs. Others are on their way.
    if cfg!(not(feature = "hardened")) {
        assert!(most <= 12, "{most} slabs");
    }
    assert_all_is_back(heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn partial_slabs_of_one_thread_serve_another() {
    let heap = heap::<16>(16 << 20);
    let slabs = 100;
    let (begun, freed, done) = (Barrier::new(2), Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            // Both threads have slabs before the first frees.
            let mut blocks: Vec<_> = (0..slabs * 63)
                .map(|_| Block::new(&heap, layout(64, 1)).expect("there is room"))
                .collect();
            begun.wait();
            // One block of each slab stays.
            let mut kept = Vec::new();
            for (n, block) in blocks.drain(..).enumerate() {
                if n % 63 == 0 {
                    kept.push(block);
                } else {
                    block.free(&heap);
                }
            }
            freed.wait();
            // This thread sleeps while the other needs memory.
            done.wait();
            kept.into_iter().for_each(|block| block.free(&heap));
        });
        let second = scope.spawn(|| {
            Block::new(&heap, layout(64, 1))
                .expect("there is room")
                .free(&heap);
            begun.wait();
            freed.wait();
            let before = heap.backing().blocks();
            let blocks: Vec<_> = (0..(slabs - 10) * 62)
                .map(|_| Block::new(&heap, layout(64, 1)).expect("there is room"))
                .collect();
            let after = heap.backing().blocks();
            assert!(
                after <= before + 2,
                "{before} and {after} pages of {SLAB_SIZE} bytes"
            );
            done.wait();
            blocks.into_iter().for_each(|block| block.free(&heap));
        });
        join_all([first, second]);
    });
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_thread_that_ends_leaves_its_slabs_to_the_next() {
    let heap = heap::<16>(16 << 20);
    let heap = &heap;
    let mut most = 0;
    for _ in 0..50 {
        let kept = thread::scope(|scope| {
            let thread = scope.spawn(|| Block::new(heap, layout(64, 1)).expect("there is room"));
            thread.join().expect("the thread ends")
        });
        most = most.max(heap.backing().blocks());
        kept.free(heap);
    }
    // Other tests run meanwhile, so the numbers of the threads may differ.
    assert!(most <= 16, "{most} pages");
    assert_all_is_back(heap);
}

#[test]
fn a_failing_allocation_takes_back_what_ended_threads_hold() {
    let heap = heap::<16>(1 << 20);
    let heap = &heap;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let sizes = (0..17).map(|n| 16 + 30 * n);
            let blocks: Vec<_> = sizes
                .map(|size| Block::new(heap, layout(size, 1)).expect("there is room"))
                .collect();
            blocks.into_iter().for_each(|block| block.free(heap));
        });
        join_all([thread]);
    });
    let all = Block::new(heap, layout((1 << 20) - 8192, 1)).expect("parts are reaped first");
    all.free(heap);
    assert_all_is_back(heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_visitor_that_panics_leaves_the_locks_free() {
    // All threads use the part behind a lock.
    let heap = heap::<1>(1 << 20);
    let block = Block::new(&heap, layout(64, 1)).expect("there is room");
    let visit = || heap.visit(|slab| panic!("{slab}"));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(visit));
    assert!(result.is_err());
    block.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn slabs_of_a_thread_that_only_frees_serve_another() {
    let heap = heap::<16>(16 << 20);
    let heap = &heap;
    let slabs = 100;
    let (sender, receiver) = mpsc::channel();
    let (freed, done) = (Barrier::new(2), Barrier::new(2));
    let (freed, done) = (&freed, &done);
    thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            // The slabs are full, so the first free makes each this thread's. One block stays.
            let blocks: Vec<Block> = receiver.into_iter().collect();
            let mut kept = Vec::new();
            for (n, block) in blocks.into_iter().enumerate() {
                if n % 63 == 0 {
                    kept.push(block);
                } else {
                    block.free(heap);
                }
            }
            freed.wait();
            // This thread sleeps while the other needs memory.
            done.wait();
            kept.into_iter().for_each(|block| block.free(heap));
        });
        let producer = scope.spawn(move || {
            let blocks =
                (0..slabs * 63).map(|_| Block::new(heap, layout(64, 1)).expect("there is room"));
            blocks.for_each(|block| sender.send(block).expect("the consumer runs"));
            drop(sender);
            freed.wait();
            let before = heap.backing().blocks();
            let blocks: Vec<_> = (0..(slabs - 10) * 62)
                .map(|_| Block::new(heap, layout(64, 1)).expect("there is room"))
                .collect();
            let after = heap.backing().blocks();
            done.wait();
            blocks.into_iter().for_each(|block| block.free(heap));
            assert!(after <= before + 2, "{before} and {after} pages");
        });
        join_all([consumer, producer]);
    });
    assert_all_is_back(heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn threads_that_free_into_a_full_slab_at_once_agree_who_owns_it() {
    let (rounds, slabs) = if cfg!(miri) { (2, 3) } else { (500, 30) };
    let heap = heap::<16>(1 << 20);
    let heap = &heap;
    for _ in 0..rounds {
        // A slab has eight blocks.
        let mut first = Vec::new();
        let mut second = Vec::new();
        for _ in 0..slabs {
            first.extend((0..4).map(|_| Block::new(heap, layout(496, 1)).expect("room")));
            second.extend((0..4).map(|_| Block::new(heap, layout(496, 1)).expect("room")));
        }
        // Both threads begin with each slab at the same time.
        let turn = &AtomicUsize::new(0);
        thread::scope(|scope| {
            join_all([first, second].map(|blocks| {
                scope.spawn(move || {
                    for (index, block) in blocks.into_iter().enumerate() {
                        if index % 4 == 0 {
                            turn.fetch_add(1, Ordering::Relaxed);
                            while turn.load(Ordering::Relaxed) < index / 2 + 2 {
                                thread::yield_now();
                            }
                        }
                        block.free(heap);
                    }
                })
            }));
        });
        heap.check().expect("the slabs are intact");
    }
    assert_all_is_back(heap);
}
