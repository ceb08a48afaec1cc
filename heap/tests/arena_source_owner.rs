//! An `ArenaSource` that is taken from its allocator, swapped or dropped does no harm.

use std::mem::{replace, swap};

use heap::source::ArenaSource;
use heap::vmem::AllocPolicy;

mod common;

use common::window::{Heap, PAGE, Window, alloc, arena, free, heap, layout, settled};

#[test]
fn a_dropped_allocator_gives_everything_back() {
    let window = Window::new(256);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks = [100, 300_000, 5_000].map(|size| alloc(&heap, layout(size)));
    free(&heap, blocks[1], layout(300_000));
    assert!(window.lent() > 0);
    drop(heap);
    assert_eq!((window.lent(), arena.allocated_space()), (0, 0));
}

#[test]
fn a_replaced_source_leaks_heaps_that_are_in_use() {
    let window = Window::new(256);
    let arena = arena(&window);
    let mut heap = heap(&arena);
    let small = alloc(&heap, layout(100));
    let large = alloc(&heap, layout(200_000));
    // SAFETY: the blocks are live. The first lies directly above the metadata.
    unsafe {
        small.write_bytes(7, 100);
        large.write_bytes(7, 200_000);
    }
    let lent = window.lent();
    // SAFETY: the arena's memory is that of the window.
    let other = unsafe { ArenaSource::new(&arena) };
    drop(replace(&mut heap.get_mut().source, other));
    assert_eq!(window.lent(), lent, "pages in use were given back");
    // SAFETY: the block is live.
    assert_eq!(unsafe { large.add(199_999).read() }, 7);
    free(&heap, large, layout(200_000));
    assert!(
        alloc(&heap, layout(1 << 19)).is_null(),
        "a bound allocator gets nothing from another source"
    );
    assert!(
        !alloc(&heap, layout(100_000)).is_null(),
        "the allocator still has free memory"
    );
    free(&heap, small, layout(100));
    heap.lock().trim();
    assert_eq!(heap.drain(), Ok(0));
    assert_eq!(heap.lock().check(), Ok(()));
    drop(heap);
    assert_eq!(window.lent(), lent);
}

#[test]
fn a_replaced_source_leaks_a_heap_with_queued_pages() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let mut heap = heap(&arena);
    let low = alloc(&heap, layout(200_000));
    let high = alloc(&heap, layout(200_000));
    // SAFETY: the block is live.
    unsafe { low.write_bytes(7, 200_000) };
    free(&heap, high, layout(200_000));
    heap.lock().trim();
    assert!(heap.lock().source.has_pending_releases());
    let before = arena.allocated_space();
    drop(replace(&mut heap.get_mut().source, ArenaSource::detached()));
    assert_eq!(arena.allocated_space(), before);
    // SAFETY: the block is live.
    let bytes = unsafe { std::slice::from_raw_parts(low, 200_000) };
    assert!(bytes.iter().all(|&byte| byte == 7));
}

#[test]
fn swapped_sources_do_no_harm() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let (mut a, mut b) = (heap(&arena), heap(&arena));
    let size = 150_000;
    let [in_a, in_b] = [&a, &b].map(|heap| alloc(heap, layout(size)));
    swap(&mut a.get_mut().source, &mut b.get_mut().source);
    let lent = window.lent();
    free(&a, in_a, layout(size));
    free(&b, in_b, layout(size));
    for heap in [&a, &b] {
        heap.lock().trim();
        heap.drain().unwrap();
        assert!(alloc(heap, layout(1 << 20)).is_null());
        assert_eq!(heap.lock().check(), Ok(()));
    }
    assert_eq!(window.lent(), lent, "no source touches the other's heaps");
    // Back in their own allocators, both sources provide memory again.
    swap(&mut a.get_mut().source, &mut b.get_mut().source);
    for heap in [&a, &b] {
        let block = alloc(heap, layout(1 << 20));
        assert!(!block.is_null());
        free(heap, block, layout(1 << 20));
        heap.lock().trim();
        heap.drain().unwrap();
    }
    assert!(window.lent() < lent);
    drop((a, b));
    assert_eq!(window.lent(), 0);
}

#[test]
fn a_swapped_source_takes_no_pages_out_of_a_heap() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let (mut a, mut b) = (heap(&arena), heap(&arena));
    let block = layout(10 * PAGE);
    // Each heap has free pages between two blocks.
    for heap in [&a, &b] {
        let blocks = [(); 3].map(|()| alloc(heap, block));
        free(heap, blocks[1], block);
    }
    let mapped = window.mapped();
    swap(&mut a.get_mut().source, &mut b.get_mut().source);
    for heap in [&a, &b] {
        assert_eq!((heap.punch(), heap.decay(), heap.decay()), (0, 0, 0));
        assert_eq!(heap.lock().source.hole_bytes(), 0);
    }
    assert_eq!(window.mapped(), mapped);
    swap(&mut a.get_mut().source, &mut b.get_mut().source);
    for heap in [&a, &b] {
        let makes_holes = cfg!(not(feature = "hardened"));
        assert_eq!(heap.punch() >= 8 * PAGE, makes_holes);
        assert_eq!(heap.lock().check(), Ok(()));
    }
}

#[test]
fn a_source_that_outlives_its_allocator_gives_everything_back() {
    let window = Window::new(256);
    let arena = arena(&window);
    let mut heap = heap(&arena);
    alloc(&heap, layout(100_000));
    let source = replace(&mut heap.get_mut().source, ArenaSource::detached());
    let lent = window.lent();
    drop(heap);
    assert_eq!(window.lent(), lent);
    drop(source);
    assert_eq!(window.lent(), 0);
}

#[test]
fn a_source_without_heaps_can_be_moved() {
    let window = Window::new(256);
    let arena = arena(&window);
    let mut heap = heap(&arena);
    let source = replace(&mut heap.get_mut().source, ArenaSource::detached());
    let other = Heap::new(source);
    assert!(!alloc(&other, layout(100)).is_null());
    settled(&window, &arena, &other);
}

#[test]
fn a_dropped_source_writes_nothing_to_live_heaps() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let mut heap = heap(&arena);
    let size = 1 << 20;
    // The upper half of each of four heaps is free and queued; of one heap, all of it.
    let halves = [(); 4].map(|()| {
        let low = alloc(&heap, layout(size));
        let high = alloc(&heap, layout(size));
        arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
        (low, high)
    });
    for (low, high) in halves {
        free(&heap, high, layout(size));
        if low == halves[2].0 {
            free(&heap, low, layout(size));
        }
    }
    let talc = heap.get_mut();
    talc.trim();
    let heaps: Vec<_> = talc.arena_heaps().collect();
    assert_eq!(heaps.len(), 3);
    assert!(
        heaps.iter().all(|heap| heap.retained < heap.size),
        "{heaps:?}"
    );
    let contents = || {
        let bytes = heaps.iter().map(|heap| {
            // SAFETY: the arena has allocated these bytes to the heap, and nothing writes to them.
            unsafe { std::slice::from_raw_parts(heap.base.as_ptr(), heap.size) }.to_vec()
        });
        bytes.collect::<Vec<_>>()
    };
    let (before, lent) = (contents(), window.lent());
    drop(replace(&mut talc.source, ArenaSource::detached()));
    assert!(window.lent() < lent, "the deleted heap went");
    assert!(contents() == before, "a heap in use was written to");
}
