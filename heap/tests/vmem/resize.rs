//! Resizing in place, within a span and at the end of a borrowed span.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::support::{CheckedSource, Tags, TestArena, arena, borrower};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Error, Layout, Result, Source};

#[test]
fn growth_takes_the_free_neighbour_in_part_or_whole() {
    let arena = arena(0x1000);
    arena.add_span(0x1_0000, 0x8000).unwrap();
    arena.xalloc_at(0x1_1000, 0x1000).unwrap();
    arena.xalloc_at(0x1_5000, 0x1000).unwrap();
    arena.resize(0x1_1000, 0x2001).unwrap();
    assert_eq!(arena.segment_of(0x1_1000).unwrap().last, 0x1_3fff);
    arena.resize(0x1_1000, 0x4000).unwrap();
    assert_eq!(
        arena.resize(0x1_1000, 0x4001),
        Err(Error::Occupied {
            base: 0x1_5000,
            size: 0x1000
        })
    );
    assert_eq!(
        arena.resize(0x1_5000, 0x4000),
        Err(Error::Empty { size: 0x3000 })
    );
    arena.resize(0x1_5000, 0x3000).unwrap();
    assert_eq!(arena.free_space(), 0x1000);
    arena.check().unwrap();
    arena.free_sized(0x1_1000, 0x4000).unwrap();
    arena.free_sized(0x1_5000, 0x3000).unwrap();
    assert_eq!(arena.largest_free(), 0x8000);
}

#[test]
fn the_tail_of_a_shrunk_segment_is_free() {
    let arena = arena(0x1000);
    arena.add_span(0x1_0000, 0x8000).unwrap();
    arena.xalloc_at(0x1_0000, 0x4000).unwrap();
    arena.xalloc_at(0x1_4000, 0x1000).unwrap();
    arena.resize(0x1_0000, 0x1800).unwrap();
    arena.xalloc_at(0x1_2000, 0x2000).unwrap();
    arena.resize(0x1_4000, 0x1000).unwrap();
    arena.free(0x1_2000).unwrap();
    // The tail coalesces with a free neighbour.
    arena.resize(0x1_0000, 0x1000).unwrap();
    arena.xalloc_at(0x1_1000, 0x3000).unwrap();
    arena.check().unwrap();
}

#[test]
fn a_bad_resize_is_an_error_and_changes_nothing() {
    let arena = arena(0x1000);
    arena.add_span(0x1_0000, 0x8000).unwrap();
    arena.xalloc_at(0x1_1000, 0x2000).unwrap();
    let before: Vec<_> = arena.segments().collect();
    assert_eq!(
        arena.resize(0x1_2000, 0x1000),
        Err(Error::NoSuchAllocation { base: 0x1_2000 })
    );
    assert_eq!(arena.resize(0x1_1000, 0), Err(Error::AllocZeroSize));
    let overflow = |size| Err(Error::SizeOverflow { size });
    assert_eq!(arena.resize(0x1_1000, usize::MAX), overflow(usize::MAX));
    assert_eq!(
        arena.resize(0x1_1000, usize::MAX - 0xfff),
        overflow(usize::MAX - 0xfff)
    );
    assert_eq!(arena.segments().collect::<Vec<_>>(), before);
    arena.check().unwrap();
}

#[test]
fn a_borrowed_span_is_extended_in_place_and_shrunk_again() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_retained_spans(0);
    let a = arena.alloc(0x1000, InstantFit).unwrap();
    arena.resize(a, 0x1_0000).unwrap();
    assert_eq!(lender.lent(), [(a, 0x1_0000)]);
    assert_eq!(arena.borrowed_space(), 0x1_0000);
    arena.check().unwrap();
    arena.resize(a, 0x3000).unwrap();
    assert_eq!(lender.lent(), [(a, 0x3000)]);
    assert_eq!((arena.total_space(), arena.free_space()), (0x3000, 0));
    arena.check().unwrap();
    arena.free_sized(a, 0x3000).unwrap();
    assert_eq!(lender.lent(), []);
}

#[test]
fn growth_beyond_the_free_neighbour_extends_the_borrowed_span() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_min_import(0x4000);
    let a = arena.alloc(0x1000, InstantFit).unwrap();
    arena.resize(a, 0x6000).unwrap();
    assert_eq!(lender.lent(), [(a, 0x6000)]);
    assert_eq!(arena.free_space(), 0);
    arena.check().unwrap();
}

#[test]
fn a_failed_extension_leaves_the_arena_unchanged() {
    for (resizable, minimum) in [(true, 0), (true, 0x4000), (false, 0), (false, 0x4000)] {
        let mut lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
        lender.resizable = resizable;
        let arena = borrower(0x1000, &lender).with_min_import(minimum);
        let a = arena.alloc(0x1000, InstantFit).unwrap();
        let before: Vec<_> = arena.segments().collect();
        lender.budget.store(0, SeqCst);
        let error = if resizable {
            Error::Other("the source fails, as the test wants")
        } else {
            Error::NotSupported
        };
        assert_eq!(arena.resize(a, 0x6000), Err(error));
        assert_eq!(arena.segments().collect::<Vec<_>>(), before);
        assert_eq!(arena.allocated_space(), 0x1000);
        arena.check().unwrap();
    }
}

#[test]
fn an_extension_stops_at_the_next_span() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    let a = arena.alloc(0x1000, InstantFit).unwrap();
    let b = arena.alloc(0x1000, InstantFit).unwrap();
    assert_eq!(b, a + 0x1000);
    let calls = lender.calls.load(SeqCst);
    assert_eq!(
        arena.resize(a, 0x2000),
        Err(Error::Occupied {
            base: b,
            size: 0x1000
        })
    );
    assert_eq!(lender.calls.load(SeqCst), calls, "the source was asked");
    arena.resize(b, 0x2000).unwrap();
    arena.check().unwrap();
}

#[test]
fn an_extension_keeps_the_limit() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_limit(0x4000);
    let a = arena.alloc(0x1000, InstantFit).unwrap();
    assert_eq!(
        arena.resize(a, 0x5000),
        Err(Error::LimitReached {
            limit: 0x4000,
            total: 0x5000
        })
    );
    arena.resize(a, 0x4000).unwrap();
}

#[test]
fn a_tail_that_the_source_refuses_becomes_free_space() {
    for resizable in [true, false] {
        let mut lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
        lender.resizable = resizable;
        let arena = borrower(0x1000, &lender).with_retained_spans(0);
        let a = arena.alloc(0x5000, InstantFit).unwrap();
        lender.budget.store(0, SeqCst);
        arena.resize(a, 0x2000).unwrap();
        assert_eq!(lender.lent(), [(a, 0x5000)]);
        assert_eq!(arena.free_space(), 0x3000);
        arena.check().unwrap();
        lender.budget.store(usize::MAX, SeqCst);
        assert_eq!(arena.alloc(0x3000, InstantFit), Ok(a + 0x2000));
        // A source that does not support `shrink` is called once, and not again.
        let calls = lender.calls.load(SeqCst);
        arena.free(a + 0x2000).unwrap();
        assert_eq!(lender.calls.load(SeqCst), calls + usize::from(resizable));
        arena.free(a).unwrap();
        assert_eq!(lender.lent(), []);
        arena.check().unwrap();
    }
}

#[test]
fn a_free_tail_is_released_if_no_span_is_retained() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender)
        .with_min_import(0x8000)
        .with_retained_spans(0);
    let blocks: Vec<_> = (0..4)
        .map(|_| arena.alloc(0x2000, InstantFit).unwrap())
        .collect();
    arena.free(blocks[2]).unwrap();
    assert_eq!(lender.lent_space(), 0x8000, "a hole stays");
    arena.free(blocks[3]).unwrap();
    assert_eq!(
        lender.lent(),
        [(blocks[0], 0x4000)],
        "with the hole below it"
    );
    arena.free(blocks[0]).unwrap();
    assert_eq!(lender.lent_space(), 0x4000, "the front stays");
    arena.free(blocks[1]).unwrap();
    assert_eq!(lender.lent(), []);
    arena.check().unwrap();
}

#[test]
fn trim_releases_the_free_tails_of_spans() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_min_import(0x8000);
    let a = arena.alloc(0x2000, InstantFit).unwrap();
    arena.resize(a, 0x1000).unwrap();
    assert_eq!(lender.lent_space(), 0x8000);
    assert_eq!(arena.trim(), 0x7000);
    assert_eq!(lender.lent(), [(a, 0x1000)]);
    assert_eq!(arena.trim(), 0);
    arena.check().unwrap();
}

#[test]
fn shrinking_works_after_the_supply_has_run_out() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let arena = TestArena::create("test", 0x1000, Some(&lender), tags)
        .unwrap()
        .with_retained_spans(0);
    let a = arena.alloc(0x8_0000, InstantFit).unwrap();
    tags.budget.store(0, SeqCst);
    let mut others = Vec::new();
    let out_of_tags = loop {
        match arena.alloc(0x1000, InstantFit) {
            Ok(base) => others.push(base),
            Err(error) => break error,
        }
    };
    assert_eq!(out_of_tags, Error::AllocatorError);
    // Page by page: each released tail uses the arena's last tags for a moment.
    for pages in (1..0x80).rev() {
        arena.resize(a, pages * 0x1000).unwrap();
        arena.check().unwrap();
    }
    // All other segments can still be freed.
    for base in others {
        arena.free(base).unwrap();
    }
    arena.free(a).unwrap();
    assert_eq!(lender.lent(), []);
}

/// A source with one span. During each call to extend or shrink the span, it performs operations
/// on the arena that another thread might perform.
struct Meanwhile {
    arena: OnceLock<&'static TestArena<'static>>,
    fails: AtomicBool,
    calls: AtomicUsize,
}

const BASE: usize = 0x10_0000;

impl Meanwhile {
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            arena: OnceLock::new(),
            fails: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
        }))
    }

    fn arena(&'static self, kept: usize) -> &'static TestArena<'static> {
        let arena = Box::leak(Box::new(borrower(0x1000, self).with_retained_spans(kept)));
        assert!(self.arena.set(arena).is_ok());
        arena
    }

    fn outcome(&self) -> Result<()> {
        self.arena.get().unwrap().check().unwrap();
        self.calls.fetch_add(1, SeqCst);
        if self.fails.load(SeqCst) {
            Err(Error::Other("not now"))
        } else {
            Ok(())
        }
    }
}

impl Source for Meanwhile {
    fn import(&self, _layout: Layout) -> Result<usize> {
        Ok(BASE)
    }

    unsafe fn release(&self, base: usize, _size: usize) -> Result<()> {
        assert_eq!(base, BASE);
        self.outcome()
    }

    unsafe fn extend(&self, base: usize, _size: usize, _new_size: usize) -> Result<()> {
        let arena = self.arena.get().unwrap();
        let last = arena
            .segments()
            .filter(|segment| segment.span.base == base)
            .last()
            .unwrap();
        let busy = Err(Error::Busy { base: last.base });
        assert_eq!(arena.free(last.base), busy);
        assert_eq!(arena.resize(last.base, 0x1000), busy);
        assert_eq!(arena.resize(last.base, 0x10_0000), busy);
        arena.trim();
        self.outcome()
    }

    unsafe fn shrink(&self, base: usize, _size: usize, new_size: usize) -> Result<()> {
        let arena = self.arena.get().unwrap();
        // The cut tail is not in the arena, and the rest of the span is busy.
        assert!(!arena.contains(base + new_size));
        assert_eq!(
            arena.resize(BASE, new_size + 0x1000),
            Err(Error::Busy { base })
        );
        arena.trim();
        if new_size == 0x2000 {
            arena.free(BASE)?;
        }
        self.outcome()
    }
}

#[test]
fn a_segment_is_busy_while_its_span_is_extended() {
    for fails in [false, true] {
        let source = Meanwhile::new();
        let arena = source.arena(1);
        source.fails.store(fails, SeqCst);
        let a = arena.alloc(0x4000, InstantFit).unwrap();
        arena.resize(a, 0x2000).unwrap();
        assert_eq!(arena.resize(a, 0x8000).is_err(), fails);
        assert_eq!(source.calls.load(SeqCst), 1);
        assert_eq!(arena.allocated_space(), if fails { 0x2000 } else { 0x8000 });
        arena.check().unwrap();
        arena.free(a).unwrap();
    }
}

#[test]
fn a_span_freed_while_its_tail_is_released_is_released_next() {
    for fails in [false, true] {
        let source = Meanwhile::new();
        let arena = source.arena(0);
        let a = arena.alloc(0x4000, InstantFit).unwrap();
        source.fails.store(fails, SeqCst);
        arena.resize(a, 0x2000).unwrap();
        assert_eq!(source.calls.load(SeqCst), 2, "shrink, and then release");
        assert_eq!(arena.total_space(), if fails { 0x4000 } else { 0 });
        assert_eq!(arena.allocated_space(), 0);
        arena.check().unwrap();
    }
}

#[test]
fn a_tail_that_the_source_refuses_returns_to_its_span() {
    let source = Meanwhile::new();
    let arena = source.arena(0);
    let a = arena.alloc(0x4000, InstantFit).unwrap();
    source.fails.store(true, SeqCst);
    arena.resize(a, 0x3000).unwrap();
    assert_eq!((arena.total_space(), arena.free_space()), (0x4000, 0x1000));
    assert_eq!(arena.alloc(0x1000, InstantFit), Ok(a + 0x3000));
    arena.check().unwrap();
}

/// A source during whose call to extend a span another span is added in the way of the extension.
struct Overtaken {
    lender: CheckedSource,
    arena: OnceLock<&'static TestArena<'static>>,
}

impl Source for Overtaken {
    fn import(&self, layout: Layout) -> Result<usize> {
        self.lender.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let arena = self.arena.get().unwrap();
        arena.add_span(base + size + 0x1000, 0x1000).unwrap();
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.extend(base, size, new_size) }
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.shrink(base, size, new_size) }
    }
}

#[test]
fn an_extension_into_a_span_added_meanwhile_is_undone() {
    let source: &'static Overtaken = Box::leak(Box::new(Overtaken {
        lender: CheckedSource::new(BASE, BASE + 0xf_ffff),
        arena: OnceLock::new(),
    }));
    let arena = Box::leak(Box::new(borrower(0x1000, source).with_retained_spans(0)));
    assert!(source.arena.set(arena).is_ok());
    let a = arena.alloc(0x2000, InstantFit).unwrap();
    let occupied = Error::Occupied {
        base: a + 0x2000,
        size: 0x2000,
    };
    assert_eq!(arena.resize(a, 0x4000), Err(occupied));
    assert_eq!(source.lender.lent(), [(a, 0x2000)]);
    assert_eq!(arena.total_space(), 0x3000);
    arena.check().unwrap();
    arena.free(a).unwrap();
    assert_eq!(source.lender.lent(), []);
}
