//! Holes that end where a block begins, at a page boundary: they have no tag, so what reads one
//! reads memory that was given back. (It is zero here, which is the end of a gap, and no tag.)
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use common::random::Random;
use common::window::{Heap, PAGE, PageArena, Window, alloc, arena, free, heap, layout, settled};
use heap::source::ArenaSource;
use heap::talc::base::CHUNK_OVERHEAD;
use heap::vmem::AllocPolicy;

/// The number of records that a source has for such holes.
const RECORDS: usize = 40;

/// A block that takes whole pages, with its tag.
fn whole(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE - CHUNK_OVERHEAD, PAGE).unwrap()
}

fn window() -> Window {
    Window::filled_with(4096, 0)
}

fn fill(block: *mut u8, layout: Layout, byte: u8) {
    // SAFETY: the block is live, and has as many bytes.
    unsafe { block.write_bytes(byte, layout.size()) };
}

fn assert_filled(block: *mut u8, layout: Layout, byte: u8) {
    // SAFETY: the block is live, and was filled.
    let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
    assert!(bytes.iter().all(|&it| it == byte), "{byte}");
}

/// Allocates blocks that lie one directly above the other, each filled with its number.
fn blocks(heap: &Heap<'_>, count: usize, pages: usize) -> Vec<*mut u8> {
    // What lies below the first page boundary is used up.
    let blocks: Vec<_> = (0..count).map(|_| alloc(heap, whole(pages))).collect();
    let adjacent = |pair: &[*mut u8]| pair[0].addr() + pages * PAGE == pair[1].addr();
    assert!(blocks.windows(2).all(adjacent));
    for (number, &block) in blocks.iter().enumerate() {
        fill(block, whole(pages), number as u8);
    }
    blocks
}

/// Fills up everything that is mapped with blocks, so that only holes have room.
fn fill_up(window: &Window, heap: &Heap<'_>) -> Vec<(*mut u8, Layout)> {
    window.fail_after(0);
    let mut blocks = Vec::new();
    for size in [4 * PAGE, PAGE / 2, 200, 1] {
        let found = std::iter::from_fn(|| {
            let block = alloc(heap, layout(size));
            (!block.is_null()).then_some((block, layout(size)))
        });
        blocks.extend(found);
    }
    window.fail_after(usize::MAX);
    blocks
}

fn free_all(heap: &Heap<'_>, blocks: Vec<(*mut u8, Layout)>) {
    for (block, layout) in blocks {
        free(heap, block, layout);
    }
}

/// Trims the heap, and asserts that only the page with the list heads is left.
fn assert_empty(window: &Window, arena: &PageArena<'_>, heap: &Heap<'_>) {
    heap.trim();
    settled(window, arena, heap);
    assert_eq!((window.lent(), window.mapped()), (PAGE, PAGE));
    #[cfg(feature = "counters")]
    assert_eq!(heap.lock().counters().hole_bytes, 0);
    window.assert_vacant_untouched();
}

#[test]
fn single_pages_between_blocks_go_back() {
    const COUNT: usize = 61;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let window = window();
        let arena = arena(&window);
        let heap = heap(&arena);
        let mut blocks: Vec<_> = blocks(&heap, COUNT, 1).into_iter().enumerate().collect();
        let before = window.mapped();
        let mut number = 0;
        blocks.retain(|&(_, block)| {
            number += 1;
            if number % 2 == 0 {
                free(&heap, block, whole(1));
            }
            number % 2 == 1
        });
        assert_eq!(heap.punch(), COUNT / 2 * PAGE);
        assert_eq!(window.mapped(), before - COUNT / 2 * PAGE);
        settled(&window, &arena, &heap);
        // The others are freed in any order. Some come again.
        while !blocks.is_empty() {
            if random.below(4) == 0 {
                let again = alloc(&heap, whole(1));
                fill(again, whole(1), 0xee);
                blocks.push((0xee, again));
            }
            let (number, block) = blocks.swap_remove(random.below(blocks.len()));
            assert_filled(block, whole(1), number as u8);
            free(&heap, block, whole(1));
            if random.below(3) == 0 {
                heap.punch();
                settled(&window, &arena, &heap);
            }
            assert_eq!(heap.lock().check(), Ok(()));
        }
        heap.punch();
        settled(&window, &arena, &heap);
        assert_empty(&window, &arena, &heap);
    }
}

#[test]
fn when_all_records_are_in_use_single_pages_stay() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 4 * RECORDS + 1, 1);
    let second = |parity: usize| blocks.iter().skip(parity).step_by(2);
    second(1).for_each(|&block| free(&heap, block, whole(1)));
    assert_eq!(heap.punch(), RECORDS * PAGE);
    assert_eq!(heap.punch(), 0);
    settled(&window, &arena, &heap);
    // The lower half of the others is freed: many holes become one, whose records are spare again.
    for &block in second(0).take(RECORDS) {
        free(&heap, block, whole(1));
    }
    heap.punch();
    settled(&window, &arena, &heap);
    assert_eq!(heap.lock().arena_holes().count(), RECORDS + 1);
    assert_eq!(heap.punch(), 0);
    for &block in second(0).skip(RECORDS) {
        free(&heap, block, whole(1));
    }
    heap.punch();
    assert_empty(&window, &arena, &heap);
}

#[test]
fn records_are_used_again_when_holes_join() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let mut blocks = blocks(&heap, 5, 1);
    fill_up(&window, &heap);
    for _ in 0..3 * RECORDS {
        for index in [1, 3] {
            free(&heap, blocks[index], whole(1));
        }
        window.state.lock().unwrap().refuses_holes = true;
        assert_eq!(heap.punch(), 0);
        window.state.lock().unwrap().refuses_holes = false;
        assert_eq!(heap.punch(), 2 * PAGE);
        free(&heap, blocks[2], whole(1));
        assert_eq!(heap.punch(), PAGE);
        assert_eq!(heap.lock().arena_holes().count(), 1);
        for block in &mut blocks[1..4] {
            *block = alloc(&heap, whole(1));
        }
        blocks.sort_unstable();
        settled(&window, &arena, &heap);
    }
}

#[test]
fn a_gap_that_joins_the_hole_above_takes_no_record() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let mut blocks = blocks(&heap, 6, 1);
    fill_up(&window, &heap);
    for round in 0..3 * RECORDS {
        for index in [2, 1] {
            free(&heap, blocks[index], whole(1));
            assert_eq!(heap.punch(), PAGE, "{round}");
        }
        assert_eq!(heap.lock().arena_holes().count(), 1);
        for block in &mut blocks[1..3] {
            *block = alloc(&heap, whole(1));
        }
        blocks.sort_unstable();
        settled(&window, &arena, &heap);
    }
    // One record would be enough for the holes above, but not for these.
    for index in [2, 4] {
        free(&heap, blocks[index], whole(1));
    }
    assert_eq!(heap.punch(), 2 * PAGE);
}

#[test]
fn records_of_holes_at_the_top_are_used_again() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    alloc(&heap, layout(100));
    for round in 0..3 * RECORDS {
        let pages = blocks(&heap, 2, 1);
        free(&heap, pages[0], whole(1));
        assert_eq!(heap.punch(), PAGE, "{round}");
        free(&heap, pages[1], whole(1));
        heap.trim();
        settled(&window, &arena, &heap);
        assert_eq!(heap.lock().arena_holes().count(), 0);
    }
}

#[test]
fn a_heap_shrinks_when_the_block_above_a_hole_is_freed() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let hole = blocks(&heap, 1, 1)[0];
    let top = alloc(&heap, whole(100));
    assert_eq!(hole.addr() + PAGE, top.addr());
    free(&heap, hole, whole(1));
    assert_eq!(heap.punch(), PAGE);
    free(&heap, top, whole(100));
    assert!(heap.lock().source.has_pending_releases());
    settled(&window, &arena, &heap);
}

#[test]
fn many_holes_at_the_top_are_given_up() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 2 * RECORDS, 1);
    let free_every_second = |parity: usize| {
        for &block in blocks.iter().skip(2 + parity).step_by(2) {
            free(&heap, block, whole(1));
        }
    };
    free_every_second(0);
    assert_eq!(heap.punch(), (RECORDS - 1) * PAGE);
    // Holes and gaps take turns up to the top.
    free_every_second(1);
    assert_eq!(heap.lock().arena_holes().count(), RECORDS - 1);
    heap.trim();
    settled(&window, &arena, &heap);
    // Below the lowest there is no room for the record of the heap.
    assert!(heap.lock().arena_holes().count() <= 1);
    assert!(window.lent() <= 6 * PAGE, "{}", window.lent());
    for &block in &blocks[..2] {
        free(&heap, block, whole(1));
    }
    assert_empty(&window, &arena, &heap);
}

#[test]
fn the_smallest_block_above_a_hole_is_freed() {
    for size in [1, 20, 40, 100] {
        let window = window();
        let arena = arena(&window);
        let heap = heap(&arena);
        let small = Layout::from_size_align(size, PAGE).unwrap();
        let below = alloc(&heap, whole(3));
        let above = alloc(&heap, small);
        assert_eq!(below.addr() + 3 * PAGE, above.addr());
        let rest = fill_up(&window, &heap);
        free(&heap, below, whole(3));
        assert_eq!(heap.punch(), 3 * PAGE);
        free(&heap, above, small);
        assert_eq!(heap.lock().check(), Ok(()));
        settled(&window, &arena, &heap);
        // All of it can be used again.
        let again = alloc(&heap, whole(3));
        assert_eq!(again, below);
        fill(again, whole(3), 1);
        free(&heap, again, whole(3));
        heap.punch();
        free_all(&heap, rest);
        assert_empty(&window, &arena, &heap);
    }
}

#[test]
fn a_part_of_a_hole_comes_again_and_the_rest_stays() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let [below, hole, above, top] = blocks(&heap, 4, 12)[..] else {
        unreachable!()
    };
    let rest = fill_up(&window, &heap);
    free(&heap, hole, whole(12));
    assert_eq!(heap.punch(), 12 * PAGE);
    let part = alloc(&heap, whole(3));
    assert_eq!(part, hole);
    fill(part, whole(3), 7);
    assert!(heap.lock().source.hole_bytes() >= 8 * PAGE);
    // The block above is freed, and joins with the rest when it goes back.
    free(&heap, above, whole(12));
    settled(&window, &arena, &heap);
    heap.punch();
    assert_eq!(heap.lock().arena_holes().count(), 1);
    assert!(heap.lock().source.hole_bytes() >= 20 * PAGE);
    assert_filled(part, whole(3), 7);
    for (block, pages) in [(part, 3), (below, 12), (top, 12)] {
        free(&heap, block, whole(pages));
    }
    free_all(&heap, rest);
    assert_empty(&window, &arena, &heap);
}

#[test]
fn a_hole_is_larger_than_what_fits_in_it_beside_a_block() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, 8);
    fill_up(&window, &heap);
    free(&heap, blocks[1], whole(8));
    heap.punch();
    // Another heap would need more than eight pages, and this one cannot grow.
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    window.state.lock().unwrap().limit = window.mapped() / PAGE + 8;
    // No more fits than was there: what is above the pages is in use.
    let too_large = Layout::from_size_align(8 * PAGE - CHUNK_OVERHEAD + 1, 8).unwrap();
    assert!(alloc(&heap, Layout::from_size_align(9 * PAGE, 8).unwrap()).is_null());
    assert!(alloc(&heap, too_large).is_null());
    assert_eq!(alloc(&heap, whole(8)), blocks[1]);
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
}

#[test]
fn at_least_four_pages_come_again() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = blocks(&heap, 3, 12);
    fill_up(&window, &heap);
    free(&heap, blocks[1], whole(12));
    heap.punch();
    assert_eq!(alloc(&heap, layout(1)), blocks[1]);
    assert_eq!(heap.lock().source.hole_bytes(), 8 * PAGE);
    // If no more is to be had, less does.
    assert_eq!(heap.punch(), 3 * PAGE);
    window.state.lock().unwrap().limit = window.mapped() / PAGE + 1;
    assert!(!alloc(&heap, layout(PAGE)).is_null());
    assert_eq!(heap.lock().source.hole_bytes(), 10 * PAGE);
    settled(&window, &arena, &heap);
}

#[test]
fn a_block_that_uses_up_what_came_again_is_zero_to_its_end() {
    let window = window();
    let arena = arena(&window);
    // SAFETY: only this heap uses the pages, which are zero while they are vacant.
    let heap = Heap::new(unsafe { ArenaSource::new(&arena).of_zeroed_memory() });
    for size in 4 * PAGE - 64..=4 * PAGE + 64 {
        let below = alloc(&heap, layout(PAGE));
        let block = alloc(&heap, whole(16));
        let above = alloc(&heap, whole(1));
        fill(block, whole(16), 0xee);
        let rest = fill_up(&window, &heap);
        free(&heap, block, whole(16));
        heap.punch();
        // SAFETY: the size is not zero.
        let zeroed = unsafe { heap.alloc_zeroed(layout(size)) };
        assert_filled(zeroed, layout(size), 0);
        free(&heap, zeroed, layout(size));
        free(&heap, below, layout(PAGE));
        free(&heap, above, whole(1));
        free_all(&heap, rest);
        assert_empty(&window, &arena, &heap);
    }
}

type Parts = (
    &'static Window,
    &'static PageArena<'static>,
    &'static Heap<'static>,
);

fn leaked() -> Parts {
    let window = &*Box::leak(Box::new(window()));
    let arena = &*Box::leak(Box::new(arena(window)));
    (window, arena, Box::leak(Box::new(heap(arena))))
}

#[test]
fn the_block_above_is_freed_while_the_pages_go_back_or_come_again() {
    // Whether pages go back or come again, and whether that succeeds.
    for (comes, refuses) in [(false, false), (false, true), (true, false), (true, true)] {
        let (window, arena, heap) = leaked();
        let blocks = blocks(heap, 5, 2);
        let [below, hole, above] = [blocks[1], blocks[2], blocks[3]];
        let rest = fill_up(window, heap);
        free(heap, hole, whole(2));
        if comes {
            assert_eq!(heap.punch(), 2 * PAGE);
        }
        let address = above.expose_provenance();
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        let hook = Box::new(move || {
            if !flag.swap(true, Relaxed) {
                let above = std::ptr::with_exposed_provenance_mut(address);
                free(heap, above, whole(2));
                assert_eq!(heap.lock().check(), Ok(()));
                let mut state = window.state.lock().unwrap();
                state.refuses_holes = refuses;
                state.refuses_restoring = refuses;
            }
        });
        let again = if comes {
            *window.growing.lock().unwrap() = Some(hook);
            // Nothing but the hole has room.
            window.fail_after(1);
            let again = alloc(heap, whole(2));
            window.fail_after(usize::MAX);
            *window.growing.lock().unwrap() = None;
            again
        } else {
            *window.interrupt.lock().unwrap() = Some(hook);
            assert_eq!(heap.punch() == 0, refuses);
            *window.interrupt.lock().unwrap() = None;
            std::ptr::null_mut()
        };
        assert!(done.load(Relaxed), "{comes} {refuses}");
        let mut state = window.state.lock().unwrap();
        state.refuses_holes = false;
        state.refuses_restoring = false;
        drop(state);
        settled(window, arena, heap);
        assert_filled(below, whole(2), 1);
        assert_filled(blocks[4], whole(2), 4);
        if !again.is_null() {
            fill(again, whole(2), 9);
            free(heap, again, whole(2));
        }
        heap.punch();
        settled(window, arena, heap);
        for index in [0, 1, 4] {
            free(heap, blocks[index], whole(2));
        }
        free_all(heap, rest);
        assert_empty(window, arena, heap);
    }
}

#[test]
fn another_source_does_not_read_what_is_below() {
    let (window, arena, _) = leaked();
    // SAFETY: only this heap uses the arena.
    let heap = Heap::new(unsafe { ArenaSource::new(arena) });
    let blocks = blocks(&heap, 3, 2);
    free(&heap, blocks[1], whole(2));
    assert_eq!(heap.punch(), 2 * PAGE);
    let mut talc = heap.into_inner();
    // Safe code can do this.
    let source = std::mem::replace(&mut talc.source, ArenaSource::detached());
    // SAFETY: the block is live.
    unsafe { talc.deallocate(blocks[2], whole(2)) };
    // It is leaked, for all that is known.
    assert!(
        talc.gaps()
            .all(|gap| gap.end() != blocks[2].wrapping_byte_add(2 * PAGE))
    );
    talc.source = source;
    assert_eq!(talc.check(), Ok(()));
    // SAFETY: the block is live.
    unsafe { talc.deallocate(blocks[0], whole(2)) };
    assert_eq!(talc.check(), Ok(()));
    window.assert_vacant_untouched();
}

#[test]
fn threads_free_and_punch_at_once() {
    let (window, arena, heap) = leaked();
    let punched = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let punched = &punched;
            scope.spawn(move || {
                let mut random = Random::new(u64::from(thread));
                let mut blocks: Vec<*mut u8> = Vec::new();
                for _ in 0..3_000 {
                    if random.below(2) == 0 && blocks.len() < 100 {
                        let block = alloc(heap, whole(1));
                        assert!(!block.is_null());
                        fill(block, whole(1), thread);
                        blocks.push(block);
                    } else if !blocks.is_empty() {
                        let block = blocks.swap_remove(random.below(blocks.len()));
                        assert_filled(block, whole(1), thread);
                        free(heap, block, whole(1));
                    }
                    if random.below(16) == 0 {
                        punched.fetch_add(heap.punch(), Relaxed);
                    }
                }
                for block in blocks {
                    assert_filled(block, whole(1), thread);
                    free(heap, block, whole(1));
                }
            });
        }
    });
    assert!(punched.load(Relaxed) > 100 * PAGE);
    assert_empty(window, arena, heap);
}
