//! Model tests: random programs on arenas, compared with a shadow that records each allocation.

use std::sync::atomic::Ordering::SeqCst;

use super::program::run;
use super::support::{CheckedSource, Choices, Random, SLOTS_IN_PAGE, Tags, TestArena};
use crate::common::programs::for_programs;
use heap::vmem::AllocPolicy::{BestFit, InstantFit};
use heap::vmem::{Error, Layout, SegmentKind, Source};

/// Runs `test` with a tag supply, and verifies that all tags and pages are returned to it.
fn with_tags(tags: Tags, test: impl FnOnce(&'static Tags)) {
    let tags = Box::leak(Box::new(tags));
    test(tags);
    tags.assert_all_back();
}

#[test]
fn random_programs_on_added_spans_keep_every_invariant() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(13);
            let arena = TestArena::create("model", quantum, None, tags).unwrap();
            // The spans lie at the lowest addresses, or somewhere, or across the middle, or up to
            // the last address.
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
            assert_eq!(arena.segments().count(), spans, "all segments coalesced");
        });
    });
}

#[test]
fn random_programs_on_borrowed_spans_keep_every_invariant() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(13);
            let low = (1 + random.below(8)) * 256 * quantum;
            let mut lender = CheckedSource::new(low, low + 512 * quantum - 1);
            lender.resizable = random.chance(2);
            {
                let arena = TestArena::create("model", quantum, Some(&lender), tags)
                    .unwrap()
                    .with_retained_spans(random.below(3))
                    .with_min_import(random.below(40) * quantum);
                if random.chance(2) {
                    arena.add_span(0, 64 * quantum).unwrap();
                }
                run(&arena, program.steps(), 0, low + 512 * quantum);
                assert_eq!(lender.lent_space(), arena.borrowed_space());
                arena.trim();
                assert_eq!(lender.lent(), []);
                arena.check().unwrap();
            }
            assert_eq!(lender.lent(), []);
        });
    });
}

#[test]
fn random_failures_of_source_and_supply_break_no_invariant() {
    for_programs(|program| {
        let random = &mut program.set_up();
        with_tags(Tags::new(), |tags| {
            let quantum = 1 << random.below(5);
            let lender = CheckedSource::new(0, 512 * quantum - 1);
            let retained = random.below(2);
            let arena = TestArena::create("model", quantum, Some(&lender), tags)
                .unwrap()
                .with_retained_spans(retained);
            let mut steps = program.steps();
            while steps.len() > 0 {
                tags.budget.store(random.below(60), SeqCst);
                lender.budget.store(random.below(60), SeqCst);
                run(&arena, steps.by_ref().take(50), 0, 512 * quantum);
                assert_eq!(lender.lent_space(), arena.borrowed_space());
            }
            lender.budget.store(usize::MAX, SeqCst);
            arena.trim();
            assert_eq!(lender.lent(), []);
            tags.budget.store(usize::MAX, SeqCst);
        });
    });
}

#[test]
fn random_programs_on_a_chain_of_arenas_keep_every_invariant() {
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
fn the_index_finds_each_allocation_with_and_without_pages() {
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
            assert!(tags.pages_out.load(SeqCst) <= 2, "idle pages were returned");
            assert!(
                tags.out.load(SeqCst) <= 3 * 10 + 40,
                "unused tags were returned"
            );
        });
    }
}

#[test]
fn an_index_without_pages_catches_up_when_it_gets_some() {
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

/// A supply that takes tags and pages from two others.
struct TagsAndPages {
    tags: &'static Tags,
    pages: &'static Tags,
}

// SAFETY: all memory comes from two supplies that keep the contract.
unsafe impl heap::vmem::TagSupply for TagsAndPages {
    fn allocate(&self) -> Option<std::ptr::NonNull<heap::vmem::BoundaryTag>> {
        self.tags.allocate()
    }

    unsafe fn deallocate(&self, tag: std::ptr::NonNull<heap::vmem::BoundaryTag>) {
        // SAFETY: the tag came from `self.tags`.
        unsafe { self.tags.deallocate(tag) };
    }

    fn allocate_page(&self) -> Option<std::ptr::NonNull<heap::vmem::Page>> {
        heap::vmem::PageSupply::allocate_page(&self.pages)
    }

    unsafe fn deallocate_page(&self, page: std::ptr::NonNull<heap::vmem::Page>) {
        // SAFETY: the page came from `self.pages`.
        unsafe { heap::vmem::PageSupply::deallocate_page(&self.pages, page) };
    }
}

#[test]
fn a_source_that_fails_at_any_one_call_breaks_no_invariant() {
    // Runs the program on an arena, and returns the bases that are still allocated.
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
    for retained in [0, 1] {
        let mut call = 0;
        loop {
            let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
            lender.budget.store(call, SeqCst);
            let arena = super::support::borrower(0x1000, &lender).with_retained_spans(retained);
            let live = program(&arena);
            arena
                .check()
                .unwrap_or_else(|corruption| panic!("call {call}: {corruption}"));
            assert_eq!(lender.lent_space(), arena.borrowed_space(), "call {call}");
            assert_eq!(
                arena.allocated_space(),
                live.len() * 0x1000 + unshrunk(&arena)
            );
            let failed = lender.budget.load(SeqCst) == 0;
            lender.budget.store(usize::MAX, SeqCst);
            for base in live {
                arena.free(base).unwrap();
            }
            arena.trim();
            assert_eq!(lender.lent(), [], "call {call}");
            arena.check().unwrap();
            if !failed {
                break;
            }
            call += 1;
        }
        assert!(call > 8, "{call} calls");
    }
}

/// Returns the total size by which allocated segments are larger than a page.
fn unshrunk(arena: &TestArena<'_>) -> usize {
    arena
        .segments()
        .filter(|segment| segment.kind == SegmentKind::Allocated)
        .map(|segment| segment.last - segment.base + 1 - 0x1000)
        .sum()
}

#[test]
fn a_supply_that_runs_out_at_any_tag_leaves_the_arena_unchanged() {
    let mut budget = 0;
    loop {
        let tags: &'static Tags = Box::leak(Box::new(Tags::limited(budget)));
        let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
        let arena = TestArena::create("supply", 0x1000, Some(&lender), tags).unwrap();
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
            assert_eq!(lender.lent_space(), arena.borrowed_space());
            arena
                .check()
                .unwrap_or_else(|corruption| panic!("budget {budget}: {corruption}"));
        }
        tags.budget.store(usize::MAX / 2, SeqCst);
        live.push(arena.alloc(0x5000, InstantFit).unwrap());
        for base in live {
            arena.free(base).unwrap();
        }
        drop(arena);
        assert_eq!(lender.lent(), []);
        tags.assert_all_back();
        if !failed {
            break;
        }
        budget += 1;
    }
    assert!(budget > 20, "{budget} tags");
}

#[test]
fn an_arena_can_be_called_as_a_source() {
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
