//! The tag pool: its reserve, its pages, and arenas whose own pages contain their tags.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::support::{Choices, Random, SLOTS_IN_PAGE, TAGS_IN_PAGE, Tags, TestLock};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Arena, Error, NoPages, Page, PageSupply, TagCounts, TagPool, TagSupply};

type HostPool = TagPool<TestLock, &'static Tags>;

fn host_pool(pages: usize) -> (&'static HostPool, &'static Tags) {
    let pages: &'static Tags = Box::leak(Box::new(Tags::limited(pages)));
    let pool = Box::leak(Box::new(HostPool::new(TestLock::new(), pages)));
    (pool, pages)
}

#[test]
fn a_pool_can_be_a_static_and_serve_arenas_from_its_reserve() {
    static POOL: TagPool<TestLock, NoPages> = TagPool::new(TestLock::new(), NoPages);
    let first = Arena::<_, TestLock>::create("first", 1, None, &POOL).unwrap();
    let second = Arena::<_, TestLock>::create("second", 1, None, &POOL).unwrap();
    for arena in [&first, &second] {
        arena.add_span(1000, 1000).unwrap();
        arena.alloc(10, InstantFit).unwrap();
    }
    let counts = POOL.counts();
    assert_eq!(counts.in_use + counts.free, 64);
    drop((first, second));
    assert_eq!(
        POOL.counts(),
        TagCounts {
            in_use: 0,
            free: 64,
            tag_pages: 0,
            index_pages: 0
        }
    );
}

#[test]
fn without_pages_the_reserve_runs_out_cleanly() {
    static POOL: TagPool<TestLock, NoPages, 40> = TagPool::new(TestLock::new(), NoPages);
    let arena = Arena::<_, TestLock>::create("poor", 1, None, &POOL).unwrap();
    arena.add_span(0, 1000).unwrap();
    let mut live = Vec::new();
    let error = loop {
        match arena.alloc(1, InstantFit) {
            Ok(base) => live.push(base),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::AllocatorError);
    assert!(live.len() >= 10, "{}", live.len());
    arena.check().unwrap();
    for base in live {
        arena.free(base).unwrap();
    }
    arena.alloc(1, InstantFit).unwrap();
    arena.check().unwrap();
}

#[test]
fn tags_do_not_overlap_and_hold_what_is_written() {
    let (pool, pages) = host_pool(100);
    let mut random = Random::new(7);
    let mut live: Vec<(NonNull<heap::vmem::BoundaryTag>, u8)> = Vec::new();
    let size = size_of::<heap::vmem::BoundaryTag>();
    for step in 0..20_000usize {
        if random.below(1000) < 550 - step / 40 {
            if let Some(tag) = TagSupply::allocate(&pool) {
                assert_eq!(tag.addr().get() % align_of::<heap::vmem::BoundaryTag>(), 0);
                // SAFETY: the pool has handed out the tag, and only this test uses it.
                unsafe { tag.cast::<u8>().write_bytes(step as u8, size) };
                live.push((tag, step as u8));
            }
        } else if !live.is_empty() {
            let (tag, pattern) = live.swap_remove(random.below(live.len()));
            for offset in 0..size {
                // SAFETY: only this test uses the tag, and it has written all its bytes.
                assert_eq!(unsafe { tag.cast::<u8>().add(offset).read() }, pattern);
            }
            // SAFETY: the tag came from this pool, and is no longer in use.
            unsafe { pool_deallocate(pool, tag) };
        }
        if random.chance(5) {
            pool.done_for_test();
        }
        let counts = pool.counts();
        assert_eq!(counts.in_use, live.len());
        assert_eq!(counts.tag_pages, pages.pages_out.load(SeqCst));
        assert!(counts.free <= 500, "too many free tags: {counts:?}");
    }
    assert!(pages.calls.load(SeqCst) == 0);
    for (tag, _) in live {
        // SAFETY: the tag came from this pool, and is no longer in use.
        unsafe { pool_deallocate(pool, tag) };
    }
    pool.done_for_test();
    let counts = pool.counts();
    assert_eq!(counts.in_use, 0);
    assert!(counts.free <= 48 + 2 * TAGS_IN_PAGE, "{counts:?}");
}

trait Done {
    fn done_for_test(&self);
}

impl Done for HostPool {
    fn done_for_test(&self) {
        TagSupply::done(&self);
    }
}

/// # Safety
/// The duties of [`TagSupply::deallocate`].
unsafe fn pool_deallocate(pool: &HostPool, tag: NonNull<heap::vmem::BoundaryTag>) {
    // SAFETY: the caller's contract is that of `TagSupply::deallocate`.
    unsafe { TagSupply::deallocate(&pool, tag) };
}

#[test]
fn a_pool_gets_pages_when_needed_and_releases_them() {
    let (pool, pages) = host_pool(1000);
    let arena = Arena::<_, TestLock>::create("many", 1, None, pool).unwrap();
    arena.add_span(0, 20_000).unwrap();
    let live: Vec<_> = (0..20_000)
        .map(|_| arena.alloc(1, InstantFit).unwrap())
        .collect();
    let full = pool.counts();
    assert!(
        full.in_use > 20_000 && full.tag_pages > 20_000 / (TAGS_IN_PAGE + 1),
        "{full:?}"
    );
    assert!(full.index_pages > 20_000 / SLOTS_IN_PAGE, "{full:?}");
    assert_eq!(
        full.tag_pages + full.index_pages,
        pages.pages_out.load(SeqCst)
    );
    for base in live {
        arena.free(base).unwrap();
    }
    let empty = pool.counts();
    assert!(
        empty.in_use <= 40 && empty.tag_pages <= 3 && empty.index_pages <= 1,
        "{empty:?}"
    );
    arena.check().unwrap();
}

#[test]
fn a_pool_without_pages_for_a_while_recovers() {
    let (pool, pages) = host_pool(0);
    let arena = Arena::<_, TestLock>::create("recovering", 1, None, pool).unwrap();
    arena.add_span(0, 20_000).unwrap();
    let got = (0..20_000)
        .take_while(|_| arena.alloc(1, InstantFit).is_ok())
        .count();
    assert!(got < 64);
    let before: Vec<_> = arena.segments().collect();
    assert_eq!(arena.alloc(1, InstantFit), Err(Error::AllocatorError));
    assert_eq!(arena.segments().collect::<Vec<_>>(), before);
    pages.budget.store(100, SeqCst);
    for _ in 0..1000 {
        arena.alloc(1, InstantFit).unwrap();
    }
    arena.check().unwrap();
}

#[test]
fn a_dropped_pool_releases_all_its_pages() {
    let pages: &'static Tags = Box::leak(Box::new(Tags::limited(100)));
    let pool = HostPool::new(TestLock::new(), pages);
    {
        let arena = Arena::<_, TestLock>::create("short", 1, None, &pool).unwrap();
        arena.add_span(0, 1000).unwrap();
        for _ in 0..500 {
            arena.alloc(1, InstantFit).unwrap();
        }
        assert!(pages.pages_out.load(SeqCst) >= 500 / (TAGS_IN_PAGE + 1));
    }
    drop(pool);
    pages.assert_all_back();
}

/// A page supply that allocates from an arena, which uses the pool with this page supply.
struct OwnPages {
    arena: OnceLock<&'static OwnArena>,
    /// The first address of the arena's span, and the memory behind it.
    memory: OnceLock<(usize, NonNull<Page>)>,
    allocations: AtomicUsize,
    fails: AtomicBool,
}

// SAFETY: the pointer leads to leaked memory, of which threads use only pages that the arena has
// allocated to them.
unsafe impl Sync for OwnPages {}
// SAFETY: the leaked memory is not bound to a thread.
unsafe impl Send for OwnPages {}

type OwnPool = TagPool<TestLock, &'static OwnPages>;
type OwnArena = Arena<'static, 'static, &'static OwnPool, TestLock>;

// SAFETY: each page is an allocation of the arena, so it is exclusive, and lies in leaked memory.
unsafe impl PageSupply for &'static OwnPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        if self.fails.load(SeqCst) {
            return None;
        }
        let base = self.arena.get()?.alloc(4096, InstantFit).ok()?;
        self.allocations.fetch_add(1, SeqCst);
        let (start, memory) = self.memory.get()?;
        // SAFETY: the arena's only span is this memory, so the offset lies inside it.
        Some(unsafe { memory.byte_add(base - start) })
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        self.arena
            .get()
            .unwrap()
            .free_sized(page.addr().get(), 4096)
            .unwrap();
        self.allocations.fetch_sub(1, SeqCst);
    }
}

/// Returns an arena of `pages` pages whose tags lie in these pages.
fn self_backed(pages: usize) -> (&'static OwnPages, &'static OwnPool, &'static OwnArena) {
    let supply: &'static OwnPages = Box::leak(Box::new(OwnPages {
        arena: OnceLock::new(),
        memory: OnceLock::new(),
        allocations: AtomicUsize::new(0),
        fails: AtomicBool::new(false),
    }));
    let pool: &'static OwnPool = Box::leak(Box::new(OwnPool::new(TestLock::new(), supply)));
    let arena: &'static OwnArena =
        Box::leak(Box::new(OwnArena::create("own", 4096, None, pool).unwrap()));
    let layout = std::alloc::Layout::from_size_align(pages * 4096, 4096).unwrap();
    // SAFETY: the size is not zero.
    let memory = NonNull::new(unsafe { std::alloc::alloc(layout) })
        .unwrap()
        .cast::<Page>();
    assert!(supply.memory.set((memory.addr().get(), memory)).is_ok());
    assert!(supply.arena.set(arena).is_ok());
    arena.add_span(memory.addr().get(), pages * 4096).unwrap();
    (supply, pool, arena)
}

#[test]
fn an_arena_with_its_tags_in_its_own_pages_can_be_exhausted() {
    let (supply, pool, arena) = self_backed(2000);
    let mut random = Random::new(3);
    for round in 0..20 {
        let mut live = Vec::new();
        while let Ok(base) = arena.alloc(4096, InstantFit) {
            live.push(base);
        }
        arena.check().unwrap();
        assert!(live.len() > 1900, "round {round}: {} pages", live.len());
        assert_eq!(
            live.len() + supply.allocations.load(SeqCst),
            2000 - arena.free_space() / 4096
        );
        // Free in an order that coalesces late, so that the tags are returned late, too.
        for base in live.iter().copied().filter(|base| base / 4096 % 2 == 0) {
            arena.free(base).unwrap();
        }
        live.retain(|base| base / 4096 % 2 != 0);
        let again = arena.alloc(4096, InstantFit);
        live.extend(again);
        assert!(
            again.is_ok(),
            "round {round}: {again:?} {:?}",
            pool.counts()
        );
        while !live.is_empty() {
            arena
                .free(live.swap_remove(random.below(live.len())))
                .unwrap();
        }
        arena.check().unwrap();
        let counts = pool.counts();
        // Each page that a tag in use pins is an allocated segment, which needs a tag itself.
        assert!(counts.tag_pages <= 64, "round {round}: {counts:?}");
    }
}

#[test]
fn an_arena_with_its_tags_in_its_own_pages_serves_threads() {
    let (_, pool, arena) = self_backed(1000);
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut live = Vec::new();
                for _ in 0..5_000 {
                    if random.below(5) < 3 {
                        live.extend(arena.alloc(4096, InstantFit));
                    } else if !live.is_empty() {
                        arena
                            .free(live.swap_remove(random.below(live.len())))
                            .unwrap();
                    }
                }
                for base in live {
                    arena.free(base).unwrap();
                }
            });
        }
    });
    arena.check().unwrap();
    let counts = pool.counts();
    assert_eq!(
        arena.allocated_space(),
        4096 * (counts.tag_pages + counts.index_pages)
    );
}

#[test]
fn a_moved_pool_hands_out_tags_at_its_new_address() {
    type Small = TagPool<TestLock, NoPages, 64>;
    let mut pools = [Some(Small::new(TestLock::new(), NoPages)), None];
    {
        let arena = Arena::<_, TestLock>::create("one", 1, None, pools[0].as_ref().unwrap());
        arena.unwrap().add_span(0, 100).unwrap();
    }
    pools[1] = pools[0].take();
    let pool = pools[1].as_ref().unwrap();
    let start = std::ptr::from_ref(pool).addr();
    let within = start..start + size_of::<Small>();
    let tags: Vec<_> = std::iter::from_fn(|| TagSupply::allocate(&pool)).collect();
    assert_eq!(tags.len(), 48);
    for tag in tags {
        assert!(
            within.contains(&tag.addr().get()),
            "a tag at the old address of the pool"
        );
        // SAFETY: the tag came from this pool.
        unsafe { TagSupply::deallocate(&pool, tag) };
    }
}
