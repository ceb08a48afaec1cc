//! Programs on slabs of several CPUs, one after the other. The allocator behind is that of the
//! host, so that AddressSanitizer sees each access to a page that was given back. It refuses after
//! any number of allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

use heap::slab::{Cpus, MAX_HELD_BACK, SlabAllocator};
use heap::source::StableGlobalAlloc;

use crate::common::shadow::Shadow;
use crate::input::Input;

/// The number of CPUs.
const CPUS: usize = 3;

/// The most blocks that a program has.
const MAX_BLOCKS: usize = 600;

/// What happens outside the slabs.
struct World {
    /// The CPU that runs.
    cpu: Cell<usize>,
    /// Whether the code is on another CPU after each call of the allocator behind.
    moves: Cell<bool>,
    /// Whether the CPUs that do not run can be reaped.
    others_sleep: Cell<bool>,
    /// The number of blocks of the allocator behind.
    blocks: Cell<usize>,
    /// The number of allocations behind the slabs that succeed before the others fail.
    remaining: Cell<usize>,
}

impl World {
    fn new() -> Self {
        Self {
            cpu: Cell::new(0),
            moves: Cell::new(false),
            others_sleep: Cell::new(true),
            blocks: Cell::new(0),
            remaining: Cell::new(usize::MAX),
        }
    }

    /// Counts a call of the allocator behind. Returns whether it may allocate.
    fn call(&self, allocates: bool) -> bool {
        if self.moves.get() {
            self.cpu.set((self.cpu.get() + 1) % CPUS);
        }
        let remaining = self.remaining.get();
        if allocates && remaining != usize::MAX {
            self.remaining.set(remaining.saturating_sub(1));
        }
        remaining > 0
    }
}

/// The allocator of the host.
struct Host<'a>(&'a World);

// SAFETY: all blocks are those of the host.
unsafe impl GlobalAlloc for Host<'_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.0.call(true) {
            return ptr::null_mut();
        }
        self.0.blocks.set(self.0.blocks.get() + 1);
        // SAFETY: the caller guarantees that the size is not zero.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.0.call(false);
        self.0.blocks.set(self.0.blocks.get() - 1);
        // SAFETY: the caller guarantees that the block is in use with this layout.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.0.call(true) {
            return ptr::null_mut();
        }
        // SAFETY: the caller guarantees that the block is in use, and that the size is right.
        unsafe { System.realloc(block, layout, size) }
    }
}

// SAFETY: blocks of the host stay in place.
unsafe impl StableGlobalAlloc for Host<'_> {}

// SAFETY: all runs in one thread, and `work` neither begins again nor moves before it ends.
unsafe impl Cpus for &World {
    const COUNT: usize = CPUS;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(self.cpu.get())
    }

    fn with_unused(&self, work: impl FnMut(usize)) {
        let others = (0..CPUS).filter(|&cpu| cpu != self.cpu.get());
        others.filter(|_| self.others_sleep.get()).for_each(work);
    }
}

type Heap<'a> = SlabAllocator<Host<'a>, &'a World, CPUS>;

/// Chooses a size, often one of which a slab has few blocks.
fn size(input: &mut Input) -> usize {
    match input.below(8) {
        0..4 => [16, 64, 400, 496][input.below(4)],
        4..7 => 1 + input.below(520),
        _ => 1 + input.below(9000),
    }
}

/// Runs a program.
pub fn run(data: &[u8]) {
    let world = World::new();
    let heap = Heap::new(Host(&world), &world);
    let mut shadow = Shadow::new();
    let mut input = Input::new(data);
    while !input.is_over() {
        step(&mut input, &world, &heap, &mut shadow);
        heap.check().unwrap();
        let held_back = heap.stats().held_back();
        assert!(held_back <= MAX_HELD_BACK, "{held_back}");
    }

    world.remaining.set(usize::MAX);
    world.others_sleep.set(true);
    shadow.assert_all_intact();
    while !shadow.is_empty() {
        free(&heap, &mut shadow, 0);
    }
    // What one part holds back may belong to the slab of another, which was reaped before.
    for _ in 0..2 {
        heap.reap();
    }
    assert_eq!(heap.stats().slabs(), 0, "{}", heap.stats());
    assert_eq!(world.blocks.get(), 0);
}

fn allocate(heap: &Heap<'_>, shadow: &mut Shadow, layout: Layout) {
    if shadow.len() == MAX_BLOCKS {
        return;
    }
    // SAFETY: the size is not zero.
    let block = unsafe { heap.alloc(layout) };
    if !block.is_null() {
        shadow.insert(block, layout);
    }
}

fn free(heap: &Heap<'_>, shadow: &mut Shadow, index: usize) {
    let block = shadow.take_at(index);
    // SAFETY: the block is live.
    unsafe { heap.dealloc(block.ptr, block.layout) };
}

fn step(input: &mut Input, world: &World, heap: &Heap<'_>, shadow: &mut Shadow) {
    match input.below(16) {
        0..4 => world.cpu.set(input.below(CPUS)),
        4 | 5 => {
            let align = 1 << input.below(11);
            let layout = Layout::from_size_align(size(input), align).expect("neither is large");
            allocate(heap, shadow, layout);
        }
        6..8 => {
            let layout = Layout::from_size_align(size(input), 8).expect("neither is large");
            for _ in 0..input.below(32) {
                allocate(heap, shadow, layout);
            }
        }
        8 | 9 if !shadow.is_empty() => free(heap, shadow, input.below(shadow.len())),
        // Neighbours, in either order.
        10 | 11 if !shadow.is_empty() => {
            let index = input.below(shadow.len());
            for _ in 0..input.below(32).min(shadow.len() - index) {
                free(heap, shadow, index);
            }
        }
        12 if !shadow.is_empty() => {
            let block = shadow.take_at(input.below(shadow.len()));
            let new_size = size(input);
            // SAFETY: the block is live, and the size neither zero nor large.
            let moved = unsafe { heap.realloc(block.ptr, block.layout, new_size) };
            if moved.is_null() {
                shadow.put_back(block, block.ptr, block.layout.size());
            } else {
                shadow.put_back(block, moved, new_size);
            }
        }
        13 => world.remaining.set([0, 1, 4, usize::MAX][input.below(4)]),
        14 => {
            world.moves.set(input.below(2) == 0);
            world.others_sleep.set(input.below(2) == 0);
        }
        15 => heap.reap(),
        _ => {}
    }
}
