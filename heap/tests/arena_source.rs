//! `ArenaSource` over a real arena, whose pages come from a window of the test's memory.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::Mutex;

use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::lock::LockApi;
use heap::vmem::tags::{Page, PageSupply, TagPool};
use heap::vmem::{self, AllocPolicy, Arena, Error, Source};

const PAGE: usize = 4096;
/// What pages hold while nobody has them.
const VACANT: u8 = 0xDD;

type SpinLock = LockApi<spin::Mutex<()>>;
type Tags = &'static TagPool<SpinLock, Pages, 64>;
type Heap<'a> = TalcLock<spin::Mutex<()>, ArenaSource<'a, Tags, SpinLock>>;
type PageArena<'a> = Arena<'a, 'a, Tags, SpinLock>;

/// Pages for boundary tags, from the host's allocator.
struct Pages;

// SAFETY: each page is an allocation of its own.
unsafe impl PageSupply for Pages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: a page's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(Layout::new::<Page>()) }).map(NonNull::cast)
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: it came from above.
        unsafe { std::alloc::dealloc(page.as_ptr().cast(), Layout::new::<Page>()) }
    }
}

/// A range of pages that lends runs of them, lowest address first, a guard page after each.
struct Window {
    base: NonNull<u8>,
    pages: usize,
    state: Mutex<State>,
    /// Called while pages are taken back, as an interrupt would be.
    interrupt: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

#[derive(Default)]
struct State {
    /// For each page: lent, or a guard.
    taken: Vec<bool>,
    lent: usize,
    most_lent: usize,
    /// How many pages were ever lent.
    total: usize,
    /// More pages than this are refused.
    limit: usize,
    /// Every call from this one on is refused, counting down.
    calls_left: usize,
}

// SAFETY: the memory is reached through the lent ranges alone.
unsafe impl Sync for Window {}
// SAFETY: as above.
unsafe impl Send for Window {}

impl Window {
    fn new(pages: usize) -> Self {
        let layout = Layout::from_size_align(pages * PAGE, PAGE).unwrap();
        // SAFETY: not empty.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
        base.as_ptr().expose_provenance();
        // SAFETY: freshly allocated.
        unsafe { base.write_bytes(VACANT, pages * PAGE) };
        let state = State {
            taken: vec![false; pages],
            limit: pages,
            calls_left: usize::MAX,
            ..State::default()
        };
        Window {
            base,
            pages,
            state: Mutex::new(state),
            interrupt: Mutex::new(None),
        }
    }

    fn page(&self, address: usize) -> usize {
        (address - self.base.addr().get()) / PAGE
    }

    /// Checks that nobody wrote to the pages `from..to` while they were vacant.
    fn take(&self, state: &mut State, from: usize, to: usize) -> vmem::Result<()> {
        if state.calls_left == 0 || state.lent + (to - from) > state.limit {
            return Err(Error::Other("the window is exhausted"));
        }
        state.calls_left -= 1;
        // SAFETY: the pages lie in the window, and nobody has them.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.base.byte_add(from * PAGE).as_ptr(), (to - from) * PAGE)
        };
        assert!(
            bytes.iter().all(|&byte| byte == VACANT),
            "somebody wrote to a page that was given back"
        );
        state.lent += to - from;
        state.total += to - from;
        state.most_lent = state.most_lent.max(state.lent);
        Ok(())
    }

    fn give(&self, from: usize, to: usize) {
        if let Ok(mut interrupt) = self.interrupt.try_lock()
            && let Some(interrupt) = &mut *interrupt
        {
            interrupt();
        }
        // SAFETY: the pages lie in the window, and are not used any more.
        unsafe {
            self.base
                .byte_add(from * PAGE)
                .write_bytes(VACANT, (to - from) * PAGE)
        };
        self.state.lock().unwrap().lent -= to - from;
    }

    fn lent(&self) -> usize {
        self.state.lock().unwrap().lent * PAGE
    }

    fn total(&self) -> usize {
        self.state.lock().unwrap().total
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: allocated like that.
        unsafe {
            std::alloc::dealloc(
                self.base.as_ptr(),
                Layout::from_size_align(self.pages * PAGE, PAGE).unwrap(),
            )
        }
    }
}

impl Source for Window {
    fn import(&self, layout: vmem::Layout) -> vmem::Result<usize> {
        assert!(layout.size().is_multiple_of(PAGE) && layout.align() <= PAGE);
        let run = layout.size() / PAGE + 1;
        let mut state = self.state.lock().unwrap();
        let from = (0..=self.pages.saturating_sub(run))
            .find(|&from| {
                state.taken[from..]
                    .iter()
                    .take(run)
                    .filter(|&&taken| !taken)
                    .count()
                    == run
            })
            .ok_or(Error::Empty {
                size: layout.size(),
            })?;
        self.take(&mut state, from, from + run - 1)?;
        state.taken[from..from + run].fill(true);
        Ok(self.base.addr().get() + from * PAGE)
    }

    unsafe fn release(&self, base: usize, size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base), self.page(base + size));
        self.give(from, to);
        self.state.lock().unwrap().taken[from..=to].fill(false);
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base + size), self.page(base + new_size));
        let mut state = self.state.lock().unwrap();
        // The old guard at `from` is this range's own.
        if to >= self.pages || state.taken[from + 1..=to].contains(&true) {
            return Err(Error::Empty { size: new_size });
        }
        self.take(&mut state, from, to)?;
        state.taken[from..=to].fill(true);
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base + new_size), self.page(base + size));
        self.give(from, to);
        self.state.lock().unwrap().taken[from + 1..=to].fill(false);
        Ok(())
    }
}

fn arena(window: &Window) -> PageArena<'_> {
    let tags: Tags = Box::leak(Box::new(TagPool::new(SpinLock::new(), Pages)));
    Arena::create("pages", PAGE, Some(window), tags)
        .unwrap()
        .with_kept_spans(0)
}

fn heap<'a>(arena: &'a PageArena<'a>) -> Heap<'a> {
    // SAFETY: the window's pages are memory that only the arena's borrower uses.
    Heap::new(unsafe { ArenaSource::new(arena) })
}

/// Checks that all layers agree when nothing is on its way.
fn settled(window: &Window, arena: &PageArena<'_>, heap: &Heap<'_>) {
    heap.drain().unwrap();
    let talc = heap.lock();
    assert_eq!(talc.check(), Ok(()));
    let heaps: Vec<_> = talc.arena_heaps().collect();
    assert!(heaps.iter().all(|heap| heap.kept == heap.size), "{heaps:?}");
    let sum: usize = heaps.iter().map(|heap| heap.size).sum();
    assert_eq!(sum, talc.source.claimed());
    assert_eq!(sum, arena.allocated_space());
    assert_eq!(sum, window.lent());
    drop(talc);
    arena.check().unwrap();
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn alloc(heap: &Heap<'_>, layout: Layout) -> *mut u8 {
    // SAFETY: the tests ask for no size of zero.
    unsafe { heap.alloc(layout) }
}

fn free(heap: &Heap<'_>, block: *mut u8, layout: Layout) {
    // SAFETY: the tests free what they allocated.
    unsafe { heap.dealloc(block, layout) }
}

#[test]
fn nothing_is_claimed_before_the_first_allocation() {
    let window = Window::new(64);
    let arena = arena(&window);
    let heap = heap(&arena);
    assert_eq!((window.lent(), heap.lock().arena_heaps().count()), (0, 0));
    assert!(!alloc(&heap, layout(1)).is_null());
    assert_eq!(window.lent(), 64 << 10, "the first step");
    settled(&window, &arena, &heap);
}

#[test]
fn growth_extends_the_one_heap_in_place() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let blocks: Vec<_> = (0..1000).map(|_| alloc(&heap, layout(5000))).collect();
    assert!(blocks.iter().all(|block| !block.is_null()));
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    settled(&window, &arena, &heap);
    for block in blocks {
        free(&heap, block, layout(5000));
    }
    settled(&window, &arena, &heap);
    assert!(
        window.lent() <= 256 << 10,
        "{} bytes are still lent",
        window.lent()
    );
    heap.lock().trim();
    settled(&window, &arena, &heap);
    assert_eq!(window.lent(), PAGE, "the metadata, rounded up");
}

#[test]
fn another_heap_is_claimed_when_the_address_above_is_taken_and_goes_when_it_is_empty() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    let first = alloc(&heap, layout(100));
    let fence = arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    let second = alloc(&heap, layout(1 << 20));
    assert!(!first.is_null() && !second.is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 2);
    free(&heap, second, layout(1 << 20));
    heap.drain().unwrap();
    assert_eq!(heap.lock().arena_heaps().count(), 1);
    arena.free(fence).unwrap();
    settled(&window, &arena, &heap);
    free(&heap, first, layout(100));
    heap.lock().trim();
    settled(&window, &arena, &heap);
}

#[test]
fn a_block_at_a_boundary_maps_a_handful_of_pages_in_100_000_rounds() {
    for (held, size) in [
        (0, 4096),
        (60 << 10, 4096),
        (60 << 10, 60 << 10),
        (3 << 20, 60 << 10),
        (20 << 20, 4096),
    ] {
        let window = Window::new(8192);
        let arena = arena(&window);
        let heap = heap(&arena);
        let _held = (held > 0).then(|| alloc(&heap, layout(held)));
        let before = window.total();
        for _ in 0..100_000 {
            let block = alloc(&heap, layout(size));
            free(&heap, block, layout(size));
            heap.drain().unwrap();
        }
        let mapped = window.total() - before;
        assert!(
            mapped <= 1024,
            "{mapped} pages with {held} bytes held and {size} in turn"
        );
    }
}

#[test]
fn large_blocks_stop_bouncing_after_a_few_rounds() {
    let window = Window::new(8192);
    let arena = arena(&window);
    let heap = heap(&arena);
    let _held = alloc(&heap, layout(100));
    let round = || {
        let before = window.total();
        let block = alloc(&heap, layout(1 << 20));
        free(&heap, block, layout(1 << 20));
        heap.drain().unwrap();
        window.total() - before
    };
    let mapped: Vec<_> = (0..20).map(|_| round()).collect();
    assert!(mapped[0] > 200, "{mapped:?}");
    assert!(mapped[8..].iter().all(|&pages| pages == 0), "{mapped:?}");
    settled(&window, &arena, &heap);
}

#[test]
fn alignments_up_to_two_mebibytes_need_one_acquisition() {
    for log in 0..=21 {
        let window = Window::new(4096);
        let arena = arena(&window);
        let heap = heap(&arena);
        for size in [1, 100, 4096, 70_000] {
            let layout = Layout::from_size_align(size, 1 << log).unwrap();
            let block = alloc(&heap, layout);
            assert!(!block.is_null(), "{layout:?}");
            assert_eq!(block.addr() % layout.align(), 0);
        }
        let calls = usize::MAX - window.state.lock().unwrap().calls_left;
        assert!(
            calls <= 4,
            "{calls} calls of the source for four allocations of alignment 1 << {log}"
        );
        settled(&window, &arena, &heap);
    }
}

#[test]
fn a_step_that_cannot_be_had_falls_back_to_what_the_layout_demands() {
    let window = Window::new(4096);
    let arena = arena(&window);
    let heap = heap(&arena);
    window.state.lock().unwrap().limit = 4;
    assert!(!alloc(&heap, layout(2000)).is_null());
    assert!(window.lent() <= 4 * PAGE);
    assert!(alloc(&heap, layout(64 << 10)).is_null());
    settled(&window, &arena, &heap);
    window.state.lock().unwrap().limit = 4096;
    assert!(!alloc(&heap, layout(64 << 10)).is_null());
    settled(&window, &arena, &heap);
}

#[test]
fn a_source_that_fails_at_any_call_leaves_everything_as_it_was() {
    let mut reached = 0;
    for calls in 0.. {
        let window = Window::new(4096);
        let arena = arena(&window);
        let heap = heap(&arena);
        window.state.lock().unwrap().calls_left = calls;
        let mut blocks = Vec::new();
        let mut failed = false;
        for round in 0..40 {
            let layout = layout(10_000 * (round + 1));
            let before = (window.lent(), arena.allocated_space());
            let block = alloc(&heap, layout);
            if block.is_null() {
                failed = true;
                settled(&window, &arena, &heap);
                assert_eq!((window.lent(), arena.allocated_space()), before);
                window.state.lock().unwrap().calls_left = usize::MAX;
                let block = alloc(&heap, layout);
                assert!(!block.is_null(), "the same request succeeds later");
                blocks.push((block, layout));
            } else {
                blocks.push((block, layout));
            }
        }
        for (block, layout) in blocks {
            free(&heap, block, layout);
        }
        settled(&window, &arena, &heap);
        reached = calls;
        if !failed {
            break;
        }
    }
    assert!(reached > 5, "the sequence needs more calls than {reached}");
}

/// A small generator: the tests need no more than repeatable variety.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A size below `1 << logs`, small ones as often as large ones.
    fn size(&mut self, logs: usize) -> usize {
        let log = self.below(logs);
        1 + self.below(1 << log)
    }
}

/// Random programs with contents; `step` says after how many operations everything is checked.
fn random_program(heap: &Heap<'_>, seed: u64, operations: usize, mut check: impl FnMut(usize)) {
    let mut random = Random(seed);
    let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
    let verify = |&(block, layout, fill): &(*mut u8, Layout, u8), size: usize| {
        // SAFETY: live and written.
        let bytes = unsafe { std::slice::from_raw_parts(block, size.min(layout.size())) };
        assert!(
            bytes.iter().all(|&byte| byte == fill),
            "a block changed; seed {seed}"
        );
    };
    for operation in 0..operations {
        let shrinking = operation / 200 % 2 == 1;
        match random.below(10) {
            0..=5 if !shrinking || blocks.is_empty() => {
                let size = random.size(18);
                let layout = Layout::from_size_align(size, 1 << random.below(13)).unwrap();
                let block = alloc(heap, layout);
                if !block.is_null() {
                    let fill = operation as u8;
                    // SAFETY: just allocated.
                    unsafe { block.write_bytes(fill, size) };
                    blocks.push((block, layout, fill));
                }
            }
            6 | 7 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                let (block, layout, fill) = blocks[index];
                let size = random.size(18);
                // SAFETY: live, of this layout.
                let moved = unsafe { heap.realloc(block, layout, size) };
                if !moved.is_null() {
                    verify(&(moved, layout, fill), size);
                    // SAFETY: live.
                    unsafe { moved.write_bytes(fill, size) };
                    blocks[index] = (
                        moved,
                        Layout::from_size_align(size, layout.align()).unwrap(),
                        fill,
                    );
                }
            }
            _ if !blocks.is_empty() => {
                let block = blocks.swap_remove(random.below(blocks.len()));
                verify(&block, usize::MAX);
                free(heap, block.0, block.1);
            }
            _ => {}
        }
        check(operation);
    }
    for block in blocks {
        verify(&block, usize::MAX);
        free(heap, block.0, block.1);
    }
}

#[test]
fn random_programs_keep_contents_and_accounts() {
    for seed in 1..=20 {
        let window = Window::new(2048);
        let arena = arena(&window);
        let heap = heap(&arena);
        let mut fence = None;
        random_program(&heap, seed, 4000, |operation| {
            if operation % 97 == 0 {
                if let Some(fence) = fence.take() {
                    arena.free(fence).unwrap();
                    settled(&window, &arena, &heap);
                } else {
                    fence = arena.alloc(PAGE, AllocPolicy::InstantFit).ok();
                }
            }
            if operation % 500 == 0 {
                heap.lock().trim();
            }
        });
        if let Some(fence) = fence {
            arena.free(fence).unwrap();
        }
        heap.lock().trim();
        settled(&window, &arena, &heap);
        assert_eq!(window.lent(), PAGE, "seed {seed}");
    }
}

#[test]
fn what_interrupts_a_drain_may_allocate_free_and_drain() {
    let mut interrupts = 0;
    for seed in 1..=10 {
        let window: &'static Window = Box::leak(Box::new(Window::new(4096)));
        let arena: &'static PageArena<'static> = Box::leak(Box::new(arena(window)));
        let heap: &'static Heap<'static> = Box::leak(Box::new(heap(arena)));
        let mut random = Random(seed * 7919);
        let mut blocks: Vec<(usize, Layout)> = Vec::new();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = count.clone();
        *window.interrupt.lock().unwrap() = Some(Box::new(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            for _ in 0..6 {
                if random.below(2) == 0 || blocks.is_empty() {
                    let layout = layout(1 + random.below(200_000));
                    let block = alloc(heap, layout);
                    if !block.is_null() {
                        blocks.push((block.expose_provenance(), layout));
                    }
                } else {
                    let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
                    free(heap, std::ptr::with_exposed_provenance_mut(block), layout);
                }
            }
            if random.below(3) == 0 {
                heap.lock().trim();
            }
            heap.drain().unwrap();
            if blocks.len() > 40 {
                for (block, layout) in blocks.drain(..) {
                    free(heap, std::ptr::with_exposed_provenance_mut(block), layout);
                }
            }
        }));
        random_program(heap, seed, 6000, |operation| {
            if operation % 3 == 0 {
                heap.drain().unwrap();
            }
            if operation % 20 == 0 {
                heap.lock().trim();
            }
        });
        interrupts += count.load(std::sync::atomic::Ordering::Relaxed);
        *window.interrupt.lock().unwrap() = None;
        settled(window, arena, heap);
    }
    assert!(interrupts > 500, "only {interrupts}, with all seeds");
}

#[test]
fn a_detached_source_refuses() {
    let heap: Heap<'static> = Heap::new(ArenaSource::detached());
    assert!(alloc(&heap, layout(1)).is_null());
    assert_eq!(heap.drain(), Ok(0));
    heap.lock().trim();
    assert_eq!(heap.lock().check(), Ok(()));
}
