//! How heaps of an `ArenaSource` grow, and are claimed, at the edges of what is possible.

mod common;

use std::alloc::Layout;
use std::mem::MaybeUninit;

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};
use heap::vmem::{AllocPolicy, Arena, Page, TagPool};

use common::window::{
    Heap, PAGE, PageArena, Pages, SpinLock, Window, alloc, arena, free, heap, layout,
    layout_aligned, settled,
};

/// A full arena, nine holes of `hole` bytes in which `wanted` does not fit, and free memory at the
/// heap's top in which it does, `spare` bytes more than that takes. The holes are freed last, so
/// that they are looked at first.
fn nine_holes(
    window: &Window,
    heap: &Heap<'_>,
    hole: usize,
    wanted: Layout,
    spare: usize,
) -> Vec<(*mut u8, Layout)> {
    let (hole, separator) = (layout(hole), layout(100));
    let mut held = Vec::new();
    let mut holes = Vec::new();
    while holes.len() < 9 {
        assert!(held.len() < 1_000, "no nine holes");
        let block = alloc(heap, hole);
        let base = block.addr().next_multiple_of(wanted.align());
        if base + wanted.size() > block.addr() + hole.size() {
            holes.push(block);
        } else {
            held.push((block, hole));
        }
        held.push((alloc(heap, separator), separator));
    }
    let top = alloc(heap, layout(200_000));
    free(heap, top, layout(200_000));
    heap.drain().unwrap();
    let end = heap.lock().arena_heaps().next().unwrap().end.addr().get();
    let base = (end - wanted.size() - 16) & !(wanted.align() - 1);
    let filler = layout(free_at_top(heap) - (end - base) - spare - 16);
    held.push((alloc(heap, filler), filler));
    window.state.lock().unwrap().limit = window.lent() / PAGE;
    for block in holes {
        free(heap, block, hole);
    }
    assert!(held.iter().all(|(block, _)| !block.is_null()));
    held
}

fn free_at_top(heap: &Heap<'_>) -> usize {
    let talc = heap.lock();
    let end = talc.arena_heaps().next().unwrap().end;
    // SAFETY: the heap ends there.
    let top = unsafe { talc.reserved(end) }.up_to;
    end.addr().get() - top.addr().get()
}

/// Allocates `wanted` from the top of such a heap, and checks that the heap's end stays where it
/// is.
fn growing_leaves_the_end(hole: usize, wanted: Layout, spare: usize) {
    // The heap begins at an odd page in one of the two cases, at an even one in the other.
    for fence in [1, 2] {
        growing_above_leaves_the_end(fence, hole, wanted, spare);
    }
}

fn growing_above_leaves_the_end(fence: usize, hole: usize, wanted: Layout, spare: usize) {
    let window = Window::new(4096);
    let arena: PageArena<'_> = arena(&window);
    let fence = arena.alloc(fence * PAGE, AllocPolicy::InstantFit).unwrap();
    let heap = heap(&arena);
    let held = nine_holes(&window, &heap, hole, wanted, spare);
    let before: Vec<_> = heap.lock().arena_heaps().collect();
    let block = alloc(&heap, wanted);
    assert!(!block.is_null(), "it fits at the top");
    assert_eq!(heap.lock().arena_heaps().collect::<Vec<_>>(), before);
    assert!(!heap.lock().source.has_pending_releases());
    assert_eq!(heap.lock().check(), Ok(()));
    free(&heap, block, wanted);
    for (block, layout) in held {
        free(&heap, block, layout);
    }
    heap.drain().unwrap();
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
}

#[test]
fn growth_in_a_full_arena_never_lowers_the_end_of_a_heap() {
    growing_leaves_the_end(66_000, layout(69_000), 4_600);
}

#[test]
fn aligned_growth_in_a_full_arena_never_lowers_the_end() {
    // The holes are as large as the free top, but none has a multiple of the alignment in it.
    for hole in [7_690, 7_700, 7_750] {
        growing_leaves_the_end(hole, layout_aligned(40, 8192), 32);
    }
}

#[test]
fn an_alignment_of_two_mebibytes_takes_no_more_pages_than_its_size() {
    for align in [8192, 65536, 2 << 20] {
        let window = Window::new(4096);
        let arena = arena(&window);
        let heap = heap(&arena);
        // The first heap holds the list heads; the next is claimed for the block, as its end is
        // taken.
        let first = alloc(&heap, layout(100));
        let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
        let before = window.lent();
        window.state.lock().unwrap().limit = before / PAGE + 27;
        let wanted = layout_aligned(100_000, align);
        let block = alloc(&heap, wanted);
        assert!(!block.is_null() && block.addr() % align == 0, "{align}");
        // 25 pages for the block, and one each for the tag below and the record above it.
        assert!(window.lent() <= before + 27 * PAGE, "{align}");
        free(&heap, block, wanted);
        free(&heap, first, layout(100));
        heap.drain().unwrap();
        arena.free(fence).unwrap();
        settled(&window, &arena, &heap);
    }
}

#[test]
fn a_queued_heap_is_taken_back_if_its_record_fits_too() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let first = alloc(&heap, layout(100));
    let mut fences = vec![arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap()];
    let block = alloc(&heap, layout(1 << 20));
    fences.push(arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap());
    let claimed = heap.lock().arena_heaps().next().unwrap();
    let room = claimed.end.addr().get() - block.addr() - CHUNK_OVERHEAD;
    free(&heap, block, layout(1 << 20));
    assert!(heap.lock().source.has_pending_releases());

    // Up to the record.
    let total = window.total();
    assert_eq!(alloc(&heap, layout(room)), block);
    assert_eq!(window.total(), total);
    free(&heap, block, layout(room));

    // Into the record: the heap stays in the queue.
    let large = layout(room + CHUNK_UNIT);
    let other = alloc(&heap, large);
    assert!(!other.is_null() && other != block);
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    assert_eq!(heap.drain(), Ok(claimed.size));

    free(&heap, other, large);
    free(&heap, first, layout(100));
    heap.drain().unwrap();
    for fence in fences {
        arena.free(fence).unwrap();
    }
    settled(&window, &arena, &heap);
}

/// The size of a gap that is too large for its tag.
const MAX_GAP: usize = if usize::BITS == 64 { 1 << 56 } else { 1 << 31 };

#[test]
fn a_heap_that_one_gap_could_not_fill_is_refused() {
    static TAGS: TagPool<SpinLock, Pages, 64> = TagPool::new(SpinLock::new(), Pages);
    static mut MEMORY: MaybeUninit<[Page; 256]> = MaybeUninit::uninit();
    let base = (&raw mut MEMORY).expose_provenance();
    let arena: PageArena<'static> = Arena::create("addresses", PAGE, None, &TAGS).unwrap();
    // The memory is at the base. No more than that is ever allocated.
    arena.add_span(base, MAX_GAP + (1 << 28)).unwrap();
    let heap = heap(&arena);
    // With the tags and the record the heap would be larger than the gap.
    let large = Layout::from_size_align(MAX_GAP - 64, 1).unwrap();
    assert!(alloc(&heap, large).is_null(), "as the first heap");
    assert_eq!(arena.allocated_space(), 0);

    let block = alloc(&heap, layout(100));
    assert!((base..base + 256 * PAGE).contains(&block.addr()));
    let heaps: Vec<_> = heap.lock().arena_heaps().collect();
    assert!(
        alloc(&heap, large).is_null(),
        "in place, or as another heap"
    );
    assert_eq!(heap.lock().arena_heaps().collect::<Vec<_>>(), heaps);
    assert_eq!(arena.allocated_space(), heaps[0].size);
    assert_eq!(heap.lock().check(), Ok(()));
    free(&heap, block, layout(100));
}

#[test]
fn a_heap_grows_by_more_than_is_required() {
    let window = Window::new(256);
    let arena = arena(&window);
    let heap = heap(&arena);
    let claimed = || heap.lock().source.claimed();
    alloc(&heap, layout(100));
    let before = claimed();
    while claimed() == before {
        assert!(!alloc(&heap, layout(PAGE)).is_null());
    }
    assert_eq!(claimed() - before, 64 << 10);
    settled(&window, &arena, &heap);
}

#[test]
fn no_holes_are_made_where_a_record_is_larger_than_a_quantum() {
    const QUANTUM: usize = 32;
    static TAGS: TagPool<SpinLock, Pages, 64> = TagPool::new(SpinLock::new(), Pages);
    static mut MEMORY: MaybeUninit<[Page; 64]> = MaybeUninit::uninit();
    let source: PageArena<'static> = Arena::create("memory", QUANTUM, None, &TAGS).unwrap();
    let base = (&raw mut MEMORY).expose_provenance();
    source.add_span(base, 64 * PAGE).unwrap();
    let arena = Arena::create("blocks", QUANTUM, Some(&source), &TAGS).unwrap();
    let heap = heap(&arena);
    let blocks = [(); 3].map(|()| alloc(&heap, layout(PAGE)));
    free(&heap, blocks[1], layout(PAGE));
    assert_eq!((heap.punch(), heap.decay(), heap.decay()), (0, 0, 0));
    assert_eq!(heap.lock().check(), Ok(()));
    drop(heap);
    assert_eq!(arena.allocated_space(), 0);
}
