//! Holes of an `ArenaSource`: pages inside heaps that go back and come again.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::window::{Heap, PAGE, PageArena, Window, alloc, arena, free, heap, layout, settled};
use heap::Span;
use heap::source::ArenaSource;
use heap::talc::base::CHUNK_OVERHEAD;
use heap::vmem::AllocPolicy;

const LARGE: usize = 25 * PAGE;

/// Fills a block with its number.
fn fill(block: *mut u8, size: usize, number: u8) {
    // SAFETY: the block is live, and has as many bytes.
    unsafe { block.write_bytes(number, size) };
}

fn assert_filled(block: *mut u8, size: usize, number: u8) {
    // SAFETY: the block is live, and was filled.
    let bytes = unsafe { std::slice::from_raw_parts(block, size) };
    assert!(bytes.iter().all(|&byte| byte == number), "block {number}");
}

/// Allocates blocks of `size` bytes, each filled with its number.
fn blocks(heap: &Heap<'_>, count: u8, size: usize) -> Vec<*mut u8> {
    let blocks: Vec<_> = (0..count).map(|_| alloc(heap, layout(size))).collect();
    for (number, &block) in (0..).zip(&blocks) {
        assert!(!block.is_null());
        fill(block, size, number);
    }
    blocks
}

fn holes(heap: &Heap<'_>) -> Vec<Span> {
    heap.lock().arena_holes().collect()
}

/// Trims the heap, and asserts that only the page with the list heads is left.
fn assert_empty(window: &Window, arena: &PageArena<'_>, heap: &Heap<'_>) {
    heap.lock().trim();
    settled(window, arena, heap);
    assert_eq!((window.lent(), window.mapped()), (PAGE, PAGE));
    assert_eq!(holes(heap), []);
    window.assert_vacant_untouched();
}

#[test]
fn pages_between_blocks_go_back_and_come_again() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let [below, middle, above] = blocks(&heap, 3, LARGE)[..] else {
        unreachable!()
    };
    free(&heap, middle, layout(LARGE));
    let before = window.mapped();
    let bytes = heap.punch();
    // The gap has 25 pages and a unit. Its ends and the record stay.
    assert!((23 * PAGE..=24 * PAGE).contains(&bytes), "{bytes}");
    assert_eq!(window.mapped(), before - bytes);
    settled(&window, &arena, &heap);
    assert_eq!(heap.punch(), 0, "nothing is left to give back");
    assert_filled(below, LARGE, 0);
    assert_filled(above, LARGE, 2);

    // The same size fits where it was, and the heap does not grow.
    let claimed = heap.lock().source.claimed();
    let again = alloc(&heap, layout(LARGE));
    assert_eq!(again, middle);
    fill(again, LARGE, 7);
    assert_eq!(heap.lock().source.claimed(), claimed);
    assert_eq!((holes(&heap), window.mapped()), (vec![], before));
    for (block, number) in [(below, 0), (again, 7), (above, 2)] {
        assert_filled(block, LARGE, number);
        free(&heap, block, layout(LARGE));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn an_allocation_restores_no_more_than_it_needs() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, 4 * LARGE);
    free(&heap, blocks[1], layout(4 * LARGE));
    heap.punch();
    let before = window.mapped();
    let [hole] = holes(&heap)[..] else {
        panic!("one hole")
    };
    let small = alloc(&heap, layout(2 * LARGE));
    assert_eq!(small, blocks[1], "what lies below the hole is used too");
    let [rest] = holes(&heap)[..] else {
        panic!("one hole")
    };
    assert_eq!(rest.end(), hole.end());
    let restored = window.mapped() - before;
    assert_eq!(restored, hole.size() - rest.size());
    assert!((49 * PAGE..=51 * PAGE).contains(&restored), "{restored}");
    settled(&window, &arena, &heap);
    for (block, size) in [(small, 2), (blocks[0], 4), (blocks[2], 4)] {
        free(&heap, block, layout(size * LARGE));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn mapped_gaps_are_preferred_to_holes_and_holes_to_growth() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 5, LARGE);
    let claimed = heap.lock().source.claimed();
    free(&heap, blocks[1], layout(LARGE));
    heap.punch();
    free(&heap, blocks[3], layout(LARGE));
    assert_eq!(alloc(&heap, layout(LARGE)), blocks[3], "a mapped gap");
    assert_eq!(alloc(&heap, layout(LARGE)), blocks[1], "a hole");
    assert_eq!(heap.lock().source.claimed(), claimed);
    settled(&window, &arena, &heap);
}

#[test]
fn holes_join_with_what_is_freed_beside_them() {
    // Which of five blocks are freed in turn, each followed by a punch.
    for order in [[1, 2, 3], [3, 2, 1], [2, 1, 3], [2, 3, 1], [1, 3, 2]] {
        let window = Window::new(4096);
        let arena = arena(&window);
        let heap = heap(&arena);
        let blocks = blocks(&heap, 5, LARGE);
        for index in order {
            free(&heap, blocks[index], layout(LARGE));
            assert!(heap.punch() >= 23 * PAGE);
            settled(&window, &arena, &heap);
        }
        let [hole] = holes(&heap)[..] else {
            panic!("{order:?}: {:?}", holes(&heap))
        };
        assert!(hole.size() >= 73 * PAGE, "{order:?}: {hole}");
        // A block as large as all three fits.
        let large = alloc(&heap, layout(3 * LARGE));
        assert_eq!(large, blocks[1], "{order:?}");
        fill(large, 3 * LARGE, 9);
        assert_filled(blocks[0], LARGE, 0);
        assert_filled(blocks[4], LARGE, 4);
        free(&heap, large, layout(3 * LARGE));
        free(&heap, blocks[0], layout(LARGE));
        free(&heap, blocks[4], layout(LARGE));
        assert_empty(&window, &arena, &heap);
    }
}

#[test]
fn only_what_has_been_free_for_an_interval_decays() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 5, LARGE);
    free(&heap, blocks[1], layout(LARGE));
    assert_eq!(heap.decay(), 0, "it has just been freed");
    free(&heap, blocks[3], layout(LARGE));
    assert!(heap.decay() >= 23 * PAGE, "the first one");
    assert_eq!(holes(&heap).len(), 1);
    // The gap changes, and is not idle.
    let part = alloc(&heap, layout(5 * PAGE));
    assert_eq!(part, blocks[3]);
    assert_eq!(heap.decay(), 0);
    assert!(heap.decay() >= 17 * PAGE, "the rest of the second one");
    settled(&window, &arena, &heap);
}

#[test]
fn a_refused_discard_changes_nothing() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    // One gap between two holes, one above a hole, one below a hole, and one alone.
    let blocks = blocks(&heap, 13, LARGE);
    for index in [1, 3, 5, 8] {
        free(&heap, blocks[index], layout(LARGE));
    }
    heap.punch();
    for index in [2, 6, 7, 11] {
        free(&heap, blocks[index], layout(LARGE));
    }
    let before = holes(&heap);
    let gaps = |heap: &Heap<'_>| {
        let mut gaps: Vec<_> = heap.lock().gaps().collect();
        gaps.sort_by_key(|gap| gap.base().addr());
        gaps
    };
    let gaps_before = gaps(&heap);
    window.state.lock().unwrap().refuses_holes = true;
    assert_eq!(heap.punch(), 0);
    assert_eq!((holes(&heap), gaps(&heap)), (before, gaps_before));
    settled(&window, &arena, &heap);
    window.state.lock().unwrap().refuses_holes = false;
    assert!(heap.punch() >= 4 * 23 * PAGE);
    settled(&window, &arena, &heap);
    assert_eq!(holes(&heap).len(), 3);
    for index in [0, 4, 9, 10, 12] {
        assert_filled(blocks[index], LARGE, index as u8);
        free(&heap, blocks[index], layout(LARGE));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn a_refused_restore_fails_the_allocation_and_nothing_else() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, LARGE);
    free(&heap, blocks[1], layout(LARGE));
    heap.lock().trim();
    heap.drain().unwrap();
    heap.punch();
    let (before, mapped) = (holes(&heap), window.mapped());
    window.state.lock().unwrap().limit = mapped / PAGE;
    let far_more_than_is_free = 20 * PAGE;
    assert!(alloc(&heap, layout(far_more_than_is_free)).is_null());
    assert_eq!((holes(&heap), window.mapped()), (before, mapped));
    settled(&window, &arena, &heap);
    // A part is restored if no more than that is to be had.
    window.state.lock().unwrap().limit = mapped / PAGE + 3;
    let part = alloc(&heap, layout(2 * PAGE));
    assert_eq!(part, blocks[1]);
    assert!(window.mapped() <= mapped + 3 * PAGE);
    settled(&window, &arena, &heap);
    window.state.lock().unwrap().limit = usize::MAX;
    for (block, size) in [(part, 2 * PAGE), (blocks[0], LARGE), (blocks[2], LARGE)] {
        free(&heap, block, layout(size));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn restored_memory_is_known_to_be_zero() {
    let window = Window::filled_with(4096, 0);
    let arena = arena(&window);
    // SAFETY: only this source uses the window's pages, which are zero when they are vacant.
    let heap = Heap::new(unsafe { ArenaSource::new(&arena).of_zeroed_memory() });
    let [first, middle, last] = blocks(&heap, 3, 4 * LARGE)[..] else {
        unreachable!()
    };
    for (block, number) in [(first, 0), (middle, 0xee), (last, 0xff)] {
        fill(block, 4 * LARGE, number);
    }
    free(&heap, middle, layout(4 * LARGE));
    heap.punch();
    // A part, then the rest.
    for size in [2 * LARGE, LARGE] {
        // SAFETY: the size is not zero.
        let uncleared = unsafe { heap.lock().allocate_uncleared(layout(size)) };
        let uncleared = uncleared.expect("there is room");
        assert!(
            uncleared.bytes() < 3 * PAGE,
            "{} of {size}",
            uncleared.bytes()
        );
        // SAFETY: the block is live.
        let block = unsafe { uncleared.clear() };
        assert_filled(block.as_ptr(), size, 0);
    }
    // Memory that was restored for another allocation is not taken for zero.
    free(&heap, first, layout(4 * LARGE));
    heap.punch();
    let block = alloc(&heap, layout(LARGE));
    fill(block, LARGE, 0xaa);
    free(&heap, block, layout(LARGE));
    // SAFETY: the size is not zero.
    let uncleared = unsafe { heap.lock().allocate_uncleared(layout(LARGE)) };
    // SAFETY: the block is live.
    let block = unsafe { uncleared.expect("there is room").clear() };
    assert_filled(block.as_ptr(), LARGE, 0);
    settled(&window, &arena, &heap);
}

#[test]
fn trim_gives_up_holes_at_the_top() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 6, LARGE);
    for index in [1, 3] {
        free(&heap, blocks[index], layout(LARGE));
    }
    heap.punch();
    for index in [4, 5, 2] {
        free(&heap, blocks[index], layout(LARGE));
    }
    heap.lock().trim();
    settled(&window, &arena, &heap);
    assert_eq!(holes(&heap), [], "both were above all blocks");
    assert!(window.mapped() <= 27 * PAGE, "{}", window.mapped());
    assert_filled(blocks[0], LARGE, 0);
    free(&heap, blocks[0], layout(LARGE));
    assert_empty(&window, &arena, &heap);
}

#[test]
fn queued_pages_with_holes_are_memory_when_a_heap_takes_them_back() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, LARGE);
    free(&heap, blocks[1], layout(LARGE));
    heap.punch();
    free(&heap, blocks[2], layout(LARGE));
    heap.lock().trim();
    assert!(heap.lock().source.has_pending_releases());
    // (The drain has not run. The heap takes the pages back, holes and all.)
    let large = alloc(&heap, layout(2 * LARGE));
    assert_eq!(large, blocks[1]);
    assert_eq!(window.mapped(), window.lent());
    fill(large, 2 * LARGE, 5);
    settled(&window, &arena, &heap);
    free(&heap, large, layout(2 * LARGE));
    free(&heap, blocks[0], layout(LARGE));
    assert_empty(&window, &arena, &heap);
}

#[test]
fn a_heap_with_holes_is_deleted_and_taken_back_from_the_queue() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let first = alloc(&heap, layout(100));
    // Then only the second heap has pages in the queue.
    heap.lock().trim();
    heap.drain().unwrap();
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    let second = alloc(&heap, layout(LARGE));
    let third = alloc(&heap, layout(LARGE));
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    free(&heap, second, layout(LARGE));
    heap.punch();
    assert_eq!(holes(&heap).len(), 1);
    free(&heap, third, layout(LARGE));
    heap.lock().trim();
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    // The segment waits in the queue, and is a heap again, all of it memory.
    let again = alloc(&heap, layout(LARGE));
    assert_eq!(window.mapped(), window.lent());
    fill(again, LARGE, 1);
    free(&heap, again, layout(LARGE));
    arena.free(fence).unwrap();
    free(&heap, first, layout(100));
    assert_empty(&window, &arena, &heap);
}

#[test]
fn a_dropped_heap_frees_its_holes() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, LARGE);
    free(&heap, blocks[1], layout(LARGE));
    heap.punch();
    drop(heap);
    assert_eq!((arena.allocated_space(), window.lent()), (0, 0));
    window.assert_vacant_untouched();
}

#[test]
fn the_heap_is_used_while_pages_go_back() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = Arc::new(heap(&arena));
    let blocks = blocks(&heap, 5, LARGE);
    free(&heap, blocks[1], layout(LARGE));
    free(&heap, blocks[3], layout(LARGE));
    let calls = AtomicUsize::new(0);
    let (below, between) = (blocks[0].addr(), blocks[2].addr());
    let work = || {
        calls.fetch_add(1, Relaxed);
        let block = |address: usize| blocks[0].with_addr(address);
        match calls.load(Relaxed) {
            // The neighbours of the pages that go back are freed, and others punch.
            1 => {
                free(&heap, block(between), layout(LARGE));
                heap.punch();
            }
            2 => free(&heap, block(below), layout(LARGE)),
            _ => {
                let small = alloc(&heap, layout(3 * PAGE));
                assert!(!small.is_null());
                fill(small, 3 * PAGE, 1);
                free(&heap, small, layout(3 * PAGE));
            }
        }
        assert_eq!(heap.lock().check(), Ok(()));
    };
    // SAFETY: the hook is removed before what it borrows is dropped.
    let hook: Box<dyn FnMut() + Send> = unsafe {
        std::mem::transmute::<Box<dyn FnMut() + '_>, Box<dyn FnMut() + Send>>(Box::new(work))
    };
    *window.interrupt.lock().unwrap() = Some(hook);
    heap.punch();
    heap.punch();
    *window.interrupt.lock().unwrap() = None;
    assert!(calls.load(Relaxed) >= 2);
    settled(&window, &arena, &heap);
    assert_filled(blocks[4], LARGE, 4);
    free(&heap, blocks[4], layout(LARGE));
    assert_empty(&window, &arena, &heap);
}

#[test]
fn crossing_a_boundary_maps_few_pages_although_memory_decays() {
    for (held, size) in [
        (0, 4096),
        (60 << 10, 4096),
        (3 << 20, 60 << 10),
        (100, 1 << 20),
    ] {
        let window = Window::new(8192);
        let arena = arena(&window);
        let heap = heap(&arena);
        let _held = (held > 0).then(|| alloc(&heap, layout(held)));
        let before = window.total();
        for round in 1..=100_000 {
            let block = alloc(&heap, layout(size));
            free(&heap, block, layout(size));
            heap.drain().unwrap();
            if round % 1000 == 0 {
                heap.decay();
                heap.drain().unwrap();
            }
        }
        let mapped = window.total() - before;
        assert!(
            mapped <= 1024 + 2 * size / PAGE,
            "{mapped} pages with {held} bytes held and {size} in turn"
        );
    }
}

#[test]
fn an_idle_heap_decays_to_what_is_in_use() {
    let window = Window::new(8192);
    let arena = arena(&window);
    let heap = heap(&arena);
    // Phases: much is allocated and little kept, all over the heap.
    let large = blocks(&heap, 200, LARGE);
    let mut kept = Vec::new();
    for (index, &block) in large.iter().enumerate() {
        if index % 20 == 0 {
            kept.push(block);
        } else {
            free(&heap, block, layout(LARGE));
        }
    }
    for _ in 0..24 {
        heap.decay();
        heap.drain().unwrap();
    }
    settled(&window, &arena, &heap);
    let used = kept.len() * (LARGE + PAGE);
    let bound = used + used / 10 + (64 << 10);
    assert!(window.mapped() <= bound, "{} of {bound}", window.mapped());
    for block in kept {
        free(&heap, block, layout(LARGE));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn alignments_are_met_in_holes() {
    let window = Window::new(8192);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, 1 << 20);
    free(&heap, blocks[1], layout(1 << 20));
    heap.punch();
    let claimed = heap.lock().source.claimed();
    for log in 3..=18 {
        let layout = Layout::from_size_align(3 * PAGE, 1 << log).unwrap();
        let block = alloc(&heap, layout);
        assert_eq!(block.addr() % layout.align(), 0);
        fill(block, layout.size(), 3);
        settled(&window, &arena, &heap);
        free(&heap, block, layout);
        heap.punch();
        settled(&window, &arena, &heap);
    }
    assert_eq!(heap.lock().source.claimed(), claimed, "the hole has room");
}

#[test]
fn a_hole_may_begin_where_a_block_ends() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    // With its tag, each block takes whole pages.
    let whole = Layout::from_size_align(8 * PAGE - CHUNK_OVERHEAD, PAGE).unwrap();
    let blocks = [(); 6].map(|()| alloc(&heap, whole));
    assert!(
        blocks
            .windows(2)
            .all(|pair| pair[0].addr() + 8 * PAGE == pair[1].addr())
    );
    let small: Vec<_> = (0..1000).map(|_| alloc(&heap, layout(PAGE / 2))).collect();
    for index in [1, 4] {
        free(&heap, blocks[index], whole);
    }
    assert_eq!(heap.punch(), 2 * 8 * PAGE, "no page stays for a record");
    assert_eq!(holes(&heap)[0].base(), blocks[1]);
    settled(&window, &arena, &heap);
    // The neighbours below and above are freed, and join.
    for index in [0, 3, 2, 5] {
        free(&heap, blocks[index], whole);
        settled(&window, &arena, &heap);
    }
    heap.punch();
    let large = alloc(&heap, layout(40 * PAGE));
    fill(large, 40 * PAGE, 1);
    free(&heap, large, layout(40 * PAGE));
    for block in small {
        free(&heap, block, layout(PAGE / 2));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn a_large_hole_is_found_among_small_ones() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let sizes: Vec<_> = (0..25)
        .map(|n| if n == 23 { 100 } else { 9 } * PAGE)
        .collect();
    let blocks: Vec<_> = sizes
        .iter()
        .map(|&size| alloc(&heap, layout(size)))
        .collect();
    for index in (1..25).step_by(2) {
        free(&heap, blocks[index], layout(sizes[index]));
    }
    heap.punch();
    assert_eq!(holes(&heap).len(), 12);
    let claimed = heap.lock().source.claimed();
    for pages in [90, 8] {
        let block = alloc(&heap, layout(pages * PAGE));
        fill(block, pages * PAGE, 1);
        assert_eq!(heap.lock().source.claimed(), claimed, "{pages} pages");
        settled(&window, &arena, &heap);
    }
}

#[test]
fn the_tops_of_different_heaps_are_not_compared() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let first = alloc(&heap, layout(100));
    heap.decay();
    // The next heap lies far above the first.
    let spacer = arena.alloc(1000 * PAGE, AllocPolicy::InstantFit).unwrap();
    let before = window.mapped();
    let second = alloc(&heap, layout(LARGE));
    let top = alloc(&heap, layout(LARGE));
    assert!(second.addr() > spacer);
    free(&heap, top, layout(LARGE));
    assert!(window.mapped() - before > 2 * LARGE);
    for _ in 0..12 {
        heap.decay();
        heap.drain().unwrap();
    }
    let mapped = window.mapped() - before;
    assert!(mapped <= LARGE + 4 * PAGE, "{mapped}");
    arena.free(spacer).unwrap();
    free(&heap, second, layout(LARGE));
    free(&heap, first, layout(100));
    assert_empty(&window, &arena, &heap);
}
