//! All layers together: a lock over `ArenaSource`, over an arena, over a window of pages. The
//! window sometimes refuses pages, lends them to others, and fills them when they are given back.

use std::alloc::GlobalAlloc;

use heap::vmem::AllocPolicy::InstantFit;

use super::global::step;
use super::operations::is_growing;
use crate::common::programs::for_programs;
use crate::common::shadow::Shadow;
use crate::common::window::{PAGE, Window, arena, heap, settled};

#[test]
fn heap_arena_and_window_agree_while_pages_come_and_go() {
    for_programs(|program| {
        let mut random = program.set_up();
        let window = Window::new(12 + random.below(40));
        let arena = arena(&window);
        let heap = heap(&arena);
        let mut shadow = Shadow::new();
        let mut fence = None;
        for (index, mut random) in program.steps().enumerate() {
            match random.below(32) {
                // Another user of the arena takes a page, perhaps the one above a heap.
                0 => match fence.take() {
                    Some(fence) => {
                        arena.free(fence).unwrap();
                        settled(&window, &arena, &heap);
                    }
                    None => fence = arena.alloc(PAGE, InstantFit).ok(),
                },
                1 => heap.lock().trim(),
                2 => drop(heap.drain().unwrap()),
                3 => window.fail_after(random.below(4)),
                4..8 => window.fail_after(usize::MAX),
                _ => drop(step(&heap, &mut shadow, &mut random, is_growing(index))),
            }
            heap.lock().check().unwrap();
            arena.check().unwrap();
        }
        window.fail_after(usize::MAX);
        while let Some(block) = shadow.take(&mut random) {
            // SAFETY: the block is live.
            unsafe { heap.dealloc(block.ptr, block.layout) };
        }
        if let Some(fence) = fence {
            arena.free(fence).unwrap();
        }
        heap.lock().trim();
        settled(&window, &arena, &heap);
        assert!(window.lent() <= PAGE, "the list heads, or nothing");
    });
}
