//! Borrowing from a source and giving back, with every byte accounted for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::support::{Books, TestArena, arena, borrower};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Result, Source};

#[test]
fn a_miss_imports_exactly_what_is_asked_for() {
    for policy in [InstantFit, BestFit, NextFit] {
        let books = Books::new(0x10_0000, 0x1f_ffff);
        let arena = borrower(0x1000, &books);
        let a = arena.alloc(0x2fff, policy).unwrap();
        assert_eq!(books.lent(), [(a, 0x3000)]);
        assert_eq!(arena.borrowed_space(), 0x3000);
        arena.check().unwrap();
    }
}

#[test]
fn one_free_span_is_kept_and_used_again() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books);
    for _ in 0..100 {
        let a = arena.alloc(0x3000, InstantFit).unwrap();
        arena.free(a).unwrap();
    }
    assert_eq!((books.imports(), books.releases()), (1, 0));
    // A size that shares its class with larger ones is found again, too.
    for _ in 0..100 {
        let a = arena.alloc(0x29_000, InstantFit).unwrap();
        arena.free(a).unwrap();
    }
    assert_eq!((books.imports(), books.releases()), (2, 1));
    assert_eq!(arena.trim(), 0x29_000);
    assert_eq!(books.lent(), []);
    assert_eq!(arena.total_space(), 0);
    arena.check().unwrap();
}

#[test]
fn an_arena_that_keeps_nothing_gives_back_at_once() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books).with_retained_spans(0);
    let a = arena.alloc(0x3000, InstantFit).unwrap();
    let b = arena.alloc(0x1000, InstantFit).unwrap();
    arena.free(a).unwrap();
    assert_eq!(books.lent(), [(b, 0x1000)]);
    arena.free(b).unwrap();
    assert_eq!(books.lent(), []);
    assert_eq!(arena.total_space(), 0);
    arena.check().unwrap();
}

#[test]
fn a_minimum_import_serves_later_requests() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books).with_min_import(0x8000 - 5);
    let blocks: Vec<_> = (0..8)
        .map(|_| arena.alloc(0x1000, InstantFit).unwrap())
        .collect();
    assert_eq!(books.imports(), 1);
    arena.alloc(0x9000, InstantFit).unwrap();
    assert_eq!(books.imports(), 2);
    for block in blocks {
        arena.free(block).unwrap();
    }
    arena.check().unwrap();
}

#[test]
fn when_the_minimum_is_not_to_be_had_the_need_is_imported() {
    let books = Books::new(0x10_0000, 0x10_3fff);
    let arena = borrower(0x1000, &books).with_min_import(0x8000);
    let a = arena.alloc(0x2000, InstantFit).unwrap();
    assert_eq!(books.lent(), [(a, 0x2000)]);
    let limited = borrower(0x1000, &books)
        .with_min_import(0x8000)
        .with_limit(0x2000);
    limited.alloc(0x1000, InstantFit).unwrap();
}

#[test]
fn what_the_source_refuses_does_not_count_towards_the_limit() {
    let books = Books::new(0x10_0000, 0x10_2fff);
    let arena = borrower(0x1000, &books).with_limit(0x4000);
    for _ in 0..3 {
        let refused = arena.alloc(0x4000, InstantFit);
        assert_eq!(refused, Err(Error::Empty { size: 0x4000 }));
    }
    assert!(arena.alloc(0x3000, InstantFit).is_ok());
    arena.check().unwrap();
}

#[test]
fn a_limit_is_kept_by_imports() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books).with_limit(0x3000);
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
fn constraints_are_handed_on_to_the_source() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books);
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
    assert_eq!(books.lent_space(), 3 * 0x2000);
    // The bound is on the size as asked for, also where the quantum reaches beyond it.
    let top = Layout::from_size_align(0x1800, 1)
        .unwrap()
        .with_min(0x1f_0000)
        .with_max(0x1f_17ff);
    assert_eq!(arena.xalloc(top, InstantFit), Ok(0x1f_0000));
}

#[test]
fn an_explicit_import_is_there_for_later() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books);
    arena
        .import(Layout::from_size_align(0x4000, 0x1_0000).unwrap())
        .unwrap();
    assert_eq!(arena.free_space(), 0x4000);
    assert_eq!(arena.alloc(0x4000, InstantFit).unwrap() % 0x1_0000, 0);
    assert_eq!(books.imports(), 1);
    let alone = super::support::arena(0x1000);
    let layout = Layout::from_size_align(0x4000, 1).unwrap();
    assert_eq!(alone.import(layout), Err(Error::NoSource));
}

#[test]
fn three_arenas_deep_everything_comes_and_goes_through_all() {
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
fn a_failing_source_is_reported_and_what_fits_is_used_first() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    books.budget.store(0, SeqCst);
    let arena = borrower(0x1000, &books);
    let failure = Err(Error::Other("the source fails, as the test wants"));
    assert_eq!(arena.alloc(0x1000, InstantFit), failure);
    arena.add_span(0x1000, 0x1000).unwrap();
    assert_eq!(arena.alloc(0x1000, InstantFit), Ok(0x1000));
    assert_eq!(arena.alloc(0x1000, InstantFit), failure);
    assert_eq!(arena.total_space(), 0x1000);
    arena.check().unwrap();
}

#[test]
fn a_release_that_fails_loses_nothing() {
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &books).with_retained_spans(0);
    let a = arena.alloc(0x3000, InstantFit).unwrap();
    books.budget.store(0, SeqCst);
    arena.free(a).unwrap();
    assert_eq!(
        (arena.free_space(), arena.borrowed_space()),
        (0x3000, 0x3000)
    );
    arena.check().unwrap();
    assert_eq!(arena.alloc(0x3000, InstantFit), Ok(a));
    arena.free(a).unwrap();
    books.budget.store(1, SeqCst);
    assert_eq!(arena.trim(), 0x3000);
    assert_eq!(books.lent(), []);
}

/// A source that lends what it likes.
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
fn what_a_source_lends_is_verified_and_refused_if_wrong() {
    let liar = Liar(AtomicUsize::new(0x1234), AtomicUsize::new(0));
    let arena = borrower(0x1000, &liar);
    arena.add_span(0x9000, 0x1000).unwrap();
    let fails_with = |base: usize, expected: fn(&Error) -> bool| {
        liar.0.store(base, SeqCst);
        let before = liar.1.load(SeqCst);
        let error = arena.alloc(0x2000, InstantFit).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(liar.1.load(SeqCst), before + 1, "given back");
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
fn a_reclaim_hook_gets_one_chance() {
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
fn dropping_an_arena_gives_back_what_is_free_and_reports_what_is_not() {
    static LEAKED: AtomicUsize = AtomicUsize::new(0);
    let books = Books::new(0x10_0000, 0x1f_ffff);
    let tags: &'static super::support::Tags = Box::leak(Box::new(super::support::Tags::new()));
    {
        let arena = TestArena::create("leaky", 0x1000, Some(&books), tags)
            .unwrap()
            .with_leak_hook(|label, allocated| {
                assert_eq!(label, "leaky");
                LEAKED.store(allocated, SeqCst);
            });
        let used = arena.alloc(0x3000, InstantFit).unwrap();
        let freed = arena.alloc(0x1000, InstantFit).unwrap();
        arena.free(freed).unwrap();
        assert_eq!(books.lent(), [(used, 0x3000), (freed, 0x1000)]);
    }
    assert_eq!(LEAKED.load(SeqCst), 0x3000);
    assert_eq!(books.lent(), [(0x10_0000, 0x3000)]);
    tags.assert_all_back();
}
