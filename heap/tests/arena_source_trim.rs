//! What goes back from the tops of heaps over an `ArenaSource` when they are trimmed, or decay.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::Layout;

use common::window::{Heap, PAGE, Window, alloc, arena, free, heap, layout, settled};
use heap::talc::base::CHUNK_OVERHEAD;
use heap::vmem::AllocPolicy;

/// A block that takes whole pages, with its tag.
fn whole(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE - CHUNK_OVERHEAD, PAGE).unwrap()
}

fn window() -> Window {
    Window::filled_with(4096, 0)
}

/// Leaves holes and gaps of a page each by turns at the top of a heap, above two blocks.
fn leave_holes_at_the_top(heap: &Heap<'_>, holes: usize) {
    let blocks: Vec<_> = (0..2 * holes + 2).map(|_| alloc(heap, whole(1))).collect();
    for parity in [0, 1] {
        for &block in blocks.iter().skip(2 + parity).step_by(2) {
            free(heap, block, whole(1));
        }
        if parity == 0 {
            assert_eq!(heap.punch(), holes * PAGE);
        }
    }
    assert_eq!(heap.lock().arena_holes().count(), holes);
}

#[test]
fn the_top_that_was_used_stays_while_holes_elsewhere_are_given_up() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    leave_holes_at_the_top(&heap, 30);
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    // The heap that grows is another, whose top was in use in this interval.
    alloc(&heap, layout(60 * PAGE));
    let used = alloc(&heap, layout(12 * PAGE));
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    free(&heap, used, layout(12 * PAGE));
    heap.decay();
    let holes = heap.lock().arena_holes().count();
    assert!(holes <= 1, "the holes of the first heap: {holes}");
    let end = heap.lock().arena_heaps().next().unwrap().end;
    assert!(end.addr().get() >= used.addr() + 12 * PAGE, "it was in use");
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
}

#[test]
fn a_hole_below_the_top_that_was_used_stays() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let [_, hole, used] = [4, 8, 4].map(|pages| alloc(&heap, layout(pages * PAGE)));
    free(&heap, hole, layout(8 * PAGE));
    let bytes = heap.punch();
    assert!(bytes >= 6 * PAGE);
    free(&heap, used, layout(4 * PAGE));
    heap.decay();
    assert_eq!(heap.lock().source.hole_bytes(), bytes);
    // Each interval that does not use it expects the next to use a quarter less.
    (0..40).for_each(|_| _ = heap.decay());
    assert_eq!(heap.lock().source.hole_bytes(), 0);
    settled(&window, &arena, &heap);
}

#[test]
fn the_hysteresis_of_growth_begins_anew() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    let pass = || {
        let block = alloc(&heap, layout(60 * PAGE));
        free(&heap, block, layout(60 * PAGE));
        let is_due = heap.lock().source.has_pending_releases();
        heap.drain().unwrap();
        is_due
    };
    assert!(pass());
    (0..10).for_each(|_| _ = pass());
    assert!(!pass(), "the pages went back and came again by turns");
    heap.trim();
    heap.drain().unwrap();
    assert!(pass());
    settled(&window, &arena, &heap);
}
