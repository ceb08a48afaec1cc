//! Bugs that other allocators shipped, as scenarios here. The numbers are those of `TESTING.md`, which
//! says where each was reported; 18, 20, 22, 23, 24 and 26 need a kernel and are in `tests/src`.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator, Global};
use common::memory::Memory;
use common::one_heap::{ManualTalc, OneHeap};
use common::random::Random;
use common::shadow::Shadow;
use common::sizes::SMALLEST;
use common::window::{PAGE, Window, arena, heap, settled};
use heap::Span;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD, Talc};
use heap::talc::source::{AllocatorSource, Claim, Manual, Source};
use heap::talc::{DefaultBinning, TalcCell, TalcLock, min_first_heap_size};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::lock::LockApi;
use heap::vmem::tags::{NoPages, TagPool};
use heap::vmem::{self, Arena};

const MIN: usize = min_first_heap_size::<DefaultBinning>();

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// An allocator over one range of memory, as a lock.
fn lock(memory: &Memory) -> TalcLock<spin::Mutex<()>, Claim> {
    // SAFETY: the tests keep the memory as long as the allocator.
    TalcLock::new(unsafe { Claim::new(memory.base(), memory.size()) })
}

#[test]
fn r01_gap_sizes_around_powers_of_two_are_no_tags() {
    // All that is freed is written and read when hardened.
    let largest = if cfg!(feature = "hardened") { 20 } else { 26 };
    let mut heap = OneHeap::new((1 << largest) + (1 << 16));
    for power in CHUNK_UNIT.ilog2() + 2..=largest {
        for units in [-1, 0, 1_isize] {
            let chunk = (1_usize << power).wrapping_add_signed(units * CHUNK_UNIT as isize);
            let size = chunk - CHUNK_OVERHEAD;
            let [low, middle, high] = [1, size, 1].map(|size| heap.allocate(size, 1).unwrap());
            heap.deallocate(middle, size, 1);
            heap.check();
            assert_eq!(heap.talc.gaps_in(heap.span).next().unwrap().size(), chunk);
            // Both neighbours must take the gap for one.
            heap.deallocate(high, 1, 1);
            heap.deallocate(low, 1, 1);
            heap.assert_one_gap();
        }
    }
}

/// Says yes, and grants one page less some bytes each time.
#[derive(Debug)]
struct Stingy {
    rest: Span,
    grant: usize,
    calls: usize,
}

// SAFETY: each byte is granted once.
unsafe impl Source for Stingy {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let source = &mut talc.source;
        source.calls += 1;
        if source.rest.size() >= source.grant {
            let (base, grant) = (source.rest.base(), source.grant);
            source.rest = source.rest.truncate(grant, 0);
            // SAFETY: the bytes were not granted before.
            unsafe { talc.claim(base, grant) };
        }
        Ok(())
    }
}

#[test]
fn r02_a_source_that_grants_too_little_is_asked_a_bounded_number_of_times() {
    for pages in 1..4 {
        for less in 0..=64 {
            let memory = Memory::new(MIN + 16 * pages * PAGE);
            let mut talc = Talc::<_, DefaultBinning>::new(Stingy {
                rest: Span::new(memory.base(), memory.end()),
                grant: MIN.max(pages * PAGE - less),
                calls: 0,
            });
            for wanted in [pages * PAGE - less, pages * PAGE, 2 * pages * PAGE - less] {
                let before = talc.source.calls;
                // SAFETY: the size is not zero.
                let block = unsafe { talc.allocate(layout(wanted, 1)) };
                assert!(
                    talc.source.calls - before <= 8,
                    "{wanted}: {:?}",
                    talc.source
                );
                assert!(block.is_none() || wanted <= pages * PAGE);
                talc.check().unwrap();
            }
        }
    }
}

#[test]
fn r03_many_small_blocks_at_page_alignment_fit_with_small_ones_between_them() {
    let mut heap = OneHeap::new(80 << 20);
    let pages: Vec<_> = (0..0x4000)
        .map(|_| heap.allocate(1, 4096).unwrap())
        .collect();
    heap.check();
    // The room between them is not lost.
    let between: Vec<_> = (0..0x4000)
        .map(|_| heap.allocate(3800, 1).unwrap())
        .collect();
    let last = pages.last().unwrap();
    let among = between.iter().filter(|block| *block < last).count();
    assert!(among > 0x3f00, "{among}");
    for (page, between) in pages.into_iter().zip(between) {
        heap.deallocate(page, 1, 4096);
        heap.deallocate(between, 3800, 1);
    }
    heap.assert_one_gap();
}

#[test]
fn r04_churn_of_tiny_blocks_leaves_room_for_larger_ones() {
    let mut random = Random::new(53);
    let mut heap = OneHeap::new(8 << 20);
    let mut shadow = Shadow::new();
    for round in 0..4 {
        let tiny = Layout::from_size_align(1 + round, 1).unwrap();
        for _ in 0..50_000 {
            let block = heap.allocate(tiny.size(), 1).unwrap();
            shadow.insert(block.as_ptr(), tiny);
            if random.below(3) == 0 {
                let block = shadow.take(&mut random).unwrap();
                heap.deallocate(NonNull::new(block.ptr).unwrap(), block.layout.size(), 1);
            }
        }
        heap.check();
        assert!(heap.allocate(64, 1).is_some());
    }
    shadow.assert_all_intact();
}

/// An allocator whose list heads are in the first memory, so that other heaps may be small.
fn established() -> (ManualTalc, Memory) {
    let memory = Memory::new(MIN);
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the memory lives as long as the allocator is used.
    unsafe { talc.claim(memory.base(), MIN) }.expect("the documented size suffices");
    (talc, memory)
}

#[test]
fn r05_tiny_misaligned_and_odd_ranges_are_refused_or_rounded_inward() {
    for established in [false, true] {
        for offset in 0..CHUNK_UNIT {
            for size in (0..8 * CHUNK_UNIT).chain(MIN - 4 * CHUNK_UNIT..MIN + 4) {
                let (mut talc, _first) = if established {
                    self::established()
                } else {
                    (ManualTalc::new(Manual), Memory::new(1))
                };
                let memory = Memory::new(offset + size + CHUNK_UNIT);
                let base = memory.base().wrapping_add(offset);
                // SAFETY: the range is in the memory.
                let end = unsafe { talc.claim(base, size) };
                memory.assert_untouched(memory.base(), base);
                match end {
                    None => memory.assert_untouched(base, memory.end()),
                    Some(end) => {
                        let end = end.as_ptr();
                        let limit = base.wrapping_add(size);
                        assert!(end <= limit && limit.addr() - end.addr() < CHUNK_UNIT);
                        memory.assert_untouched(end, memory.end());
                        // SAFETY: it is a heap of this allocator.
                        unsafe { talc.check_heap(Span::new(base, end)) }.unwrap();
                    }
                }
                talc.check().unwrap();
                // What lies below its first chunk, and the smallest chunk.
                let first = (offset + HEAP_OVERHEAD).next_multiple_of(CHUNK_UNIT);
                let fits = (offset + size) / CHUNK_UNIT * CHUNK_UNIT >= first + SMALLEST;
                if established {
                    assert_eq!(end.is_some(), fits, "{size} bytes");
                } else {
                    assert!(size < MIN || end.is_some(), "{size} bytes were refused");
                }
            }
        }
    }
}

#[test]
fn r06_a_remainder_too_small_for_a_list_comes_back_when_all_is_freed() {
    let mut heap = OneHeap::new(1 << 12);
    let whole = heap.talc.gaps_in(heap.span).next().unwrap().size();
    for remainder in 0..6 * CHUNK_UNIT {
        let size = whole - remainder - CHUNK_OVERHEAD;
        let block = heap.allocate(size, 1).expect("there is room");
        heap.check();
        let rest = heap.allocate(1, 1);
        heap.check();
        heap.deallocate(block, size, 1);
        heap.check();
        if let Some(rest) = rest {
            heap.deallocate(rest, 1, 1);
        }
        heap.assert_one_gap();
    }
}

#[test]
fn r07_blocks_between_holes_merge_in_every_order_of_freeing() {
    let mut heap = OneHeap::new(1 << 14);
    let mut orders = 0;
    // Heap's algorithm is not needed for so few: count in base 6 and keep the permutations.
    for number in 0..6_usize.pow(6) {
        let order: [usize; 6] = std::array::from_fn(|digit| number / 6_usize.pow(digit as u32) % 6);
        if (0..6).any(|index| !order.contains(&index)) {
            continue;
        }
        orders += 1;
        let sizes = [1, 40, 16, 333, 24, 100];
        let blocks = sizes.map(|size| heap.allocate(size, 1).unwrap());
        for index in order {
            heap.deallocate(blocks[index], sizes[index], 1);
            heap.check();
        }
        heap.assert_one_gap();
    }
    assert_eq!(orders, 720);
}

/// Every gap larger than a few units is in the last bin.
struct Tiny;

impl Binning for Tiny {
    type AvailabilityBitField = u8;
    const BIN_COUNT: u32 = 3;
    fn size_to_bin(size: usize) -> u32 {
        (size / CHUNK_UNIT).min(1 << 20) as u32
    }
}

#[test]
fn r08_gaps_of_the_top_size_class_merge_and_stay_in_it() {
    let memory = Memory::new(1 << 16);
    let mut talc = Talc::<_, Tiny>::new(Manual);
    // SAFETY: the memory lives as long as the allocator.
    let end = unsafe { talc.claim(memory.base(), memory.size()) }.unwrap();
    let mut random = Random::new(8);
    for _ in 0..200 {
        let mut blocks = Vec::new();
        for _ in 0..40 {
            let layout = layout(random.size(9), 1);
            // SAFETY: the size is not zero.
            blocks.extend(unsafe { talc.allocate(layout) }.map(|block| (block, layout)));
        }
        while !blocks.is_empty() {
            let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
            // SAFETY: the block is live.
            unsafe { talc.deallocate(block.as_ptr(), layout) };
            talc.check().unwrap();
        }
        assert_eq!(
            talc.gaps_in(Span::new(memory.base(), end.as_ptr())).count(),
            1
        );
    }
    // Sizes that no gap has are still in range.
    for size in [1 << (usize::BITS - 8), isize::MAX as usize, usize::MAX] {
        let size = size / CHUNK_UNIT * CHUNK_UNIT;
        assert!(DefaultBinning::size_to_bin(size) < DefaultBinning::BIN_COUNT);
    }
}

#[test]
fn r09_the_documented_minimum_suffices_at_every_misalignment() {
    for offset in 0..2 * CHUNK_UNIT {
        let memory = Memory::new(MIN + 2 * CHUNK_UNIT);
        let base = memory.base().wrapping_add(offset);
        let mut talc = ManualTalc::new(Manual);
        assert!(!talc.is_metadata_established());
        // SAFETY: the range is in the memory.
        let end = unsafe { talc.claim(base, MIN) }.expect("the documented size suffices");
        assert!(talc.is_metadata_established());
        assert!(
            // SAFETY: the size is not zero.
            unsafe { talc.allocate(layout(1, 1)) }.is_some(),
            "there is room for an allocation"
        );
        memory.assert_untouched(memory.base(), base);
        memory.assert_untouched(end.as_ptr(), memory.end());
        // SAFETY: it is a heap of this allocator.
        unsafe { talc.check_heap(Span::new(base, end.as_ptr())) }.unwrap();
    }
}

#[test]
fn r10_pointers_are_made_from_integers_in_one_place() {
    fn scan(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scan(&path, found);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let code = line.split("//").next().unwrap();
                let casts = ["as *mut", "as *const"]
                    .iter()
                    .any(|cast| code.contains(cast) && code.contains("addr"));
                let made = ["with_exposed_provenance", "transmute", "usize as *"]
                    .iter()
                    .any(|name| code.contains(name));
                if casts || made {
                    found.push(format!("{}: {code}", path.display()));
                }
            }
        }
    }
    let mut found = Vec::new();
    scan(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    // An arena's addresses are integers: where they become a heap, they become pointers.
    let [place] = &found[..] else {
        panic!("{found:#?}")
    };
    assert!(place.contains("source/arena/heaps.rs"), "{place}");
}

#[test]
fn r11_a_moving_realloc_copies_the_smaller_size() {
    let memory = Memory::new(1 << 20);
    let lock = lock(&memory);
    let mut shadow = Shadow::new();
    for (old, new) in [(1, 5000), (100, 101), (4096, 9000), (37, 70_000)] {
        // SAFETY: the blocks are live and the sizes not zero.
        unsafe {
            let block = lock.alloc(layout(old, 8));
            let fence = lock.alloc(layout(1, 1));
            shadow.insert(block, layout(old, 8));
            let taken = shadow.take_at(0);
            let moved = lock.realloc(block, layout(old, 8), new);
            assert!(moved != block || new <= old + CHUNK_UNIT, "{old} to {new}");
            shadow.put_back(taken, moved, new);
            let taken = shadow.take_at(0);
            let back = lock.realloc(moved, layout(new, 8), old);
            shadow.put_back(taken, back, old);
            shadow.take_at(0);
            lock.dealloc(back, layout(old, 8));
            lock.dealloc(fence, layout(1, 1));
        }
        lock.lock().check().unwrap();
    }
}

#[test]
fn r12_shrinking_while_raising_the_alignment_keeps_the_contents() {
    let memory = Memory::new(1 << 20);
    let cell = TalcCell::new({
        // SAFETY: the memory outlives the allocator.
        unsafe { Claim::new(memory.base(), memory.size()) }
    });
    for old_size in [40, 100, 1000, 5000] {
        for new_size in (1..=old_size).step_by(37) {
            for align in (0..13).map(|log2| 1 << log2) {
                let (old, new) = (layout(old_size, 1), layout(new_size, align));
                let mut shadow = Shadow::new();
                let block = cell.allocate(old).unwrap().cast::<u8>();
                shadow.insert(block.as_ptr(), old);
                let taken = shadow.take_at(0);
                // SAFETY: the block is live, and the new size not larger.
                let moved = unsafe { cell.shrink(block, old, new) }.unwrap();
                let moved = moved.cast::<u8>();
                assert!(moved.addr().get().is_multiple_of(align));
                taken.moved_to(moved.as_ptr()).assert_intact(new_size);
                // SAFETY: the block is live.
                unsafe { cell.deallocate(moved, new) };
            }
        }
    }
    cell.into_inner().check().unwrap();
}

/// The system's allocator, which remembers what it has handed out.
#[derive(Debug, Default)]
struct Remembering(RefCell<Vec<(NonNull<u8>, Layout)>>);

// SAFETY: the system allocates.
unsafe impl Allocator for &Remembering {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let block = Global.allocate(layout)?;
        self.0.borrow_mut().push((block.cast(), layout));
        Ok(block)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        let mut granted = self.0.borrow_mut();
        let index = granted.iter().position(|&grant| grant == (ptr, layout));
        granted.swap_remove(index.expect("exactly what was granted comes back"));
        // SAFETY: the caller's duty.
        unsafe { Global.deallocate(ptr, layout) };
    }
}

#[test]
fn r13_a_source_gets_back_exactly_the_spans_that_it_granted() {
    let backing = Remembering::default();
    let cell = TalcCell::new(AllocatorSource::with_block_size(&backing, 1 << 12));
    let mut random = Random::new(13);
    let mut shadow = Shadow::new();
    let mut most = 0;
    for step in 0..20_000 {
        if random.below(8) < if step / 1000 % 2 == 0 { 6 } else { 2 } {
            let layout = layout(random.size(13), 1 << random.below(8));
            // SAFETY: the size is not zero.
            shadow.insert(unsafe { cell.alloc(layout) }, layout);
        } else if let Some(block) = shadow.take(&mut random) {
            // SAFETY: the block is live.
            unsafe { cell.dealloc(block.ptr, block.layout) };
        }
        most = most.max(backing.0.borrow().len());
    }
    while let Some(block) = shadow.take(&mut random) {
        // SAFETY: the block is live.
        unsafe { cell.dealloc(block.ptr, block.layout) };
    }
    assert!(most > 10, "{most} grants");
    drop(cell);
    assert_eq!(backing.0.borrow().len(), 0);
}

#[test]
fn r14_size_and_alignment_that_overflow_fail_and_change_nothing() {
    let mut heap = OneHeap::new(1 << 16);
    let before: Vec<_> = heap.talc.gaps().collect();
    let largest = isize::MAX as usize;
    for align in [
        1,
        8,
        CHUNK_UNIT,
        4096,
        1 << (usize::BITS - 8),
        1 << (usize::BITS - 2),
    ] {
        for size in [
            largest - (align - 1),
            (largest - (align - 1)) / 2 + 1,
            1 << (usize::BITS - 8),
        ] {
            assert_eq!(heap.allocate(size.min(largest - (align - 1)), align), None);
        }
    }
    let block = heap.allocate(10, 1).unwrap();
    let layout = Layout::from_size_align(10, 1).unwrap();
    for size in [
        1 << 20,
        largest,
        largest + 1,
        usize::MAX - CHUNK_UNIT,
        usize::MAX,
    ] {
        // SAFETY: the block is live.
        assert!(!unsafe { heap.talc.try_grow_in_place(block.as_ptr(), layout, size) });
    }
    heap.deallocate(block, 10, 1);
    assert_eq!(heap.talc.gaps().collect::<Vec<_>>(), before);
    heap.assert_one_gap();
}

#[test]
fn r15_realloc_of_an_over_aligned_block_keeps_alignment_and_contents() {
    let memory = Memory::new(4 << 20);
    let lock = lock(&memory);
    for align in (5..=16).map(|log2| 1 << log2) {
        let mut shadow = Shadow::new();
        // SAFETY: the sizes are not zero, and the blocks live.
        unsafe {
            let mut block = lock.alloc(layout(10, align));
            shadow.insert(block, layout(10, align));
            let mut old = 10;
            for (round, new) in [300, 20, 70_000, 4096, 1, 9000].into_iter().enumerate() {
                // What follows cannot be grown into.
                let fence = lock.alloc(layout(1 + round, 1));
                let taken = shadow.take_at(0);
                block = lock.realloc(block, layout(old, align), new);
                // The shadow verifies the alignment and the contents.
                shadow.put_back(taken, block, new);
                lock.dealloc(fence, layout(1 + round, 1));
                old = new;
            }
            shadow.take_at(0);
            lock.dealloc(block, layout(old, align));
        }
        lock.lock().check().unwrap();
    }
}

#[test]
fn r16_a_block_is_freed_as_what_it_was_last_resized_to() {
    let memory = Memory::new(1 << 20);
    let lock = lock(&memory);
    // Around every size at which another bin or chunk begins.
    let edges = (1..=80)
        .map(|units| units * CHUNK_UNIT)
        .chain((8..17).map(|log2| 1 << log2));
    let sizes: Vec<usize> = edges
        .flat_map(|edge| {
            [-1, 0, 1].map(|by| {
                edge.saturating_sub(CHUNK_OVERHEAD)
                    .max(1)
                    .wrapping_add_signed(by)
                    .max(1)
            })
        })
        .collect();
    for (index, &from) in sizes.iter().enumerate() {
        let to = sizes[(index * 7 + 3) % sizes.len()];
        // SAFETY: the sizes are not zero, and the block is live.
        unsafe {
            let block = lock.alloc(layout(from, 8));
            let block = lock.realloc(block, layout(from, 8), to);
            let block = lock.realloc(block, layout(to, 8), from);
            lock.dealloc(block, layout(from, 8));
        }
        let talc = lock.lock();
        talc.check().unwrap();
        assert_eq!(talc.gaps().count(), 1, "{from} to {to} and back");
    }
}

#[test]
fn r17_sizes_around_the_alignment_keep_it() {
    let mut heap = OneHeap::new(1 << 20);
    for align in [256, 512, 1024, 4096, 16384] {
        for size in [1, align - 1, align, align + 1] {
            let block = heap.allocate(size, align).unwrap();
            assert!(block.addr().get().is_multiple_of(align));
            heap.check();
            heap.deallocate(block, size, align);
            heap.assert_one_gap();
        }
    }
}

#[test]
fn r18_a_large_free_returns_all_its_pages_tail_included() {
    for size in [1 << 20, (1 << 20) + 1, (3 << 20) - 4095, (2 << 20) + 4097] {
        let window = Window::new(2048);
        let arena = arena(&window);
        let heap = heap(&arena);
        // SAFETY: the sizes are not zero, and the blocks live.
        unsafe {
            let small = heap.alloc(layout(100, 8));
            let large = heap.alloc(layout(size, 8));
            assert!(window.lent() >= size);
            heap.dealloc(large, layout(size, 8));
            heap.lock().trim();
            settled(&window, &arena, &heap);
            assert!(window.lent() <= 2 * PAGE, "{} bytes stay", window.lent());
            heap.dealloc(small, layout(100, 8));
        }
    }
}

#[test]
fn r19_an_interior_address_is_no_allocation_of_an_arena() {
    let window = Window::new(64);
    let arena = arena(&window);
    let base = arena.alloc(8 * PAGE, InstantFit).unwrap();
    let before: Vec<_> = arena.segments().collect();
    for inside in [base + 1, base + PAGE, base + 8 * PAGE - 1, base + 8 * PAGE] {
        let error = vmem::Error::NoSuchAllocation { base: inside };
        assert_eq!(arena.free(inside), Err(error));
        assert_eq!(arena.resize(inside, PAGE), Err(error));
    }
    assert_eq!(arena.segments().collect::<Vec<_>>(), before);
    arena.free(base).unwrap();
}

#[test]
fn r21_a_reserve_of_tags_that_runs_out_is_an_error_that_changes_nothing() {
    type Lock = LockApi<spin::Mutex<()>>;
    const RESERVE: usize = 64;
    let tags = TagPool::<Lock, NoPages, RESERVE>::new(Lock::new(), NoPages);
    let arena = Arena::<_, Lock>::create("few tags", 1, None, &tags).unwrap();
    arena.add_span(0, 1000).unwrap();
    let mut live = Vec::new();
    let error = loop {
        match arena.alloc(1, InstantFit) {
            Ok(base) => live.push(base),
            Err(error) => break error,
        }
    };
    assert_eq!(error, vmem::Error::AllocatorError);
    let before: Vec<_> = arena.segments().collect();
    assert_eq!(arena.alloc(1, InstantFit), Err(error));
    assert_eq!(arena.add_span(5000, 10), Err(error));
    assert_eq!(arena.segments().collect::<Vec<_>>(), before);
    arena.check().unwrap();
    // Freeing takes none, so there is always a way back.
    for base in live {
        arena.free(base).unwrap();
        arena.check().unwrap();
    }
    assert_eq!(arena.allocated_space(), 0);
}

#[test]
fn r22_memory_that_runs_out_in_the_middle_of_a_growth_leaves_all_as_it_was() {
    for pages in 1..40 {
        let window = Window::new(64);
        let arena = arena(&window);
        let heap = heap(&arena);
        window.state.lock().unwrap().limit = pages;
        // SAFETY: the sizes are not zero, and the blocks live.
        unsafe {
            let small = heap.alloc(layout(100, 8));
            settled(&window, &arena, &heap);
            let before = (window.lent(), heap.lock().arena_heaps().count());
            assert!(heap.alloc(layout(40 * PAGE, 8)).is_null());
            settled(&window, &arena, &heap);
            assert_eq!((window.lent(), heap.lock().arena_heaps().count()), before);
            if !small.is_null() {
                heap.dealloc(small, layout(100, 8));
            }
        }
    }
}

#[test]
fn r24_freeing_the_last_block_after_memory_ran_out_gives_pages_back() {
    let window = Window::new(64);
    let arena = arena(&window);
    let heap = heap(&arena);
    let mut blocks = Vec::new();
    loop {
        // SAFETY: the size is not zero.
        let block = unsafe { heap.alloc(layout(1000, 8)) };
        if block.is_null() {
            break;
        }
        blocks.push(block);
    }
    let full = window.lent();
    assert!(full >= 60 * PAGE);
    while let Some(block) = blocks.pop() {
        // SAFETY: the block is live.
        unsafe { heap.dealloc(block, layout(1000, 8)) };
    }
    heap.lock().trim();
    settled(&window, &arena, &heap);
    assert_eq!(window.lent(), PAGE, "the list heads");
}

#[test]
fn r24_the_last_block_can_be_freed_when_memory_has_run_out() {
    let mut heap = OneHeap::new(1 << 16);
    let mut blocks = Vec::new();
    while let Some(block) = heap.allocate(100, 8) {
        blocks.push(block);
    }
    assert_eq!(heap.allocate(100, 8), None);
    let last = blocks.pop().unwrap();
    heap.deallocate(last, 100, 8);
    assert_eq!(heap.allocate(100, 8), Some(last));
    heap.deallocate(last, 100, 8);
    for block in blocks {
        heap.deallocate(block, 100, 8);
    }
    heap.assert_one_gap();
}

#[test]
fn r25_an_allocator_without_memory_can_be_looked_at() {
    let mut talc = ManualTalc::new(Manual);
    talc.check().unwrap();
    assert_eq!(talc.gaps().count(), 0);
    assert!(format!("{talc:?}").contains("gaps: 0"));
    // SAFETY: the size is not zero.
    assert_eq!(unsafe { talc.try_allocate(Layout::new::<u8>()) }, None);
    #[cfg(feature = "counters")]
    assert_eq!(talc.counters().overhead_bytes(), 0);
}
