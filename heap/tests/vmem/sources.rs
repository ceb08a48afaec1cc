//! Importing spans from a source and releasing them, with every address accounted for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::support::{CheckedSource, TestArena, arena, borrower};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Result, Source};

#[test]
fn a_miss_imports_exactly_the_requested_size() {
    for policy in [InstantFit, BestFit, NextFit] {
        let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
        let arena = borrower(0x1000, &lender);
        let a = arena.alloc(0x2fff, policy).unwrap();
        assert_eq!(lender.lent(), [(a, 0x3000)]);
        assert_eq!(arena.borrowed_space(), 0x3000);
        arena.check().unwrap();
    }
}

#[test]
fn one_free_span_is_retained_and_reused() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    for _ in 0..100 {
        let a = arena.alloc(0x3000, InstantFit).unwrap();
        arena.free(a).unwrap();
    }
    assert_eq!((lender.imports(), lender.releases()), (1, 0));
    // A retained span is also found in a size class of several sizes.
    for _ in 0..100 {
        let a = arena.alloc(0x29_000, InstantFit).unwrap();
        arena.free(a).unwrap();
    }
    assert_eq!((lender.imports(), lender.releases()), (2, 1));
    assert_eq!(arena.trim(), 0x29_000);
    assert_eq!(lender.lent(), []);
    assert_eq!(arena.total_space(), 0);
    arena.check().unwrap();
}

#[test]
fn an_arena_that_retains_no_span_releases_at_once() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_retained_spans(0);
    let a = arena.alloc(0x3000, InstantFit).unwrap();
    let b = arena.alloc(0x1000, InstantFit).unwrap();
    arena.free(a).unwrap();
    assert_eq!(lender.lent(), [(b, 0x1000)]);
    arena.free(b).unwrap();
    assert_eq!(lender.lent(), []);
    assert_eq!(arena.total_space(), 0);
    arena.check().unwrap();
}

#[test]
fn a_minimum_import_serves_later_requests() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_min_import(0x8000 - 5);
    let blocks: Vec<_> = (0..8)
        .map(|_| arena.alloc(0x1000, InstantFit).unwrap())
        .collect();
    assert_eq!(lender.imports(), 1);
    arena.alloc(0x9000, InstantFit).unwrap();
    assert_eq!(lender.imports(), 2);
    for block in blocks {
        arena.free(block).unwrap();
    }
    arena.check().unwrap();
}

#[test]
fn a_refused_minimum_import_falls_back_to_the_requested_size() {
    let lender = CheckedSource::new(0x10_0000, 0x10_3fff);
    let arena = borrower(0x1000, &lender).with_min_import(0x8000);
    let a = arena.alloc(0x2000, InstantFit).unwrap();
    assert_eq!(lender.lent(), [(a, 0x2000)]);
    let limited = borrower(0x1000, &lender)
        .with_min_import(0x8000)
        .with_limit(0x2000);
    limited.alloc(0x1000, InstantFit).unwrap();
}

#[test]
fn refused_imports_do_not_count_towards_the_limit() {
    let lender = CheckedSource::new(0x10_0000, 0x10_2fff);
    let arena = borrower(0x1000, &lender).with_limit(0x4000);
    for _ in 0..3 {
        let refused = arena.alloc(0x4000, InstantFit);
        assert_eq!(refused, Err(Error::Empty { size: 0x4000 }));
    }
    assert!(arena.alloc(0x3000, InstantFit).is_ok());
    arena.check().unwrap();
}

#[test]
fn imports_do_not_exceed_the_limit() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_limit(0x3000);
    arena.alloc(0x2000, InstantFit).unwrap();
    assert_eq!(
        arena.alloc(0x2000, InstantFit),
        Err(Error::LimitReached {
            limit: 0x3000,
            total: 0x4000
        })
    );
    arena.alloc(0x1000, InstantFit).unwrap();
    assert_eq!(arena.total_space(), 0x3000);
}

#[test]
fn constraints_are_passed_on_to_the_source() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    let layout = Layout::from_size_align(0x1800, 0x8000)
        .and_then(|layout| layout.with_nocross(0x4000))
        .unwrap()
        .with_phase(0x2000)
        .with_min(0x11_0000)
        .with_max(0x1e_37ff);
    for policy in [InstantFit, BestFit, NextFit] {
        let base = arena.xalloc(layout, policy).unwrap();
        assert!(super::support::satisfies(&layout, base), "{base:#x}");
        arena.check().unwrap();
    }
    assert_eq!(lender.lent_space(), 3 * 0x2000);
    // The bound applies to the requested size, even if the rounded size exceeds it.
    let top = Layout::from_size_align(0x1800, 1)
        .unwrap()
        .with_min(0x1f_0000)
        .with_max(0x1f_17ff);
    assert_eq!(arena.xalloc(top, InstantFit), Ok(0x1f_0000));
}

#[test]
fn an_explicit_import_serves_later_requests() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    arena
        .import(Layout::from_size_align(0x4000, 0x1_0000).unwrap())
        .unwrap();
    assert_eq!(arena.free_space(), 0x4000);
    assert_eq!(arena.alloc(0x4000, InstantFit).unwrap() % 0x1_0000, 0);
    assert_eq!(lender.imports(), 1);
    let alone = super::support::arena(0x1000);
    let layout = Layout::from_size_align(0x4000, 1).unwrap();
    assert_eq!(alone.import(layout), Err(Error::NoSource));
}

#[test]
fn spans_pass_through_a_chain_of_three_arenas_and_back() {
    let top = arena(0x1_0000);
    top.add_span(0x100_0000, 0x100_0000).unwrap();
    let middle = borrower(0x1000, &top).with_retained_spans(0);
    let bottom = borrower(0x10, &middle).with_retained_spans(0);
    let spaces = || {
        let borrowed = [&bottom, &middle].map(|arena| arena.borrowed_space());
        assert_eq!(borrowed, [middle.allocated_space(), top.allocated_space()]);
        borrowed
    };
    let a = bottom.alloc(0x25, InstantFit).unwrap();
    assert_eq!(spaces(), [0x1000, 0x1_0000]);
    bottom.resize(a, 0x2_0000).unwrap();
    assert_eq!(spaces(), [0x2_0000, 0x2_0000]);
    bottom.resize(a, 0x1_0010).unwrap();
    assert_eq!(spaces(), [0x1_1000, 0x2_0000]);
    bottom.resize(a, 0x10).unwrap();
    assert_eq!(spaces(), [0x1000, 0x1_0000]);
    bottom.free(a).unwrap();
    assert_eq!(bottom.total_space() + middle.total_space(), 0);
    assert_eq!(top.allocated_space(), 0);
    for arena in [&top, &middle, &bottom] {
        arena.check().unwrap();
    }
}

#[test]
fn the_error_of_a_source_is_returned_if_no_segment_fits() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    lender.budget.store(0, SeqCst);
    let arena = borrower(0x1000, &lender);
    let failure = Err(Error::Other("the source fails, as the test wants"));
    assert_eq!(arena.alloc(0x1000, InstantFit), failure);
    arena.add_span(0x1000, 0x1000).unwrap();
    assert_eq!(arena.alloc(0x1000, InstantFit), Ok(0x1000));
    assert_eq!(arena.alloc(0x1000, InstantFit), failure);
    assert_eq!(arena.total_space(), 0x1000);
    arena.check().unwrap();
}

#[test]
fn a_refused_release_loses_no_span() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_retained_spans(0);
    let a = arena.alloc(0x3000, InstantFit).unwrap();
    lender.budget.store(0, SeqCst);
    arena.free(a).unwrap();
    assert_eq!(
        (arena.free_space(), arena.borrowed_space()),
        (0x3000, 0x3000)
    );
    arena.check().unwrap();
    assert_eq!(arena.alloc(0x3000, InstantFit), Ok(a));
    arena.free(a).unwrap();
    lender.budget.store(1, SeqCst);
    assert_eq!(arena.trim(), 0x3000);
    assert_eq!(lender.lent(), []);
}

/// A source that lends a given base, regardless of the layout.
struct Liar(AtomicUsize, AtomicUsize);

impl Source for Liar {
    fn import(&self, _layout: Layout) -> Result<usize> {
        Ok(self.0.load(SeqCst))
    }

    unsafe fn release(&self, _base: usize, _size: usize) -> Result<()> {
        self.1.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[test]
fn an_import_is_verified_and_returned_if_wrong() {
    let liar = Liar(AtomicUsize::new(0x1234), AtomicUsize::new(0));
    let arena = borrower(0x1000, &liar);
    arena.add_span(0x9000, 0x1000).unwrap();
    let fails_with = |base: usize, expected: fn(&Error) -> bool| {
        liar.0.store(base, SeqCst);
        let before = liar.1.load(SeqCst);
        let error = arena.alloc(0x2000, InstantFit).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(liar.1.load(SeqCst), before + 1, "the range is released");
        assert_eq!(arena.total_space(), 0x1000);
        arena.check().unwrap();
    };
    fails_with(0x1234, |error| matches!(error, Error::UnalignedSpan { .. }));
    fails_with(usize::MAX - 0xfff, |error| {
        matches!(error, Error::WrappingSpan { .. })
    });
    fails_with(0x8000, |error| {
        matches!(error, Error::OverlappingSpan { .. })
    });
    let aligned = Layout::from_size_align(0x1000, 0x10_0000).unwrap();
    liar.0.store(0x1_0000, SeqCst);
    assert!(matches!(
        arena.xalloc(aligned, InstantFit),
        Err(Error::Other(_))
    ));
}

/// A source that calls the arena that called it.
struct CallsBack(OnceLock<&'static TestArena<'static>>);

impl Source for CallsBack {
    fn import(&self, layout: Layout) -> Result<usize> {
        let arena = self.0.get().unwrap();
        arena.check().unwrap();
        if !arena.contains(0x1000) {
            arena.add_span(0x1000, 0x1000)?;
        }
        assert_eq!(arena.alloc(0x1000, BestFit), Ok(0x1000));
        arena.free(0x1000)?;
        Ok(0x10_0000 + layout.size())
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        assert_eq!(base, 0x10_0000 + size);
        assert!(!self.0.get().unwrap().contains(base));
        self.0.get().unwrap().check().unwrap();
        Ok(())
    }
}

#[test]
fn a_source_may_call_back_into_the_arena() {
    static SOURCE: CallsBack = CallsBack(OnceLock::new());
    let arena: &'static TestArena<'static> =
        Box::leak(Box::new(borrower(0x1000, &SOURCE).with_retained_spans(0)));
    assert!(SOURCE.0.set(arena).is_ok());
    let base = arena.alloc(0x5000, InstantFit).unwrap();
    assert_eq!(base, 0x10_5000);
    arena.free(base).unwrap();
    assert_eq!(arena.total_space(), 0x1000);
    arena.check().unwrap();
}

#[test]
fn a_reclaim_hook_is_called_once_before_a_refusal() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let arena = arena(0x1000);
    arena.add_span(0x1000, 0x2000).unwrap();
    let cached = arena.alloc(0x2000, InstantFit).unwrap();
    let shared: &'static TestArena<'static> = Box::leak(Box::new(arena));
    // The hook belongs to another arena, whose source is the first.
    let hook = move |size: usize| {
        assert_eq!(size, 0x1000);
        CALLS.fetch_add(1, SeqCst) == 0 && shared.free(cached).is_ok()
    };
    let hook: &'static (dyn Fn(usize) -> bool + Sync) = Box::leak(Box::new(hook));
    let child = borrower(0x1000, shared).with_reclaim(hook);
    child.alloc(0x1000, InstantFit).unwrap();
    assert_eq!(CALLS.load(SeqCst), 1);
    child.alloc(0x1000, InstantFit).unwrap();
    assert_eq!(CALLS.load(SeqCst), 1);
    assert!(child.alloc(0x1000, InstantFit).is_err());
    assert_eq!(CALLS.load(SeqCst), 2);
}

#[test]
fn a_dropped_arena_releases_free_spans_and_reports_leaks() {
    static LEAKED: AtomicUsize = AtomicUsize::new(0);
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let tags: &'static super::support::Tags = Box::leak(Box::new(super::support::Tags::new()));
    {
        let arena = TestArena::create("leaky", 0x1000, Some(&lender), tags)
            .unwrap()
            .with_leak_hook(|label, allocated| {
                assert_eq!(label, "leaky");
                LEAKED.store(allocated, SeqCst);
            });
        let used = arena.alloc(0x3000, InstantFit).unwrap();
        let freed = arena.alloc(0x1000, InstantFit).unwrap();
        arena.free(freed).unwrap();
        assert_eq!(lender.lent(), [(used, 0x3000), (freed, 0x1000)]);
    }
    assert_eq!(LEAKED.load(SeqCst), 0x3000);
    assert_eq!(lender.lent(), [(0x10_0000, 0x3000)]);
    tags.assert_all_back();
}
