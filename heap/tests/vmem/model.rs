//! Random programs on arenas and on a shadow that knows what must be where.

use std::sync::atomic::Ordering::SeqCst;

use super::program::run;
use super::support::{Books, Choices, Random, SLOTS_IN_PAGE, Tags, TestArena};
use crate::common::programs::for_programs;
use heap::vmem::AllocPolicy::{BestFit, InstantFit};
use heap::vmem::{Error, Layout, SegmentKind, Source};

/// Runs `test` with a supply, and verifies that everything comes back to it.
fn with_tags(tags: Tags, test: impl FnOnce(&'static Tags)) {
    let tags = Box::leak(Box::new(tags));
    test(tags);
    tags.assert_all_back();
}

#[test]
fn random_programs_on_spans_of_its_own() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(13);
            let arena = TestArena::create("model", quantum, None, tags).unwrap();
            // At the lowest addresses, somewhere, across the middle, and up to the last address.
            let space = 256 * quantum;
            let middle = 1 << (usize::BITS - 1);
            let top = (usize::MAX - space).wrapping_add(1);
            let low = random.pick(&[0, 1 << 20, middle - space / 2, top]);
            let mut spans = 0;
            for part in 0..4 {
                let len = (1 + random.below(64)) * quantum;
                let base = low + part * 64 * quantum + (64 * quantum - len);
                arena.add_span(base, len).unwrap();
                spans += 1;
            }
            run(&arena, program.steps(), low, space);
            assert_eq!(arena.segments().count(), spans, "all merged");
        });
    });
}

#[test]
fn random_programs_on_borrowed_spans() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(13);
            let low = (1 + random.below(8)) * 256 * quantum;
            let mut books = Books::new(low, low + 512 * quantum - 1);
            books.resizable = random.chance(2);
            {
                let arena = TestArena::create("model", quantum, Some(&books), tags)
                    .unwrap()
                    .with_retained_spans(random.below(3))
                    .with_min_import(random.below(40) * quantum);
                if random.chance(2) {
                    arena.add_span(0, 64 * quantum).unwrap();
                }
                run(&arena, program.steps(), 0, low + 512 * quantum);
                assert_eq!(books.lent_space(), arena.borrowed_space());
                arena.trim();
                assert_eq!(books.lent(), []);
                arena.check().unwrap();
            }
            assert_eq!(books.lent(), []);
        });
    });
}

#[test]
fn random_programs_with_a_source_and_a_supply_that_fail_now_and_then() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(5);
            let books = Books::new(0, 512 * quantum - 1);
            let kept = random.below(2);
            let arena = TestArena::create("model", quantum, Some(&books), tags)
                .unwrap()
                .with_retained_spans(kept);
            let mut steps = program.steps();
            while steps.len() > 0 {
                tags.budget.store(random.below(60), SeqCst);
                books.budget.store(random.below(60), SeqCst);
                run(&arena, steps.by_ref().take(50), 0, 512 * quantum);
                assert_eq!(books.lent_space(), arena.borrowed_space());
            }
            books.budget.store(usize::MAX, SeqCst);
            arena.trim();
            assert_eq!(books.lent(), []);
            tags.budget.store(usize::MAX, SeqCst);
        });
    });
}

#[test]
fn random_programs_on_a_chain_of_arenas() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(5);
            let space = 2048 * quantum;
            let top = TestArena::create("top", quantum * 4, None, tags).unwrap();
            top.add_span(space, space).unwrap();
            {
                let middle = TestArena::create("middle", quantum * 2, Some(&top), tags)
                    .unwrap()
                    .with_retained_spans(random.below(2))
                    .with_min_import(random.below(3) * 16 * quantum);
                let bottom = TestArena::create("bottom", quantum, Some(&middle), tags)
                    .unwrap()
                    .with_retained_spans(random.below(2));
                run(&bottom, program.steps(), space, space);
                middle.check().unwrap();
                top.check().unwrap();
                bottom.trim();
                assert_eq!(middle.allocated_space(), 0);
                middle.trim();
                assert_eq!(top.allocated_space(), 0);
            }
            assert_eq!(top.largest_free(), space);
        });
    });
}

#[test]
fn the_index_finds_everything_with_and_without_pages() {
    for with_pages in [true, false] {
        let mut tags = Tags::new();
        tags.with_pages = with_pages;
        with_tags(tags, |tags| {
            let arena = TestArena::create("index", 0x1000, None, tags).unwrap();
            arena.add_span(0x1000, 0x1000 * 40_000).unwrap();
            let mut random = Random::new(1);
            let count = if with_pages { 40_000 } else { 4_000 };
            let mut live: Vec<_> = (0..count)
                .map(|_| arena.alloc(1, InstantFit).unwrap())
                .collect();
            arena.check().unwrap();
            if with_pages {
                assert!(tags.pages_out.load(SeqCst) >= 40_000 / SLOTS_IN_PAGE);
            }
            while live.len() > 10 {
                let base = live.swap_remove(random.below(live.len()));
                arena.free(base).unwrap();
                assert_eq!(arena.free(base), Err(Error::NoSuchAllocation { base }));
                if live.len() % 1000 == 0 {
                    arena.check().unwrap();
                }
            }
            assert!(tags.pages_out.load(SeqCst) <= 2, "idle pages went back");
            assert!(tags.out.load(SeqCst) <= 3 * 10 + 40, "idle tags went back");
        });
    }
}

#[test]
fn an_index_that_gets_no_page_catches_up_when_there_are_some() {
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let pages = Tags::limited(0);
    let pages: &'static Tags = Box::leak(Box::new(pages));
    let supply = TagsAndPages { tags, pages };
    let arena =
        heap::vmem::Arena::<_, super::support::TestLock>::create("late", 1, None, supply).unwrap();
    arena.add_span(0, 20_000).unwrap();
    let mut live: Vec<_> = (0..5000)
        .map(|_| arena.alloc(1, InstantFit).unwrap())
        .collect();
    assert_eq!(pages.pages_out.load(SeqCst), 0);
    pages.budget.store(1000, SeqCst);
    live.extend((0..10_000).map(|_| arena.alloc(1, InstantFit).unwrap()));
    assert!(pages.pages_out.load(SeqCst) >= 15_000 / SLOTS_IN_PAGE);
    arena.check().unwrap();
    for base in live {
        arena.free(base).unwrap();
    }
    arena.check().unwrap();
    drop(arena);
    tags.assert_all_back();
    pages.assert_all_back();
}

struct TagsAndPages {
    tags: &'static Tags,
    pages: &'static Tags,
}

// SAFETY: as for the two supplies.
unsafe impl heap::vmem::TagSupply for TagsAndPages {
    fn allocate(&self) -> Option<std::ptr::NonNull<heap::vmem::BoundaryTag>> {
        self.tags.allocate()
    }

    unsafe fn deallocate(&self, tag: std::ptr::NonNull<heap::vmem::BoundaryTag>) {
        // SAFETY: it came from there.
        unsafe { self.tags.deallocate(tag) };
    }

    fn allocate_page(&self) -> Option<std::ptr::NonNull<heap::vmem::Page>> {
        heap::vmem::PageSupply::allocate_page(&self.pages)
    }

    unsafe fn deallocate_page(&self, page: std::ptr::NonNull<heap::vmem::Page>) {
        // SAFETY: it came from there.
        unsafe { heap::vmem::PageSupply::deallocate_page(&self.pages, page) };
    }
}

#[test]
fn a_source_fails_at_every_call_of_a_program_in_turn() {
    // What the program does to an arena, and what it leaves allocated.
    fn program(arena: &TestArena<'_>) -> Vec<usize> {
        let mut live = Vec::new();
        for pages in [1, 3, 2, 8] {
            if let Ok(base) = arena.alloc(pages * 0x1000, BestFit) {
                let _ = arena.resize(base, pages * 0x2000);
                let _ = arena.resize(base, 0x1000);
                live.push(base);
            }
        }
        if live.len() > 2 {
            arena.free(live.remove(1)).unwrap();
        }
        arena.trim();
        live
    }
    for kept in [0, 1] {
        let mut call = 0;
        loop {
            let books = Books::new(0x10_0000, 0x1f_ffff);
            books.budget.store(call, SeqCst);
            let arena = super::support::borrower(0x1000, &books).with_retained_spans(kept);
            let live = program(&arena);
            arena
                .check()
                .unwrap_or_else(|fault| panic!("call {call}: {fault}"));
            assert_eq!(books.lent_space(), arena.borrowed_space(), "call {call}");
            assert_eq!(
                arena.allocated_space(),
                live.len() * 0x1000 + unshrunk(&arena)
            );
            let failed = books.budget.load(SeqCst) == 0;
            books.budget.store(usize::MAX, SeqCst);
            for base in live {
                arena.free(base).unwrap();
            }
            arena.trim();
            assert_eq!(books.lent(), [], "call {call}");
            arena.check().unwrap();
            if !failed {
                break;
            }
            call += 1;
        }
        assert!(call > 8, "{call} calls");
    }
}

/// Bytes by which allocated segments are larger than a page. (Shrinking never fails.)
fn unshrunk(arena: &TestArena<'_>) -> usize {
    arena
        .segments()
        .filter(|segment| segment.kind == SegmentKind::Allocated)
        .map(|segment| segment.last - segment.base + 1 - 0x1000)
        .sum()
}

#[test]
fn a_supply_fails_at_every_call_of_a_program_in_turn() {
    let mut budget = 0;
    loop {
        let tags: &'static Tags = Box::leak(Box::new(Tags::limited(budget)));
        let books = Books::new(0x10_0000, 0x1f_ffff);
        let arena = TestArena::create("supply", 0x1000, Some(&books), tags).unwrap();
        let mut failed = false;
        let mut live: Vec<usize> = Vec::new();
        for step in 0..40usize {
            let before: Vec<_> = arena.segments().collect();
            let outcome = match step % 4 {
                0 | 1 => arena
                    .alloc(0x1000 * (1 + step % 3), InstantFit)
                    .map(|base| live.push(base)),
                2 => arena.add_span(0x1000 * 2 * step, 0x1000),
                _ => match live.first() {
                    Some(&base) => arena.resize(base, 0x1000 * (1 + step % 2)).or(Ok(())),
                    None => Ok(()),
                },
            };
            if let Err(error) = outcome {
                assert_eq!(error, Error::AllocatorError, "budget {budget} step {step}");
                assert_eq!(arena.segments().collect::<Vec<_>>(), before);
                failed = true;
            }
            assert_eq!(books.lent_space(), arena.borrowed_space());
            arena
                .check()
                .unwrap_or_else(|fault| panic!("budget {budget}: {fault}"));
        }
        tags.budget.store(usize::MAX / 2, SeqCst);
        live.push(arena.alloc(0x5000, InstantFit).unwrap());
        for base in live {
            arena.free(base).unwrap();
        }
        drop(arena);
        assert_eq!(books.lent(), []);
        tags.assert_all_back();
        if !failed {
            break;
        }
        budget += 1;
    }
    assert!(budget > 20, "{budget} tags");
}

#[test]
fn an_arena_is_a_source_like_any_other() {
    let arena = super::support::arena(0x1000);
    arena.add_span(0x10_0000, 0x10_0000).unwrap();
    let source: &dyn Source = &arena;
    let layout = Layout::from_size_align(0x3000, 0x8000).unwrap();
    let base = source.import(layout).unwrap();
    // SAFETY: the range was lent with this base and has the sizes given.
    unsafe {
        source.extend(base, 0x3000, 0x5000).unwrap();
        source.shrink(base, 0x5000, 0x1000).unwrap();
        assert!(source.release(base, 0x5000).is_err());
        source.release(base, 0x1000).unwrap();
    }
    assert_eq!(arena.allocated_space(), 0);
}
