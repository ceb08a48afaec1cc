//! Tests of the cost of operations, in probes: accesses to boundary tags. Unlike time, this number
//! is the same on every machine.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::boxed::Box;
use std::vec::Vec;

use super::AllocPolicy::{self, BestFit, InstantFit};
use super::{
    Arena, BoundaryTag, Error, Layout, Page, PageSupply, Result, Source, TagPool, TagSupply,
};
use crate::test_random::Random;

std::thread_local! {
    /// The number of probes of this thread.
    static PROBES: Cell<usize> = const { Cell::new(0) };
}

/// Counts a probe. `TagRef::deref` calls it.
pub(super) fn count_probe() {
    PROBES.set(PROBES.get() + 1);
}

/// Returns the number of probes that `work` takes.
fn probes(work: impl FnOnce()) -> usize {
    let before = PROBES.get();
    work();
    PROBES.get() - before
}

/// Pages of the host, which can be refused to the index.
#[derive(Default)]
struct HostPages {
    refuses: AtomicBool,
}

// SAFETY: a leaked box is valid memory without another owner.
unsafe impl PageSupply for HostPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        if self.refuses.load(SeqCst) {
            return None;
        }
        let page = Box::new(core::mem::MaybeUninit::<Page>::uninit());
        Some(NonNull::from(Box::leak(page)).cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let page = page.cast::<core::mem::MaybeUninit<Page>>();
        // SAFETY: the page is a box that `allocate_page` leaked.
        drop(unsafe { Box::from_raw(page.as_ptr()) });
    }
}

type Lock = std::sync::Mutex<()>;
type Pool = TagPool<Lock, HostPages>;
type TestArena<'a> = Arena<'static, 'a, &'a Pool, Lock>;

const QUANTUM: usize = 0x1000;

fn pool() -> Pool {
    Pool::new(Lock::default(), HostPages::default())
}

fn arena(pool: &Pool) -> TestArena<'_> {
    TestArena::create("costs", QUANTUM, None, pool).unwrap()
}

/// Returns an arena with `live` allocations of one to three quanta, and free space after them.
fn filled(pool: &Pool, live: usize) -> (TestArena<'_>, Vec<usize>) {
    let arena = arena(pool);
    arena.add_span(QUANTUM, 4 * (live + 100) * QUANTUM).unwrap();
    let sizes = (0..live).map(|number| (1 + number % 3) * QUANTUM);
    let blocks = sizes.map(|size| arena.alloc(size, InstantFit).unwrap());
    let blocks = blocks.collect();
    (arena, blocks)
}

/// Returns the probes of 2,000 pairs, each of which frees a random segment and allocates one of a
/// random size.
fn pairs(live: usize, policy: AllocPolicy) -> usize {
    let pool = pool();
    let (arena, mut blocks) = filled(&pool, live);
    let mut random = Random::new(24);
    probes(|| {
        for _ in 0..2000 {
            let block = random.below(live);
            arena.free(blocks[block]).unwrap();
            let size = (1 + random.below(3)) * QUANTUM;
            blocks[block] = arena.alloc(size, policy).unwrap();
        }
    })
}

#[test]
fn alloc_and_free_take_no_more_probes_with_more_segments() {
    for policy in [InstantFit, BestFit] {
        let few = pairs(10, policy);
        for live in [1000, 100_000] {
            let many = pairs(live, policy);
            assert!(
                many <= few * 3 / 2,
                "{policy:?}: {few} with 10, {many} with {live}"
            );
        }
    }
}

#[test]
fn best_fit_takes_at_most_twice_the_probes_of_instant_fit() {
    for live in [10, 1000, 100_000] {
        let (instant, best) = (pairs(live, InstantFit), pairs(live, BestFit));
        assert!(best <= 2 * instant, "{live}: {instant}, {best}");
    }
}

#[test]
fn no_single_operation_pays_for_a_rehash_of_the_whole_index() {
    let pool = pool();
    let arena = arena(&pool);
    arena.add_span(QUANTUM, 100_000 * QUANTUM).unwrap();
    let mut worst = (0, 0);
    for number in 0..100_000 {
        let cost = probes(|| {
            arena.alloc(QUANTUM, InstantFit).unwrap();
        });
        worst = worst.max((cost, number));
    }
    // Two buckets are split, each of which may be the fullest of the table.
    assert!(worst.0 < 150, "{worst:?}");
    let mut worst = (0, 0);
    for number in 0..100_000 {
        let cost = probes(|| arena.free((1 + number) * QUANTUM).unwrap());
        worst = worst.max((cost, number));
    }
    assert!(worst.0 < 150, "{worst:?}");
}

/// An unlimited supply of tags from the host, and of pages unless they are refused.
struct HostTags(HostPages);

// SAFETY: a leaked box is valid memory without another owner.
unsafe impl TagSupply for &HostTags {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        let tag = Box::new(core::mem::MaybeUninit::<BoundaryTag>::uninit());
        Some(NonNull::from(Box::leak(tag)).cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        let tag = tag.cast::<core::mem::MaybeUninit<BoundaryTag>>();
        // SAFETY: the tag is a box that `allocate` leaked.
        drop(unsafe { Box::from_raw(tag.as_ptr()) });
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        self.0.allocate_page()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the page came from `self.0.allocate_page`.
        unsafe { self.0.deallocate_page(page) };
    }
}

/// Returns the probes of 2,000 pairs in an arena with `live` segments of one quantum.
fn uniform_pairs(arena: &Arena<'_, '_, &HostTags, Lock>, live: usize) -> usize {
    let mut random = Random::new(25);
    probes(|| {
        for _ in 0..2000 {
            arena.free((1 + random.below(live)) * QUANTUM).unwrap();
            arena.alloc(QUANTUM, InstantFit).unwrap();
        }
    })
}

fn tagged_arena(tags: &HostTags, room: usize) -> Arena<'static, '_, &HostTags, Lock> {
    let arena = Arena::<_, Lock>::create("costs", QUANTUM, None, tags).unwrap();
    arena.add_span(QUANTUM, room * QUANTUM).unwrap();
    arena
}

fn fill(arena: &Arena<'_, '_, &HostTags, Lock>, count: usize) {
    for _ in 0..count {
        arena.alloc(QUANTUM, InstantFit).unwrap();
    }
}

#[test]
fn refused_pages_at_a_peak_do_not_slow_later_operations() {
    const PEAK: usize = 200_000;
    const LATER: usize = 100_000;
    let tags = HostTags(HostPages::default());
    let arena = tagged_arena(&tags, PEAK + 2000);
    fill(&arena, LATER);
    let usual = uniform_pairs(&arena, LATER);

    // At the peak, pages are refused for a while. Then all segments are freed, and half of that
    // number allocated again.
    fill(&arena, PEAK - LATER);
    tags.0.refuses.store(true, SeqCst);
    fill(&arena, 2000);
    tags.0.refuses.store(false, SeqCst);
    for number in 0..PEAK + 2000 {
        arena.free((1 + number) * QUANTUM).unwrap();
    }
    fill(&arena, LATER);
    let later = uniform_pairs(&arena, LATER);
    assert!(later <= usual * 3 / 2, "{usual} before, {later} after");
}

#[test]
fn a_table_that_waited_for_pages_recovers_with_equal_load() {
    const LIVE: usize = 20_000;
    let tags = HostTags(HostPages::default());
    let arena = tagged_arena(&tags, LIVE + 100);
    tags.0.refuses.store(true, SeqCst);
    fill(&arena, LIVE);
    let starved = uniform_pairs(&arena, LIVE);
    tags.0.refuses.store(false, SeqCst);
    // After some insertions the table requests a page again. Then each insertion adds two buckets.
    while uniform_pairs(&arena, LIVE) * 10 > starved {
        let pages = arena.lock().index.pages();
        uniform_pairs(&arena, LIVE);
        assert!(
            arena.lock().index.pages() > pages,
            "the table does not grow"
        );
    }
    arena.check().unwrap();
}

#[test]
fn a_supply_without_pages_gets_few_requests() {
    struct Counts(HostTags, core::sync::atomic::AtomicUsize);
    // SAFETY: the memory comes from a supply that keeps the contract.
    unsafe impl TagSupply for &Counts {
        fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
            (&self.0).allocate()
        }

        unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
            // SAFETY: the tag came from `self.0.allocate`.
            unsafe { (&self.0).deallocate(tag) };
        }

        fn allocate_page(&self) -> Option<NonNull<Page>> {
            self.1.fetch_add(1, SeqCst);
            None
        }
    }
    let tags = Counts(HostTags(HostPages::default()), Default::default());
    let arena = Arena::<_, Lock>::create("costs", 1, None, &tags).unwrap();
    arena.add_span(0, 10_000).unwrap();
    for _ in 0..10_000 {
        arena.alloc(1, InstantFit).unwrap();
    }
    let requests = tags.1.load(SeqCst);
    assert!(
        (2..=10_000 / 500).contains(&requests),
        "{requests} requests"
    );
}

#[test]
fn resizing_takes_no_more_probes_with_more_segments() {
    let cost = |live| {
        let pool = pool();
        let (arena, blocks) = filled(&pool, live);
        // The space above the last segment is free.
        let last = blocks[live - 1];
        arena.resize(last, QUANTUM).unwrap();
        probes(|| {
            for number in 0..300 {
                arena.resize(last, (1 + number % 4) * QUANTUM).unwrap();
            }
        })
    };
    let (few, many) = (cost(10), cost(100_000));
    assert!(many <= few * 3 / 2, "{few}, {many}");
}

#[test]
fn adding_a_span_takes_a_logarithm_of_probes_and_totals_none() {
    let pool = pool();
    let arena = arena(&pool);
    let mut next = 0;
    let mut add = |count: usize| {
        for _ in 0..count {
            // The spans are scattered, and do not overlap.
            let base = usize::wrapping_mul(next, 7919) % 65_536;
            arena.add_span(base * 10 * QUANTUM, 5 * QUANTUM).unwrap();
            next += 1;
        }
    };
    let few = probes(|| add(1000));
    add(29_000);
    let many = probes(|| add(1000));
    // The tree grows from below 10 levels to 15, and is not perfectly balanced.
    assert!(many <= 3 * few, "{few}, then {many}");
    let space = probes(|| {
        assert_eq!(arena.total_space(), 31_000 * 5 * QUANTUM);
        assert_eq!(arena.free_space(), arena.total_space());
        assert_eq!(arena.allocated_space() + arena.borrowed_space(), 0);
    });
    assert_eq!(space, 0);
}

/// A source that has nothing to lend.
struct Nothing;

impl Source for Nothing {
    fn import(&self, layout: Layout) -> Result<usize> {
        Err(Error::Empty {
            size: layout.size(),
        })
    }

    unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
        Err(Error::NotSupported)
    }
}

#[test]
fn instant_fit_probes_a_bounded_number_of_segments_then_imports() {
    /// A source that lends one distant span.
    struct Lender;
    impl Source for Lender {
        fn import(&self, _layout: Layout) -> Result<usize> {
            Ok(0xf000_0000)
        }

        unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
            Ok(())
        }
    }

    let cost = |source: &dyn Source, holes: usize| {
        let pool = pool();
        let arena = TestArena::create("costs", QUANTUM, Some(source), &pool).unwrap();
        for hole in 0..holes {
            // The hole is in the size class of the request, but too small.
            let base = (1 + 40 * hole) * QUANTUM;
            arena.add_span(base, 33 * QUANTUM).unwrap();
        }
        probes(|| {
            let _ = arena.alloc(35 * QUANTUM, InstantFit);
        })
    };
    let (few, many) = (cost(&Lender, 100), cost(&Lender, 10_000));
    assert!(many <= few + 50, "{few} with 100 holes, {many} with 10,000");
    // It probes all of them only before it refuses.
    assert!(cost(&Nothing, 10_000) > 10_000);
}

#[test]
fn best_fit_probes_each_segment_of_a_class_in_the_worst_case() {
    let cost = |holes: usize| {
        let pool = pool();
        let arena = arena(&pool);
        for hole in 0..holes {
            let base = (1 + 40 * hole) * QUANTUM;
            arena.add_span(base, 33 * QUANTUM).unwrap();
        }
        let large = (1 + 40 * holes) * QUANTUM;
        arena.add_span(large, 35 * QUANTUM).unwrap();
        probes(|| assert_eq!(arena.alloc(34 * QUANTUM, BestFit), Ok(large)))
    };
    let (few, many) = (cost(100), cost(1000));
    let for_each = (many - few) / 900;
    assert!((1..=6).contains(&for_each), "{few}, {many}");
}
