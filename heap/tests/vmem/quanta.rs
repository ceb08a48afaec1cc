//! Sources with a coarser quantum than the arena.

use std::sync::atomic::Ordering::SeqCst;

use super::support::{CheckedSource, Tags, TestArena, arena, borrower, satisfies};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Result, Source};

const PAGE: usize = 0x1000;

/// Returns a source of `count` pages from `0x10_0000` on.
fn pages(count: usize) -> CheckedSource {
    let mut lender = CheckedSource::new(0x10_0000, 0x10_0000 + count * PAGE - 1);
    lender.quantum = PAGE;
    lender
}

#[test]
fn small_allocations_share_one_quantum_of_the_source() {
    let pages = arena(PAGE);
    pages.add_span(0x10_0000, 16 * PAGE).unwrap();
    let small = borrower(16, &pages);
    for number in 0..256 {
        let base = small.alloc(16, InstantFit).unwrap();
        assert_eq!(base, 0x10_0000 + 16 * number);
        assert_eq!(pages.allocated_space(), PAGE);
    }
    assert_eq!(small.borrowed_space(), PAGE);
    small.alloc(16, InstantFit).unwrap();
    assert_eq!(pages.allocated_space(), 2 * PAGE);
}

#[test]
fn constraints_finer_than_the_quantum_of_the_source_are_met() {
    for policy in [InstantFit, BestFit, NextFit] {
        let source = arena(PAGE);
        source.add_span(0x10_0000, 16 * PAGE).unwrap();
        let small = borrower(16, &source);
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        for layout in [
            layout(0x40, 0x100).with_phase(0x20),
            layout(0x40, 0x4000).with_phase(0x2340),
            layout(0x1000, 0x10).with_min(0x10_5010).with_max(0x10_600f),
            layout(0x20, 0x10).with_min(0x10_6010).with_max(0x10_602f),
            layout(0x1800, 0x10).with_min(0x10_9800).with_max(0x10_afff),
            layout(0x80, 0x80).with_nocross(0x80).unwrap(),
            layout(0xf00, 0x100).with_phase(0x2).with_phase(0x100),
        ] {
            let base = small.xalloc(layout, policy).unwrap();
            assert!(satisfies(&layout, base), "{layout:?} at {base:#x}");
            assert_eq!(small.borrowed_space(), source.allocated_space());
        }
        small.check().unwrap();
    }
}

#[test]
fn a_bound_inside_a_page_imports_that_page_only() {
    let lender = pages(16);
    let small = borrower(16, &lender);
    let layout = Layout::from_size_align(0x10, 0x10).unwrap();
    let last = layout.with_min(0x10_fff0).with_max(0x10_ffff);
    assert_eq!(small.xalloc(last, InstantFit), Ok(0x10_fff0));
    assert_eq!(lender.lent(), [(0x10_f000, PAGE)]);
    let outside = layout.with_min(0x11_0000);
    assert!(matches!(
        small.xalloc(outside, InstantFit),
        Err(Error::Empty { .. })
    ));
}

#[test]
fn an_extension_is_a_multiple_of_the_quantum_of_the_source() {
    let lender = pages(4);
    let small = borrower(16, &lender).with_retained_spans(0);
    let base = small.alloc(PAGE, InstantFit).unwrap();
    small.resize(base, PAGE + 0x20).unwrap();
    assert_eq!(lender.lent(), [(base, 2 * PAGE)]);
    assert_eq!(small.free_space(), PAGE - 0x20);
    assert_eq!(small.alloc(PAGE - 0x20, InstantFit), Ok(base + PAGE + 0x20));
    small.check().unwrap();
    small.free(base + PAGE + 0x20).unwrap();

    // The rest of a page in use stays borrowed. The pages above it are released.
    small.resize(base, 4 * PAGE).unwrap();
    small.resize(base, PAGE - 0x10).unwrap();
    assert_eq!(lender.lent(), [(base, PAGE)]);
    assert_eq!(small.free_space(), 0x10);
    assert_eq!(
        small.resize(base, 5 * PAGE),
        Err(Error::Occupied {
            base: base + PAGE,
            size: 4 * PAGE
        })
    );
    small.free(base).unwrap();
    assert_eq!(lender.lent(), []);
}

#[test]
fn an_extension_without_a_tag_for_the_rest_changes_nothing() {
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let lender = pages(8);
    let small = TestArena::create("poor", 16, Some(&lender), tags).unwrap();
    let base = small.alloc(PAGE, InstantFit).unwrap();
    small.add_span(0, 100 * 16).unwrap();
    tags.budget.store(0, SeqCst);
    // Allocations leave some tags in the cache. Shrinking takes these.
    let blocks: Vec<_> = std::iter::from_fn(|| small.alloc(32, InstantFit).ok()).collect();
    for &block in blocks.iter().step_by(2) {
        let _ = small.resize(block, 16);
    }
    let before: Vec<_> = small.segments().collect();
    assert_eq!(small.resize(base, PAGE + 16), Err(Error::AllocatorError));
    assert_eq!(small.segments().collect::<Vec<_>>(), before);
    assert_eq!(lender.lent(), [(base, PAGE)]);
    // A whole number of pages leaves no rest, and needs no tag.
    small.resize(base, 2 * PAGE).unwrap();
    small.check().unwrap();
    tags.budget.store(usize::MAX / 2, SeqCst);
}

#[test]
fn an_extension_gets_tags_that_only_shrinking_may_take() {
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let books = pages(8);
    let small = TestArena::create("poor", 16, Some(&books), tags).unwrap();
    let base = small.alloc(PAGE, InstantFit).unwrap();
    small.add_span(0, 100 * 16).unwrap();
    tags.budget.store(0, SeqCst);
    let blocks: Vec<_> = std::iter::from_fn(|| small.alloc(32, InstantFit).ok()).collect();
    let shrunk: Vec<_> = (blocks.iter())
        .take_while(|&&block| small.resize(block, 16).is_ok())
        .collect();
    let Some(&&last) = shrunk.last() else {
        panic!("shrinking takes what allocations leave");
    };
    // No tag is in hand, and then the one of the free segment that goes.
    small.resize(last, 32).unwrap();
    let before = tags.out.load(SeqCst);
    tags.budget.store(usize::MAX / 2, SeqCst);
    assert_eq!(small.resize(base, PAGE + 16), Ok(()));
    assert!(tags.out.load(SeqCst) > before, "there were enough in hand");
    assert_eq!(books.lent(), [(base, 2 * PAGE)]);
    small.check().unwrap();
}

#[test]
fn a_limit_counts_whole_quanta_of_the_source() {
    let lender = pages(8);
    let small = borrower(16, &lender).with_limit(PAGE + 0x800);
    let base = small.alloc(16, InstantFit).unwrap();
    let reached = Err(Error::LimitReached {
        limit: PAGE + 0x800,
        total: 2 * PAGE,
    });
    assert_eq!(small.resize(base, PAGE + 16), reached);
    assert_eq!(small.alloc(PAGE, InstantFit).map(drop), reached);
    assert_eq!(small.resize(base, PAGE), Ok(()));
}

/// A source with a given quantum.
struct WithQuantum(usize);

impl Source for WithQuantum {
    fn quantum(&self) -> usize {
        self.0
    }

    fn import(&self, _layout: Layout) -> Result<usize> {
        Err(Error::NotSupported)
    }

    unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
        Err(Error::NotSupported)
    }
}

#[test]
fn a_source_whose_quantum_is_no_power_of_two_is_refused() {
    static TAGS: Tags = Tags::new();
    for quantum in [0, 3, usize::MAX] {
        let source = WithQuantum(quantum);
        let created = TestArena::create("odd", 16, Some(&source), &TAGS);
        assert_eq!(created.map(drop), Err(Error::InvalidQuantum { quantum }));
    }
    // With the coarsest possible quantum, sizes overflow, and that is an error.
    let source = WithQuantum(1 << (usize::BITS - 1));
    let arena = borrower(16, &source).with_min_import(usize::MAX);
    assert_eq!(arena.alloc(16, InstantFit), Err(Error::NotSupported));
    let size = usize::MAX - 0xff;
    assert_eq!(
        arena.alloc(size, InstantFit),
        Err(Error::SizeOverflow { size })
    );
}
