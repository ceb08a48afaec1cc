//! Regressions in sources and arenas: the providers of heaps.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator, Global};
use heap::Span;
use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::source::{AllocatorSource, Source};
use heap::talc::{DefaultBinning, TalcCell};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{self, Arena, LockApi, NoPages, TagPool};

use super::{MIN, layout};
use crate::common::memory::Memory;
use crate::common::random::Random;
use crate::common::shadow::Shadow;
use crate::common::window::{PAGE, Window, arena, heap, settled};

/// A source that claims success, and grants one page less some bytes each time.
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
                let before = (talc.source.calls, talc.source.rest.size());
                // SAFETY: the size is not zero.
                let block = unsafe { talc.allocate(layout(wanted, 1)) };
                let grants = (before.1 - talc.source.rest.size()) / talc.source.grant;
                assert!(
                    talc.source.calls - before.0 <= grants + 8,
                    "{wanted}: {:?}",
                    talc.source
                );
                assert!(block.is_none() || wanted <= pages * PAGE);
                talc.check().unwrap();
            }
        }
    }
}

/// The system's allocator, with a list of the blocks that it has granted.
#[derive(Debug, Default)]
struct Remembering(RefCell<Vec<(NonNull<u8>, Layout)>>);

// SAFETY: the system's allocator provides the blocks.
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
        // SAFETY: the block was granted by the system with this layout.
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
    // Freeing takes no tag, so freeing is always possible.
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
