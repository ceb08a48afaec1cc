//! Which hole of an `ArenaSource` is found when several are nearly large enough.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::Layout;

use common::window::{Heap, PAGE, Window, alloc, arena, free, heap, layout, settled};
use heap::talc::base::CHUNK_OVERHEAD;

/// A block that takes whole pages, with its tag.
fn whole(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE - CHUNK_OVERHEAD, PAGE).unwrap()
}

/// Allocates a block below another, which is in use.
fn fenced(heap: &Heap<'_>, layout: Layout) -> (*mut u8, Layout) {
    let block = alloc(heap, layout);
    alloc(heap, whole(1));
    (block, layout)
}

/// Makes a hole of each block.
fn make_holes(heap: &Heap<'_>, blocks: &[(*mut u8, Layout)]) {
    for &(block, layout) in blocks {
        free(heap, block, layout);
    }
    heap.punch();
    assert_eq!(heap.lock().arena_holes().count(), blocks.len());
}

#[test]
fn a_hole_is_found_above_many_that_are_nearly_large_enough() {
    let window = Window::filled_with(4096, 0);
    let arena = arena(&window);
    let heap = heap(&arena);
    alloc(&heap, whole(1));
    let mut blocks: Vec<_> = (0..12).map(|_| fenced(&heap, whole(9))).collect();
    blocks.push(fenced(&heap, whole(20)));
    make_holes(&heap, &blocks);
    assert_eq!(alloc(&heap, layout(10 * PAGE)), blocks[12].0);
    settled(&window, &arena, &heap);
}

#[test]
fn a_hole_that_has_room_with_the_gaps_beside_it_is_found() {
    let window = Window::filled_with(4096, 0);
    let arena = arena(&window);
    let heap = heap(&arena);
    alloc(&heap, whole(1));
    let mut blocks: Vec<_> = (0..3).map(|_| fenced(&heap, whole(9))).collect();
    // This one begins within a page.
    alloc(&heap, layout(PAGE / 2));
    blocks.push(fenced(&heap, layout(10 * PAGE)));
    make_holes(&heap, &blocks);
    assert_eq!(alloc(&heap, layout(10 * PAGE)), blocks[3].0);
    settled(&window, &arena, &heap);
}
