//! `ArenaSource` over a real arena, whose pages come from a window of the test's memory.

mod common;

use std::alloc::{GlobalAlloc, Layout};

use common::window::{Heap, PAGE, PageArena, Window, alloc, arena, free, heap, layout, settled};
use heap::source::ArenaSource;
use heap::vmem::AllocPolicy;

#[test]
fn nothing_is_claimed_before_the_first_allocation() {
    let window = Window::new(64);
    let arena = arena(&window);
    let heap = heap(&arena);
    assert_eq!((window.lent(), heap.lock().arena_heaps().count()), (0, 0));
    assert!(!alloc(&heap, layout(1)).is_null());
    assert_eq!(window.lent(), 64 << 10, "the first growth");
    settled(&window, &arena, &heap);
}

#[test]
fn growth_extends_the_one_heap_in_place() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks: Vec<_> = (0..1000).map(|_| alloc(&heap, layout(5000))).collect();
    assert!(blocks.iter().all(|block| !block.is_null()));
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    settled(&window, &arena, &heap);
    for block in blocks {
        free(&heap, block, layout(5000));
    }
    settled(&window, &arena, &heap);
    assert!(
        window.lent() <= 256 << 10,
        "{} bytes are still lent",
        window.lent()
    );
    heap.lock().trim();
    settled(&window, &arena, &heap);
    assert_eq!(window.lent(), PAGE, "the metadata, rounded up");
}

#[test]
fn a_second_heap_is_claimed_and_freed_when_it_is_empty() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let first = alloc(&heap, layout(100));
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    let second = alloc(&heap, layout(1 << 20));
    assert!(!first.is_null() && !second.is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    free(&heap, second, layout(1 << 20));
    heap.drain().unwrap();
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
    free(&heap, first, layout(100));
    heap.lock().trim();
    settled(&window, &arena, &heap);
}

#[test]
fn hysteresis_bounds_mapping_at_a_boundary() {
    for (held, size) in [
        (0, 4096),
        (60 << 10, 4096),
        (60 << 10, 60 << 10),
        (3 << 20, 60 << 10),
        (20 << 20, 4096),
    ] {
        let window = Window::new(8192);
        let arena = arena(&window);
        let heap = heap(&arena);
        let _held = (held > 0).then(|| alloc(&heap, layout(held)));
        let before = window.total();
        for _ in 0..100_000 {
            let block = alloc(&heap, layout(size));
            free(&heap, block, layout(size));
            heap.drain().unwrap();
        }
        let mapped = window.total() - before;
        assert!(
            mapped <= 1024,
            "{mapped} pages with {held} bytes held and {size} in turn"
        );
    }
}

#[test]
fn large_blocks_stop_bouncing_after_a_few_rounds() {
    let window = Window::new(8192);
    let arena = arena(&window);
    let heap = heap(&arena);
    let _held = alloc(&heap, layout(100));
    let round = || {
        let before = window.total();
        let block = alloc(&heap, layout(1 << 20));
        free(&heap, block, layout(1 << 20));
        heap.drain().unwrap();
        window.total() - before
    };
    let mapped: Vec<_> = (0..20).map(|_| round()).collect();
    assert!(mapped[0] > 200, "{mapped:?}");
    assert!(mapped[8..].iter().all(|&pages| pages == 0), "{mapped:?}");
    settled(&window, &arena, &heap);
}

#[test]
fn alignments_up_to_two_mebibytes_need_one_acquisition() {
    for log in 0..=21 {
        let window = Window::new(4096);
        let arena = arena(&window);
        let heap = heap(&arena);
        for size in [1, 100, 4096, 70_000] {
            let layout = Layout::from_size_align(size, 1 << log).unwrap();
            let block = alloc(&heap, layout);
            assert!(!block.is_null(), "{layout:?}");
            assert_eq!(block.addr() % layout.align(), 0);
        }
        let calls = usize::MAX - window.state.lock().unwrap().calls_left;
        assert!(
            calls <= 4,
            "{calls} calls of the source for four allocations of alignment 1 << {log}"
        );
        settled(&window, &arena, &heap);
    }
}

#[test]
fn a_refused_growth_falls_back_to_what_the_layout_requires() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    window.state.lock().unwrap().limit = 4;
    assert!(!alloc(&heap, layout(2000)).is_null());
    assert!(window.lent() <= 4 * PAGE);
    assert!(alloc(&heap, layout(64 << 10)).is_null());
    settled(&window, &arena, &heap);
    window.state.lock().unwrap().limit = 4096;
    assert!(!alloc(&heap, layout(64 << 10)).is_null());
    settled(&window, &arena, &heap);
}

#[test]
fn a_source_that_fails_at_any_call_leaves_the_heap_unchanged() {
    let mut reached = 0;
    for calls in 0.. {
        let window = Window::new(512);
        let arena = arena(&window);
        let heap = heap(&arena);
        window.fail_after(calls);
        let mut blocks = Vec::new();
        let mut failed = false;
        for round in 0..40 {
            let layout = layout(1_000 * (round + 1));
            settled(&window, &arena, &heap);
            let before = (window.lent(), arena.allocated_space());
            let bytes = window.bytes();
            let block = alloc(&heap, layout);
            if block.is_null() {
                failed = true;
                assert!(window.bytes() == bytes, "a failure changed the heap");
                settled(&window, &arena, &heap);
                assert_eq!((window.lent(), arena.allocated_space()), before);
                window.fail_after(usize::MAX);
                let block = alloc(&heap, layout);
                assert!(!block.is_null(), "the same request succeeds later");
                blocks.push((block, layout));
            } else {
                blocks.push((block, layout));
            }
        }
        for (block, layout) in blocks {
            free(&heap, block, layout);
        }
        settled(&window, &arena, &heap);
        reached = calls;
        if !failed {
            break;
        }
    }
    assert!(reached > 5, "the sequence needs more calls than {reached}");
}

/// A small generator of repeatable random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A size below `1 << logs`, small ones as often as large ones.
    fn size(&mut self, logs: usize) -> usize {
        let log = self.below(logs);
        1 + self.below(1 << log)
    }
}

/// Runs a random program that verifies the contents of its blocks, and calls `check` after each
/// operation.
fn random_program(heap: &Heap<'_>, seed: u64, operations: usize, mut check: impl FnMut(usize)) {
    let mut random = Random(seed);
    let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
    let verify = |&(block, layout, fill): &(*mut u8, Layout, u8), size: usize| {
        // SAFETY: the block is live, and was written.
        let bytes = unsafe { std::slice::from_raw_parts(block, size.min(layout.size())) };
        assert!(
            bytes.iter().all(|&byte| byte == fill),
            "a block changed; seed {seed}"
        );
    };
    for operation in 0..operations {
        let shrinking = operation / 200 % 2 == 1;
        match random.below(10) {
            0..=5 if !shrinking || blocks.is_empty() => {
                let size = random.size(18);
                let layout = Layout::from_size_align(size, 1 << random.below(13)).unwrap();
                let block = alloc(heap, layout);
                if !block.is_null() {
                    let fill = operation as u8;
                    // SAFETY: just allocated.
                    unsafe { block.write_bytes(fill, size) };
                    blocks.push((block, layout, fill));
                }
            }
            6 | 7 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                let (block, layout, fill) = blocks[index];
                let size = random.size(18);
                // SAFETY: live, of this layout.
                let moved = unsafe { heap.realloc(block, layout, size) };
                if !moved.is_null() {
                    verify(&(moved, layout, fill), size);
                    // SAFETY: live.
                    unsafe { moved.write_bytes(fill, size) };
                    blocks[index] = (
                        moved,
                        Layout::from_size_align(size, layout.align()).unwrap(),
                        fill,
                    );
                }
            }
            _ if !blocks.is_empty() => {
                let block = blocks.swap_remove(random.below(blocks.len()));
                verify(&block, usize::MAX);
                free(heap, block.0, block.1);
            }
            _ => {}
        }
        check(operation);
    }
    for block in blocks {
        verify(&block, usize::MAX);
        free(heap, block.0, block.1);
    }
}

#[test]
fn random_programs_keep_contents_and_accounts() {
    for seed in 1..=20 {
        let window = Window::new(2048);
        let arena = arena(&window);
        let heap = heap(&arena);
        let mut fence = None;
        random_program(&heap, seed, 4000, |operation| {
            if operation % 97 == 0 {
                if let Some(fence) = fence.take() {
                    arena.free(fence).unwrap();
                    settled(&window, &arena, &heap);
                } else {
                    fence = arena.alloc(PAGE, AllocPolicy::InstantFit).ok();
                }
            }
            if operation % 500 == 0 {
                heap.lock().trim();
            }
        });
        if let Some(fence) = fence {
            arena.free(fence).unwrap();
        }
        heap.lock().trim();
        settled(&window, &arena, &heap);
        assert_eq!(window.lent(), PAGE, "seed {seed}");
    }
}

#[test]
fn what_interrupts_a_drain_may_allocate_free_and_drain() {
    let mut interrupts = 0;
    for seed in 1..=10 {
        let window: &'static Window = Box::leak(Box::new(Window::new(4096)));
        let arena: &'static PageArena<'static> = Box::leak(Box::new(arena(window)));
        let heap: &'static Heap<'static> = Box::leak(Box::new(heap(arena)));
        let mut random = Random(seed * 7919);
        let mut blocks: Vec<(usize, Layout)> = Vec::new();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = count.clone();
        *window.interrupt.lock().unwrap() = Some(Box::new(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            for _ in 0..6 {
                if random.below(2) == 0 || blocks.is_empty() {
                    let layout = layout(1 + random.below(200_000));
                    let block = alloc(heap, layout);
                    if !block.is_null() {
                        blocks.push((block.expose_provenance(), layout));
                    }
                } else {
                    let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
                    free(heap, std::ptr::with_exposed_provenance_mut(block), layout);
                }
            }
            if random.below(3) == 0 {
                heap.lock().trim();
            }
            heap.drain().unwrap();
            if blocks.len() > 40 {
                for (block, layout) in blocks.drain(..) {
                    free(heap, std::ptr::with_exposed_provenance_mut(block), layout);
                }
            }
        }));
        random_program(heap, seed, 6000, |operation| {
            if operation % 3 == 0 {
                heap.drain().unwrap();
            }
            if operation % 20 == 0 {
                heap.lock().trim();
            }
        });
        interrupts += count.load(std::sync::atomic::Ordering::Relaxed);
        *window.interrupt.lock().unwrap() = None;
        settled(window, arena, heap);
    }
    assert!(interrupts > 500, "only {interrupts}, with all seeds");
}

#[test]
fn a_dropped_source_frees_all_heaps_and_queued_pages() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = [100, 1 << 20, 2 << 20].map(|size| {
        let block = alloc(&heap, layout(size));
        assert!(!block.is_null());
        // The next allocation needs another heap, because the address above is taken.
        let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
        (block, layout(size), fence)
    });
    free(&heap, blocks[1].0, blocks[1].1);
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    assert!(!alloc(&heap, layout(3 << 20)).is_null());
    assert_eq!(
        heap.lock().arena_heaps().count(),
        3,
        "the queued segment is too small"
    );
    assert!(heap.lock().source.has_pending_releases());
    drop(heap);
    assert_eq!(arena.allocated_space(), blocks.len() * PAGE, "the fences");
    for (_, _, fence) in blocks {
        arena.free(fence).unwrap();
    }
    assert_eq!(window.lent(), 0);
    arena.check().unwrap();
}

#[test]
fn a_detached_source_refuses() {
    let heap: Heap<'static> = Heap::new(ArenaSource::detached());
    assert!(alloc(&heap, layout(1)).is_null());
    assert_eq!(heap.drain(), Ok(0));
    heap.lock().trim();
    assert_eq!(heap.lock().check(), Ok(()));
}
