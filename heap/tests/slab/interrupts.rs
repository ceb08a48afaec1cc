//! One CPU on which interrupt handlers allocate and free between any two steps.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, RefCell};

use heap::slab::{Cpus, SlabAllocator};
use heap::source::StableGlobalAlloc;

use crate::random::{Choices, Random};
use crate::support::{Block, Counted, layout};

/// Runs a handler wherever interrupts are enabled: before and after each use of the CPU's part, and
/// while the allocator behind works.
struct Interrupted {
    masked: Cell<bool>,
}

/// Counted Talc, whose operations are interrupted too.
struct InterruptedTalc(Counted);

type Heap = SlabAllocator<InterruptedTalc, Interrupted, 1>;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
}

/// What the handler has.
struct Handler {
    heap: &'static Heap,
    blocks: Vec<Block>,
    random: Random,
    runs: usize,
}

/// An interrupt comes here, perhaps.
fn interrupt() {
    // The handler itself is not interrupted.
    let taken = HANDLER.with(|handler| handler.try_borrow_mut().ok().and_then(|mut it| it.take()));
    let Some(mut handler) = taken else { return };
    if handler.random.chance(3) {
        handler.runs += 1;
        for _ in 0..1 + handler.random.below(3) {
            let index = handler.random.below(40);
            if index < handler.blocks.len() {
                handler.blocks.swap_remove(index).free(handler.heap);
            } else {
                let size = handler
                    .random
                    .pick(&[16, 64, 64, 64, 240, 400, 496, 496, 1000]);
                handler
                    .blocks
                    .extend(Block::new(handler.heap, layout(size, 1)));
            }
        }
    }
    HANDLER.set(Some(handler));
}

// SAFETY: the handler runs only outside `work`, and all in one thread.
unsafe impl Cpus for Interrupted {
    const COUNT: usize = 1;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        interrupt();
        assert!(!self.masked.replace(true), "`work` was interrupted");
        let result = work(0);
        self.masked.set(false);
        interrupt();
        result
    }
}

// SAFETY: all blocks are Talc's.
unsafe impl GlobalAlloc for InterruptedTalc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        interrupt();
        // SAFETY: the caller's duty.
        let block = unsafe { self.0.alloc(layout) };
        interrupt();
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        interrupt();
        // SAFETY: the caller's duty.
        unsafe { self.0.dealloc(block, layout) };
        interrupt();
    }
}

// SAFETY: blocks lie in leaked memory.
unsafe impl StableGlobalAlloc for InterruptedTalc {}

#[test]
fn handlers_allocate_and_free_in_every_window() {
    let mut runs = 0;
    for seed in 0..if cfg!(miri) { 1 } else { 60 } {
        let heap: &'static Heap = Box::leak(Box::new(SlabAllocator::new(
            InterruptedTalc(Counted::new(128 << 10)),
            Interrupted {
                masked: Cell::new(false),
            },
        )));
        HANDLER.set(Some(Handler {
            heap,
            blocks: Vec::new(),
            random: Random::new(seed),
            runs: 0,
        }));
        let mut random = Random::new(1000 + seed);
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..if cfg!(miri) { 300 } else { 4000 } {
            let index = random.below(300);
            if index < blocks.len() {
                blocks.swap_remove(index).free(heap);
            } else {
                let size = random.pick(&[16, 64, 64, 64, 240, 400, 496, 496, 1000]);
                blocks.extend(Block::new(heap, layout(size, 1)));
            }
            if random.chance(100) {
                heap.backing()
                    .0
                    .refuse_after(random.pick(&[0, 2, usize::MAX]));
                heap.reap();
                heap.check().expect("the slabs are intact");
            }
        }
        let handler = HANDLER.take().expect("it is there between interrupts");
        runs += handler.runs;
        blocks
            .into_iter()
            .chain(handler.blocks)
            .for_each(|block| block.free(heap));
        heap.reap();
        assert_eq!(heap.stats().slabs(), 0);
        assert_eq!(heap.backing().0.blocks(), 0);
    }
    assert!(runs > 100, "the handler ran {runs} times");
}
