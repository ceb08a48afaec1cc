//! What the source of the arena refuses costs a heap nothing else.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::Layout;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

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

fn limit(window: &Window, pages: usize) {
    window.state.lock().unwrap().limit = pages;
}

/// Makes 60 pages a hole, and enters them in the release queue.
fn queue_hole(heap: &Heap<'_>) {
    assert!(!alloc(heap, layout(100)).is_null());
    let [hole, top] = [60, 1].map(|pages| (alloc(heap, whole(pages)), whole(pages)));
    free(heap, hole.0, hole.1);
    assert_eq!(heap.punch(), 60 * PAGE);
    free(heap, top.0, top.1);
    heap.trim();
    assert!(heap.lock().source.has_pending_releases());
}

#[test]
fn refused_growth_leaves_the_memory_for_another_heap() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    queue_hole(&heap);
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    let before = window.mapped() / PAGE;
    // The heap cannot grow. If the hole were memory again, another would have too little.
    limit(&window, before + 90);
    assert!(!alloc(&heap, layout(80 * PAGE)).is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    // What is neither for one nor for the other changes nothing.
    limit(&window, before + 150);
    let before = window.mapped();
    assert!(alloc(&heap, layout(100 * PAGE)).is_null());
    assert_eq!(window.mapped(), before);
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
}

#[test]
fn a_heap_grows_by_a_part_of_a_queued_hole() {
    let window = window();
    let arena = arena(&window);
    let heap = heap(&arena);
    queue_hole(&heap);
    // Too little for all of the hole, and for a step of growth.
    limit(&window, window.mapped() / PAGE + 8);
    assert!(!alloc(&heap, layout(4 * PAGE)).is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    settled(&window, &arena, &heap);
}

#[test]
fn other_gaps_give_pages_back_when_one_is_refused() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let window: &'static Window = Box::leak(Box::new(window()));
    let arena = arena(window);
    let heap = heap(&arena);
    let blocks: Vec<_> = (0..7).map(|_| alloc(&heap, whole(2))).collect();
    for index in [1, 3, 5] {
        free(&heap, blocks[index], whole(2));
    }
    *window.interrupt.lock().unwrap() = Some(Box::new(|| {
        let is_first = CALLS.fetch_add(1, Relaxed) == 0;
        window.state.lock().unwrap().refuses_holes = is_first;
    }));
    assert_eq!(heap.punch(), 2 * 2 * PAGE);
    *window.interrupt.lock().unwrap() = None;
    assert_eq!(CALLS.load(Relaxed), 3);
    settled(window, &arena, &heap);
}
