//! `alloc_zeroed` returns zeroed memory, and does not clear memory that a source has granted as
//! zero.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use common::sizes::FIRST;
use common::window::{self, Window};
use heap::source::ArenaSource;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Talc};
use heap::talc::source::Source;
use heap::talc::{DefaultBinning, TalcLock, min_first_heap_size};

const PAGE: usize = 4096;

/// With `hardened`, free memory is poisoned, and no memory is known to be zero.
const HARDENED: bool = cfg!(feature = "hardened");

/// A source with two regions of zeros, each with a heap at its bottom that grows and shrinks by
/// pages. Pages that return are cleared, or not, and later granted as what they are.
#[derive(Debug)]
struct Pages {
    regions: Vec<Region>,
    /// Whether pages are cleared when they return.
    clears: bool,
    /// The smallest number of bytes that is taken back.
    slack: usize,
}

struct Region {
    memory: Memory,
    heap_end: Option<NonNull<u8>>,
    /// Memory below this may be dirty.
    dirty_end: *mut u8,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", self.memory.base(), self.heap_end)
    }
}

impl Pages {
    fn new(clears: bool, slack: usize) -> Self {
        let region = || {
            let memory = Memory::new(1 << 20);
            // SAFETY: only this source uses the memory.
            unsafe { memory.base().write_bytes(0, memory.size()) };
            Region {
                heap_end: None,
                dirty_end: memory.base(),
                memory,
            }
        };
        Self {
            regions: vec![region(), region()],
            clears,
            slack,
        }
    }
}

// SAFETY: each region belongs to the heap in it, up to the heap's end. Memory that was never
// granted, or was cleared, is zero.
unsafe impl Source for Pages {
    const TRACK_HEAP_END: bool = true;
    const GRANTS_ZEROED: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let first = if talc.is_metadata_established() {
            FIRST
        } else {
            min_first_heap_size::<B>()
        };
        let overhead = CHUNK_OVERHEAD + 2 * CHUNK_UNIT + first;
        let wanted = (layout.size() + layout.align() + overhead).next_multiple_of(PAGE);
        for index in 0..talc.source.regions.len() {
            let region = &talc.source.regions[index];
            let (base, limit) = (region.memory.base(), region.memory.end());
            let dirty_end = region.dirty_end;
            let old_end = region.heap_end.map_or(base, NonNull::as_ptr);
            let new_end = old_end.wrapping_add(wanted);
            if new_end > limit {
                continue;
            }
            // SAFETY: the region is the source's, contains at most this heap, and is zero from
            // `zero_from` up.
            let heap_end = unsafe {
                match region.heap_end {
                    Some(end) if dirty_end >= new_end => talc.extend(end, new_end),
                    Some(end) => talc.extend_zeroed(end, new_end, dirty_end.max(end.as_ptr())),
                    None if dirty_end > base => talc.claim(base, wanted).ok_or(())?,
                    None => talc.claim_zeroed(base, wanted).ok_or(())?,
                }
            };
            talc.source.regions[index].heap_end = Some(heap_end);
            return Ok(());
        }
        Err(())
    }

    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let region = self
            .regions
            .iter_mut()
            .find(|region| region.heap_end == NonNull::new(heap_end))
            .expect("the end is one that was granted or returned");
        let lowest = if is_heap_base {
            region.memory.base()
        } else {
            let kept = chunk_base.addr().saturating_add(self.slack);
            let kept = kept.min(heap_end.addr()).next_multiple_of(PAGE);
            heap_end.with_addr(kept).min(heap_end)
        };
        if self.clears {
            // SAFETY: the memory above the end belongs to the source again.
            unsafe { lowest.write_bytes(0, heap_end.addr() - lowest.addr()) };
        } else if lowest < heap_end {
            region.dirty_end = region.dirty_end.max(heap_end);
        }
        if is_heap_base {
            region.heap_end = None;
            return chunk_base;
        }
        region.heap_end = NonNull::new(lowest);
        lowest
    }
}

fn is_zero(block: *const u8, size: usize) -> bool {
    // SAFETY: the tests pass live blocks.
    let bytes = unsafe { std::slice::from_raw_parts(block, size) };
    bytes.iter().all(|&byte| byte == 0)
}

/// Runs a random program that checks and then fills every zeroed block.
fn run(allocator: &impl GlobalAlloc, random: &mut Random, max_log2: u32) {
    let mut shadow = Shadow::new();
    for step in 0..4_000 {
        let growing = step / 500 % 2 == 0;
        // SAFETY: sizes are not zero, and blocks are live.
        unsafe {
            if random.below(8) < if growing { 5 } else { 2 } {
                let align = if random.below(8) == 0 {
                    1 << random.below(13)
                } else {
                    8
                };
                let layout = Layout::from_size_align(random.size(max_log2), align).unwrap();
                let zeroed = random.below(3) > 0;
                let block = if zeroed {
                    allocator.alloc_zeroed(layout)
                } else {
                    allocator.alloc(layout)
                };
                if !block.is_null() {
                    assert!(!zeroed || is_zero(block, layout.size()), "step {step}");
                    shadow.insert(block, layout);
                }
            } else if let Some(block) = shadow.take(random) {
                if random.below(3) == 0 {
                    let new_size = random.size(max_log2);
                    let moved = allocator.realloc(block.ptr, block.layout, new_size);
                    if moved.is_null() {
                        shadow.put_back(block, block.ptr, block.layout.size());
                    } else {
                        shadow.put_back(block, moved, new_size);
                    }
                } else {
                    allocator.dealloc(block.ptr, block.layout);
                }
            }
        }
    }
    while let Some(block) = shadow.take(random) {
        // SAFETY: the block is live.
        unsafe { allocator.dealloc(block.ptr, block.layout) };
    }
}

#[test]
fn zeroed_blocks_are_zero_after_heaps_shrink_and_grow() {
    for seed in 0..24 {
        let clears = seed % 2 == 0;
        let slack = [0, 3 * PAGE, usize::MAX >> 1][seed as usize % 3];
        let lock = TalcLock::<spin::Mutex<()>, _>::new(Pages::new(clears, slack));
        println!("seed {seed}");
        run(&lock, &mut Random::new(seed), 16);
        lock.lock().check().unwrap();
    }
}

#[test]
fn zeroed_blocks_of_an_arena_are_zero() {
    for seed in 0..8 {
        let window = Window::filled_with(1024, 0);
        let arena = window::arena(&window);
        // SAFETY: only the arena's borrower uses the window's pages, which are zero when they are
        // lent.
        let source = unsafe { ArenaSource::new(&arena).of_zeroed_memory() };
        let heap = window::Heap::new(source);
        println!("seed {seed}");
        let mut random = Random::new(seed);
        for _ in 0..4 {
            run(&heap, &mut random, 17);
            if random.below(2) == 0 {
                heap.lock().trim();
            }
            if random.below(2) == 0 {
                heap.drain().unwrap();
            }
        }
        heap.lock().check().unwrap();
    }
}

/// Allocates a zeroed block. Returns it, and the number of bytes that had to be cleared.
fn cleared<S: Source>(talc: &mut Talc<S, DefaultBinning>, size: usize) -> (NonNull<u8>, usize) {
    let layout = Layout::from_size_align(size, 8).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { talc.allocate_uncleared(layout) }.unwrap();
    let bytes = block.bytes();
    // SAFETY: the block has just been allocated.
    let block = unsafe { block.clear() };
    assert!(is_zero(block.as_ptr(), size));
    (block, bytes)
}

#[test]
fn only_memory_that_was_in_use_is_cleared() {
    const SIZE: usize = 1 << 16;
    // The header and the last word of the gap.
    const METADATA: usize = 4 * size_of::<usize>();
    let mut talc = Talc::new(Pages::new(false, usize::MAX >> 1));
    let bound = if HARDENED { SIZE } else { METADATA };
    let mut blocks = Vec::new();
    for _ in 0..6 {
        // Each block needs more pages, by which the heap is extended.
        let (block, bytes) = cleared(&mut talc, SIZE);
        assert!(bytes <= bound, "{bytes} bytes were cleared");
        blocks.push(block);
    }
    let layout = Layout::from_size_align(SIZE, 8).unwrap();
    // The top block is allocated again, from memory that was in use.
    let last = blocks.pop().unwrap();
    // SAFETY: the block is live.
    unsafe {
        last.write_bytes(1, SIZE);
        talc.deallocate(last.as_ptr(), layout);
    }
    let (again, bytes) = cleared(&mut talc, 2 * SIZE);
    assert_eq!(again, last);
    let bound = if HARDENED {
        2 * SIZE
    } else {
        SIZE + 2 * METADATA + CHUNK_UNIT
    };
    assert!(
        (SIZE..=bound).contains(&bytes),
        "{bytes} bytes were cleared"
    );
    // A block below the top is cleared completely.
    // SAFETY: the block is live.
    unsafe { talc.deallocate(blocks[2].as_ptr(), layout) };
    assert_eq!(cleared(&mut talc, SIZE), (blocks[2], SIZE));
    talc.check().unwrap();
}

#[test]
fn pages_that_return_dirty_are_cleared() {
    let mut talc = Talc::new(Pages::new(false, 0));
    let layout = Layout::from_size_align(100_000, 8).unwrap();
    // SAFETY: sizes are not zero, and the block is live.
    unsafe {
        talc.allocate(Layout::new::<u8>()).unwrap();
        let block = talc.allocate(layout).unwrap();
        block.write_bytes(1, layout.size());
        talc.deallocate(block.as_ptr(), layout);
        // The pages of the block are taken back, and granted again as they are.
        assert_eq!(cleared(&mut talc, layout.size()), (block, layout.size()));
    }
}

#[test]
fn allocate_zeroed_skips_clearing_known_zeros() {
    let lock = TalcLock::<spin::Mutex<()>, _>::new(Pages::new(true, 0));
    for size in [0, 1, 1000, 100_000] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let block = lock.allocate_zeroed(layout).unwrap();
        assert_eq!(block.len(), size);
        assert!(is_zero(block.cast().as_ptr(), size));
        // SAFETY: the block is live.
        unsafe {
            block.cast::<u8>().write_bytes(1, size);
            lock.deallocate(block.cast(), layout);
        }
    }
}

/// Returns an allocator with a heap of `size` zeroed bytes, truncated to a quarter of them; the end
/// of the heap, and its former end.
fn cut_down(size: usize) -> (Talc<Pages, DefaultBinning>, NonNull<u8>, NonNull<u8>) {
    let source = Pages::new(true, 0);
    let base = source.regions[0].memory.base();
    let mut talc = Talc::new(source);
    // SAFETY: only this test uses the memory, which is zero at first, and each end is current.
    unsafe {
        let end = talc.claim_zeroed(base, size).unwrap();
        let low = talc.truncate(end, base.add(size / 4)).unwrap();
        (talc, low, end)
    }
}

#[test]
fn dirty_memory_of_an_extension_is_cleared() {
    let size = 1 << 18;
    let (mut talc, low, end) = cut_down(size);
    // SAFETY: the memory is ours, and each end is passed on.
    unsafe {
        low.write_bytes(1, size / 4);
        let middle = talc.extend(low, low.add(size / 4).as_ptr());
        talc.extend_zeroed(middle, end.as_ptr(), middle.as_ptr());
    }
    let (_, bytes) = cleared(&mut talc, size * 7 / 8);
    assert!(bytes >= size / 4, "{bytes} bytes were cleared");
}

#[test]
fn memory_of_a_truncated_and_extended_heap_is_cleared() {
    let size = 1 << 18;
    let (mut talc, low, end) = cut_down(size);
    // SAFETY: the memory is ours, and each end is passed on.
    unsafe {
        low.write_bytes(1, size - size / 4);
        assert_eq!(talc.extend(low, end.as_ptr()), end);
    }
    let (_, bytes) = cleared(&mut talc, size * 7 / 8);
    assert!(bytes >= size / 2, "{bytes} bytes were cleared");
}

#[test]
fn memory_of_a_deleted_and_claimed_heap_is_cleared() {
    for is_freed in [false, true] {
        let source = Pages::new(true, 0);
        let [first, other] = [0, 1].map(|index: usize| source.regions[index].memory.base());
        let size = 1 << 18;
        let mut talc = Talc::new(source);
        // SAFETY: only this test uses the memory, which is zero at first. Each end is current, and
        // the block is freed once.
        unsafe {
            talc.claim(first, min_first_heap_size::<DefaultBinning>())
                .unwrap();
            let end = talc.claim_zeroed(other, size).unwrap();
            if is_freed {
                talc.source.regions[1].heap_end = Some(end);
                let layout = Layout::new::<[u64; 100]>();
                let block = talc.allocate(layout).unwrap();
                talc.deallocate(block.as_ptr(), layout);
                assert_eq!(talc.source.regions[1].heap_end, None);
            } else {
                assert_eq!(talc.truncate(end, std::ptr::null_mut()), None);
            }
            other.write_bytes(1, size);
            assert_eq!(talc.claim(other, size), Some(end));
        }
        let wanted = size * 7 / 8;
        assert_eq!(cleared(&mut talc, wanted).1, wanted);
    }
}
