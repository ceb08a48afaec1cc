//! `PageHeap`: pages go back without a call of `drain`.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::window::{PAGE, SpinLock, Tags, Window, arena, layout};
use heap::source::{AlwaysOpen, ArenaSource, DecayInterval, PageHeap, ReleaseGate};

type Heap<'a, G = AlwaysOpen> = PageHeap<'a, spin::Mutex<()>, Tags, SpinLock, G>;

/// Never ends by itself.
const NEVER: DecayInterval = DecayInterval { frees: 0, ticks: 0 };

fn heap<'a, G: ReleaseGate>(arena: &'a common::window::PageArena<'a>) -> Heap<'a, G> {
    // SAFETY: the window's pages are memory, and only this heap uses the arena.
    let heap = Heap::new(unsafe { ArenaSource::new(arena) });
    heap.set_decay_interval(NEVER);
    heap
}

fn alloc(heap: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: the tests use no zero-sized layouts.
    unsafe { heap.alloc(layout) }
}

fn free(heap: &impl GlobalAlloc, block: *mut u8, layout: Layout) {
    // SAFETY: the tests free each block once, with its layout.
    unsafe { heap.dealloc(block, layout) }
}

#[test]
fn a_free_gives_back_the_top_of_the_heap() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap: Heap = heap(&arena);
    let block = alloc(&heap, layout(1 << 20));
    assert!(!block.is_null() && window.lent() > 1 << 20);
    free(&heap, block, layout(1 << 20));
    assert!(window.lent() < 1 << 19, "{} bytes are lent", window.lent());
    assert!(!heap.talc().lock().source.has_pending_releases());
    heap.reap();
    assert_eq!(window.lent(), PAGE);
}

#[cfg(not(feature = "disable-realloc-in-place"))]
#[test]
fn a_block_that_shrinks_gives_back_the_top() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap: Heap = heap(&arena);
    let block = alloc(&heap, layout(1 << 20));
    // SAFETY: the block is allocated with this layout.
    let block = unsafe { heap.realloc(block, layout(1 << 20), 100) };
    assert!(window.lent() < 1 << 19, "{} bytes are lent", window.lent());
    free(&heap, block, layout(100));
}

/// Whether the gate of `a_closed_gate_keeps_pages_until_it_opens` is open.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

struct Gate;

impl ReleaseGate for Gate {
    fn is_open() -> bool {
        IS_OPEN.load(Relaxed)
    }
}

#[test]
fn a_closed_gate_keeps_pages_until_it_opens() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap: Heap<Gate> = heap(&arena);
    let small = alloc(&heap, layout(5000));
    let block = alloc(&heap, layout(1 << 20));
    let lent = window.lent();
    free(&heap, block, layout(1 << 20));
    assert_eq!(window.lent(), lent);
    IS_OPEN.store(true, Relaxed);
    free(&heap, small, layout(5000));
    assert!(window.lent() < 1 << 19, "{} bytes are lent", window.lent());
}

// With `hardened` no pages inside a heap go back.
#[cfg(not(feature = "hardened"))]
#[test]
fn what_lies_idle_makes_room_before_an_allocation_fails() {
    let window = Window::new(1024);
    window.state.lock().unwrap().limit = 400;
    let arena = arena(&window);
    let heap: Heap = heap(&arena);
    let blocks: Vec<_> = (0..100).map(|_| alloc(&heap, layout(10_000))).collect();
    assert!(blocks.iter().all(|block| !block.is_null()));
    for &block in &blocks[..99] {
        free(&heap, block, layout(10_000));
    }
    // The pages that are mapped and free count against the limit, until they go back.
    let large = layout(1_500_000);
    let block = alloc(&heap, large);
    assert!(!block.is_null());
    free(&heap, block, large);
    free(&heap, blocks[99], layout(10_000));
}

// With `hardened` no pages inside a heap go back.
#[cfg(not(feature = "hardened"))]
#[test]
fn pages_inside_go_back_after_two_intervals() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap: Heap = heap(&arena);
    let lower = alloc(&heap, layout(1 << 20));
    let upper = alloc(&heap, layout(5000));
    free(&heap, lower, layout(1 << 20));
    let full = window.mapped();
    assert!(full > 1 << 20);
    heap.set_decay_interval(DecayInterval {
        frees: 10,
        ticks: 0,
    });
    let work = |count| {
        for _ in 0..count {
            let block = alloc(&heap, layout(600));
            free(&heap, block, layout(600));
        }
    };
    work(10);
    assert!(
        window.mapped() > 1 << 20,
        "the first pass only sees the gap"
    );
    work(10);
    assert!(window.mapped() < full / 4, "{} bytes", window.mapped());
    free(&heap, upper, layout(5000));
}

// With `hardened` no pages inside a heap go back.
#[cfg(not(feature = "hardened"))]
#[test]
fn ticks_make_a_pass_too() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap: Heap = heap(&arena);
    let lower = alloc(&heap, layout(1 << 20));
    let upper = alloc(&heap, layout(5000));
    let other = [alloc(&heap, layout(600)), alloc(&heap, layout(600))];
    free(&heap, lower, layout(1 << 20));
    let full = window.mapped();
    heap.set_decay_interval(DecayInterval { frees: 0, ticks: 3 });
    for block in other {
        for _ in 0..3 {
            heap.count_tick();
        }
        free(&heap, block, layout(600));
    }
    assert!(window.mapped() < full / 4, "{} bytes", window.mapped());
    free(&heap, upper, layout(5000));
}
