//! While an `ArenaSource` gets memory from the arena, the lock of the heap is free: what others do
//! meanwhile.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use common::window::{Heap, PAGE, PageArena, Window, alloc, arena, free, heap, layout, settled};
use heap::source::ArenaHeap;
use heap::vmem::AllocPolicy;

/// A heap, and its blocks with the sizes that they are filled up to.
struct Prepared {
    window: &'static Window,
    arena: &'static PageArena<'static>,
    heap: &'static Heap<'static>,
    blocks: Vec<(*mut u8, Layout)>,
    /// A page of another user of the arena, which lies above a heap.
    fence: Option<usize>,
}

impl Prepared {
    fn fence(&mut self) {
        self.fence = Some(self.arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap());
    }

    /// Fills up everything that is mapped with blocks.
    fn fill_up(&mut self) {
        self.window.fail_after(0);
        for size in [LARGE / 2, SMALL, 500, 100] {
            let layout = layout(size);
            let found = std::iter::from_fn(|| {
                let block = alloc(self.heap, layout);
                (!block.is_null()).then_some((block, layout))
            });
            self.blocks.extend(found);
        }
        self.window.fail_after(usize::MAX);
    }

    /// Ends the interruptions, and asserts that all layers agree.
    fn settle(&mut self) {
        *self.window.growing.lock().unwrap() = None;
        if let Some(fence) = self.fence.take() {
            self.arena.free(fence).unwrap();
        }
        settled(self.window, self.arena, self.heap);
    }

    /// Frees all blocks, and asserts that no page is left but that with the list heads.
    fn finish(mut self) {
        for (block, layout) in std::mem::take(&mut self.blocks) {
            free(self.heap, block, layout);
        }
        self.heap.lock().trim();
        self.settle();
        assert_eq!((self.window.lent(), self.window.mapped()), (PAGE, PAGE));
    }
}

const LARGE: usize = 50 * PAGE;
/// Larger than what is free in a heap of [`LARGE`] blocks, but not than growth.
const SMALL: usize = 3000;

fn leaked(
    window: Window,
) -> (
    &'static Window,
    &'static PageArena<'static>,
    &'static Heap<'static>,
) {
    let window = &*Box::leak(Box::new(window));
    let arena = &*Box::leak(Box::new(arena(window)));
    (window, arena, Box::leak(Box::new(heap(arena))))
}

/// Where the memory for the next block of [`LARGE`] bytes comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Hole,
    /// The pages above the heap, of which some may be queued.
    Above {
        queued: bool,
    },
    /// A heap that was deleted, with a hole in it.
    Queue,
    Arena,
}

const PLACES: [Place; 5] = [
    Place::Hole,
    Place::Above { queued: false },
    Place::Above { queued: true },
    Place::Queue,
    Place::Arena,
];

/// Makes a heap that gets the memory for its next large block there.
fn prepare(place: Place) -> Prepared {
    let (window, arena, heap) = leaked(Window::new(4096));
    let large = || (alloc(heap, layout(LARGE)), layout(LARGE));
    let mut all = Prepared {
        window,
        arena,
        heap,
        blocks: (0..4).map(|_| large()).collect(),
        fence: None,
    };
    match place {
        Place::Hole => {
            all.fill_up();
            let (block, layout) = all.blocks.swap_remove(1);
            free(heap, block, layout);
            assert!(heap.punch() >= LARGE - 2 * PAGE);
        }
        Place::Above { queued } => {
            all.fill_up();
            if queued {
                let top = alloc(heap, layout(LARGE / 2));
                free(heap, top, layout(LARGE / 2));
                heap.lock().trim();
                assert!(heap.lock().source.has_pending_releases());
            }
        }
        Place::Queue => {
            all.fence();
            all.fill_up();
            let [(first, _), (second, _)] = [large(), large()];
            free(heap, first, layout(LARGE));
            assert!(heap.punch() > 0);
            free(heap, second, layout(LARGE));
            heap.lock().trim();
            assert_eq!(heap.lock().arena_heaps().count(), 1);
        }
        Place::Arena => {
            all.fence();
            all.fill_up();
        }
    }
    for (number, &(block, layout)) in (0..).zip(&all.blocks) {
        fill(block, layout.size(), number);
    }
    all
}

fn fill(block: *mut u8, size: usize, byte: u8) {
    // SAFETY: the block is live, and has as many bytes.
    unsafe { block.write_bytes(byte, size) };
}

fn assert_filled(block: *mut u8, size: usize, byte: u8) {
    // SAFETY: the block is live, and was filled.
    let bytes = unsafe { std::slice::from_raw_parts(block, size) };
    assert!(bytes.iter().all(|&it| it == byte), "{byte:#x}");
}

/// Asserts that nothing has written to the blocks from the `first` on.
fn assert_intact(blocks: &[(*mut u8, Layout)], first: usize) {
    for (number, &(block, layout)) in (0..).zip(blocks).skip(first) {
        assert_filled(block, layout.size(), number);
    }
}

fn heaps(heap: &Heap<'_>) -> Vec<ArenaHeap> {
    heap.lock().arena_heaps().collect()
}

/// Runs `work` when the window is first asked for memory. Returns how often it was asked.
fn when_asked(window: &Window, mut work: impl FnMut() + Send + 'static) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    *window.growing.lock().unwrap() = Some(Box::new(move || {
        if counter.fetch_add(1, Relaxed) == 0 {
            work();
        }
    }));
    asked
}

#[test]
fn others_use_the_heap_while_it_gets_memory() {
    for place in PLACES {
        let mut all = prepare(place);
        let (window, heap) = (all.window, all.heap);
        // The first block is freed meanwhile, and a part of it allocated again.
        let first = all.blocks[0].0.expose_provenance();
        let asked = when_asked(window, move || {
            assert!(heap.try_lock().is_some(), "the lock is held");
            assert_eq!(heap.lock().check(), Ok(()));
            let block = std::ptr::with_exposed_provenance_mut(first);
            free(heap, block, layout(LARGE));
            let small = alloc(heap, layout(LARGE - 2 * PAGE));
            assert_eq!(small, block, "it fits where the other was");
            assert_eq!(heap.lock().check(), Ok(()));
        });
        let large = alloc(heap, layout(LARGE));
        assert!(!large.is_null(), "{place:?}");
        assert_eq!(asked.load(Relaxed), 1, "{place:?}: it is asked once");
        fill(large, LARGE, 0xee);
        assert_intact(&all.blocks, 1);
        all.settle();
        all.blocks[0].1 = layout(LARGE - 2 * PAGE);
        all.blocks.push((large, layout(LARGE)));
        all.finish();
    }
}

#[test]
fn a_request_that_comes_meanwhile_gets_memory_elsewhere() {
    for place in PLACES {
        let mut all = prepare(place);
        let (window, heap) = (all.window, all.heap);
        let claimed = heaps(heap).len();
        let nested = Arc::new(AtomicUsize::new(0));
        let slot = nested.clone();
        when_asked(window, move || {
            let block = alloc(heap, layout(LARGE));
            assert!(!block.is_null());
            fill(block, LARGE, 0xdd);
            slot.store(block.expose_provenance(), Relaxed);
        });
        let large = alloc(heap, layout(LARGE));
        assert!(!large.is_null(), "{place:?}");
        fill(large, LARGE, 0xee);
        assert_intact(&all.blocks, 0);
        let nested = std::ptr::with_exposed_provenance_mut(nested.load(Relaxed));
        assert_filled(nested, LARGE, 0xdd);
        assert!(heaps(heap).len() <= claimed + 2, "{place:?}");
        all.settle();
        for block in [large, nested] {
            all.blocks.push((block, layout(LARGE)));
        }
        all.finish();
    }
}

#[test]
fn giving_back_meanwhile_leaves_alone_what_is_reserved() {
    for place in PLACES {
        let mut all = prepare(place);
        let (window, heap) = (all.window, all.heap);
        // The block at the top is freed meanwhile, so that the heap could shrink.
        let top = (0..all.blocks.len()).max_by_key(|&index| all.blocks[index].0);
        let (top, top_layout) = all.blocks.swap_remove(top.unwrap());
        let retained = heaps(heap)[0].retained;
        let top = top.expose_provenance();
        when_asked(window, move || {
            let top = std::ptr::with_exposed_provenance_mut(top);
            free(heap, top, top_layout);
            heap.lock().trim();
            assert_eq!(heap.lock().check(), Ok(()));
            heap.drain().unwrap();
            heap.punch();
            heap.decay();
            assert_eq!(heap.lock().check(), Ok(()));
            if matches!(place, Place::Above { .. }) {
                assert_eq!(heaps(heap)[0].retained, retained);
            }
        });
        let large = alloc(heap, layout(LARGE));
        assert!(!large.is_null(), "{place:?}");
        fill(large, LARGE, 0xee);
        all.settle();
        // What was left alone follows.
        all.blocks.push((large, layout(LARGE)));
        all.finish();
    }
}

#[test]
fn what_is_refused_leaves_all_as_it_was() {
    for place in PLACES {
        let mut all = prepare(place);
        let (window, heap) = (all.window, all.heap);
        let state = || {
            let talc = heap.lock();
            assert_eq!(talc.check(), Ok(()));
            let holes: Vec<_> = talc.arena_holes().collect();
            let gaps: Vec<_> = talc.gaps().map(|gap| gap.size()).collect();
            let is_queued = talc.source.has_pending_releases();
            drop(talc);
            (heaps(heap), holes, gaps, is_queued, window.mapped())
        };
        let before = state();
        window.fail_after(0);
        assert!(alloc(heap, layout(LARGE)).is_null(), "{place:?}");
        assert_eq!(state(), before, "{place:?}");
        window.fail_after(usize::MAX);
        let large = alloc(heap, layout(LARGE));
        assert!(!large.is_null(), "{place:?}");
        assert_intact(&all.blocks, 0);
        all.settle();
        all.blocks.push((large, layout(LARGE)));
        all.finish();
    }
}

#[test]
fn a_heap_grows_when_no_hole_can_be_restored() {
    for place in [Place::Hole, Place::Queue] {
        let mut all = prepare(place);
        let lent = all.window.lent();
        all.window.state.lock().unwrap().refuses_restoring = true;
        let large = alloc(all.heap, layout(LARGE));
        assert!(!large.is_null(), "{place:?}");
        assert!(all.window.lent() > lent, "{place:?}");
        all.window.state.lock().unwrap().refuses_restoring = false;
        assert_intact(&all.blocks, 0);
        all.blocks.push((large, layout(LARGE)));
        all.finish();
    }
}

#[test]
fn a_heap_shrinks_again_after_its_growth_was_refused() {
    let all = prepare(Place::Above { queued: true });
    // The queued pages are not enough.
    all.window.fail_after(0);
    assert!(alloc(all.heap, layout(40 * LARGE)).is_null());
    assert!(all.heap.lock().source.has_pending_releases());
    assert!(all.heap.drain().unwrap() > 0);
    all.window.fail_after(usize::MAX);
    all.finish();
}

#[test]
fn memory_that_others_have_used_meanwhile_is_not_taken_for_zero() {
    for place in PLACES {
        let (window, arena, _) = leaked(Window::filled_with(4096, 0));
        // SAFETY: the window's vacant pages are zero, and only this heap uses the arena.
        let source = unsafe { heap::source::ArenaSource::new(arena).of_zeroed_memory() };
        let heap: &'static Heap<'static> = Box::leak(Box::new(Heap::new(source)));
        let blocks: Vec<_> = (0..6).map(|_| alloc(heap, layout(LARGE))).collect();
        if place == Place::Hole {
            free(heap, blocks[1], layout(LARGE));
            free(heap, blocks[3], layout(LARGE));
            heap.punch();
        } else if place != (Place::Above { queued: false }) {
            arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
        }
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        when_asked(window, move || {
            // Another uses restored and new memory, and leaves traces in it.
            // SAFETY: the size is not zero.
            let block = unsafe { heap.alloc_zeroed(layout(LARGE)) };
            assert_filled(block, LARGE, 0);
            fill(block, LARGE, 0xaa);
            free(heap, block, layout(LARGE));
            flag.store(true, Relaxed);
        });
        for _ in 0..4 {
            // SAFETY: the size is not zero.
            let block = unsafe { heap.alloc_zeroed(layout(LARGE)) };
            assert_filled(block, LARGE, 0);
            fill(block, LARGE, 0xbb);
        }
        assert!(done.load(Relaxed), "{place:?}");
        assert_eq!(heap.lock().check(), Ok(()));
    }
}

#[test]
fn threads_that_get_memory_at_once_share_none() {
    for round in 0..20 {
        let (window, arena, heap) = leaked(Window::new(4096));
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                scope.spawn(move || {
                    let mut blocks = Vec::new();
                    for turn in 0..40 {
                        let size = 1 + (round * 7919 + turn * 104_729) % (20 * PAGE);
                        let block = alloc(heap, layout(size));
                        assert!(!block.is_null());
                        fill(block, size, thread);
                        blocks.push((block, size));
                        if turn % 3 == 2 {
                            let (block, size) = blocks.swap_remove(turn / 3 % blocks.len());
                            free(heap, block, layout(size));
                            heap.punch();
                        }
                        if turn % 16 == 15 {
                            heap.drain().unwrap();
                        }
                    }
                    for (block, size) in blocks {
                        assert_filled(block, size, thread);
                        free(heap, block, layout(size));
                    }
                });
            }
        });
        heap.lock().trim();
        settled(window, arena, heap);
        assert_eq!(window.lent(), PAGE);
    }
}
