//! Discarding and restoring memory in allocated segments: what an arena hands out is memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::paged::PagedSource;
use super::support::{Tags, TestArena, arena, borrower};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Result, Source};

const PAGE: usize = 0x1000;
const BASE: usize = 0x8_0000;

fn source() -> PagedSource {
    PagedSource::new(BASE, BASE + 0xf_ffff, PAGE, PAGE)
}

/// An error that `CheckedSource` returns when its budget is spent.
const SPENT: Error = Error::Other("the source fails, as the test wants");

/// Makes each call to the source fail while `work` runs.
fn while_failing<T>(source: &PagedSource, work: impl FnOnce() -> T) -> T {
    source.lender.budget.store(0, SeqCst);
    let result = work();
    source.lender.budget.store(usize::MAX, SeqCst);
    result
}

/// Imports a span of `pages`, all of them free.
fn import(arena: &TestArena<'_>, pages: usize) {
    let layout = Layout::from_size_align(pages * PAGE, PAGE).unwrap();
    arena.import(layout).unwrap();
}

/// Imports `pages`, and leaves all of them discarded and free.
fn import_discarded(arena: &TestArena<'_>, pages: usize) {
    import(arena, pages);
    arena.xalloc_at(BASE, pages * PAGE).unwrap();
    arena.discard(BASE, pages * PAGE).unwrap();
    arena.free(BASE).unwrap();
}

#[test]
fn a_part_is_discarded_and_restored_as_zeros() {
    let source = source();
    let arena = borrower(PAGE, &source);
    let base = arena.alloc(6 * PAGE, InstantFit).unwrap();
    source.write(base, 6 * PAGE, 7);
    arena.discard(base + PAGE, 2 * PAGE).unwrap();
    arena.discard(base + 2 * PAGE, 2 * PAGE).unwrap();
    let holes = [true, false, false, false, true, true];
    assert_eq!(source.is_memory(base, 6 * PAGE), holes);
    arena.restore(base, 3 * PAGE).unwrap();
    source.verify(base, PAGE, 7);
    source.verify(base + PAGE, 2 * PAGE, 0);
    source.verify(base + 4 * PAGE, 2 * PAGE, 7);
    assert!(!source.is_memory(base + 3 * PAGE, PAGE)[0]);
    assert_eq!(arena.allocated_space(), 6 * PAGE);
    arena.check().unwrap();
}

#[test]
fn a_range_that_is_no_part_of_a_segment_is_refused() {
    let source = source();
    let arena = borrower(PAGE, &source);
    arena.add_span(0x1000, 2 * PAGE).unwrap();
    arena.xalloc_at(0x1000, PAGE).unwrap();
    import(&arena, 8);
    arena.xalloc_at(BASE, 2 * PAGE).unwrap();
    arena.xalloc_at(BASE + 2 * PAGE, PAGE).unwrap();
    let calls = source.lender.calls.load(SeqCst);
    let unaligned = |base, size| Error::UnalignedPart {
        base,
        size,
        quantum: PAGE,
    };
    let no_part = |base, size| Error::NoSuchPart { base, size };
    for (base, size, error) in [
        (BASE, 0, Error::AllocZeroSize),
        (BASE + 1, PAGE, unaligned(BASE + 1, PAGE)),
        (BASE, PAGE + 1, unaligned(BASE, PAGE + 1)),
        (
            BASE,
            usize::MAX & !0xfff,
            Error::SizeOverflow {
                size: usize::MAX & !0xfff,
            },
        ),
        (BASE + PAGE, 2 * PAGE, no_part(BASE + PAGE, 2 * PAGE)),
        (BASE + 4 * PAGE, PAGE, no_part(BASE + 4 * PAGE, PAGE)),
        (BASE + 9 * PAGE, PAGE, no_part(BASE + 9 * PAGE, PAGE)),
        (0x1000, PAGE, Error::NotImported { base: 0x1000 }),
    ] {
        assert_eq!(
            arena.discard(base, size),
            Err(error),
            "{base:#x}, {size:#x}"
        );
        assert_eq!(
            arena.restore(base, size),
            Err(error),
            "{base:#x}, {size:#x}"
        );
    }
    assert_eq!(source.lender.calls.load(SeqCst), calls);
    let alone = super::support::arena(PAGE);
    alone.add_span(BASE, PAGE).unwrap();
    alone.xalloc_at(BASE, PAGE).unwrap();
    let refused = Err(Error::NotImported { base: BASE });
    assert_eq!(alone.discard(BASE, PAGE), refused);
}

#[test]
fn a_source_without_memory_refuses_and_nothing_is_marked() {
    let source = super::support::CheckedSource::new(BASE, BASE + 0xffff);
    let arena = borrower(PAGE, &source);
    let base = arena.alloc(4 * PAGE, InstantFit).unwrap();
    assert_eq!(arena.discard(base, PAGE), Err(Error::NotSupported));
    assert_eq!(arena.restore(base, PAGE), Err(Error::NotSupported));
    arena.free(base).unwrap();
    // A marked segment would be restored, which this source refuses.
    assert_eq!(arena.alloc(4 * PAGE, InstantFit), Ok(base));
}

#[test]
fn a_discard_that_fails_changes_nothing() {
    let source = source();
    let arena = borrower(PAGE, &source);
    let base = arena.alloc(4 * PAGE, InstantFit).unwrap();
    source.write(base, 4 * PAGE, 7);
    let failed = while_failing(&source, || arena.discard(base, 2 * PAGE));
    assert_eq!(failed, Err(SPENT));
    source.verify(base, 4 * PAGE, 7);
    arena.free(base).unwrap();
    let calls = source.lender.calls.load(SeqCst);
    assert_eq!(arena.alloc(4 * PAGE, InstantFit), Ok(base));
    assert_eq!(
        source.lender.calls.load(SeqCst),
        calls,
        "nothing to restore"
    );
}

#[test]
fn every_kind_of_allocation_restores_what_it_takes() {
    type Allocate = fn(&TestArena<'_>) -> Result<usize>;
    let kinds: [Allocate; 6] = [
        |arena| arena.alloc(3 * PAGE, InstantFit),
        |arena| arena.alloc(3 * PAGE, BestFit),
        |arena| arena.alloc(3 * PAGE, NextFit),
        |arena| arena.alloc(10 * PAGE, InstantFit),
        |arena| {
            arena
                .xalloc_at(BASE + 4 * PAGE, 2 * PAGE)
                .map(|()| BASE + 4 * PAGE)
        },
        |arena| {
            let layout = Layout::from_size_align(PAGE, PAGE).unwrap();
            arena.xalloc(layout.with_min(BASE + 9 * PAGE), InstantFit)
        },
    ];
    for (kind, allocate) in kinds.into_iter().enumerate() {
        let source = source();
        let arena = borrower(PAGE, &source);
        import_discarded(&arena, 10);
        assert_eq!(source.units_of_memory(), 0);
        let failed = while_failing(&source, || allocate(&arena));
        assert_eq!(failed, Err(SPENT), "{kind}");
        assert_eq!(
            (arena.allocated_space(), arena.largest_free()),
            (0, 10 * PAGE)
        );
        assert_eq!(source.units_of_memory(), 0);
        arena.check().unwrap();

        let base = allocate(&arena).unwrap();
        let size = arena.allocated_space();
        source.verify(base, size, 0);
        assert_eq!(source.units_of_memory(), size / PAGE, "only what it took");
        arena.check().unwrap();
        // All that is left is still restored when it is taken.
        while arena.free_space() > 0 {
            let base = arena.alloc(PAGE, InstantFit).unwrap();
            source.write(base, PAGE, 1);
        }
        arena.check().unwrap();
    }
}

#[test]
fn a_restored_segment_is_not_restored_again() {
    let source = source();
    let arena = borrower(PAGE, &source);
    import_discarded(&arena, 4);
    for _ in 0..2 {
        arena.xalloc_at(BASE, 4 * PAGE).unwrap();
        arena.free(BASE).unwrap();
    }
    assert_eq!(source.ever_restored(), 4);
    arena.xalloc_at(BASE, 4 * PAGE).unwrap();
    arena.discard(BASE, PAGE).unwrap();
    arena.restore(BASE, 4 * PAGE).unwrap();
    arena.free(BASE).unwrap();
    let calls = source.lender.calls.load(SeqCst);
    arena.xalloc_at(BASE, 4 * PAGE).unwrap();
    assert_eq!(source.lender.calls.load(SeqCst), calls);
}

#[test]
fn the_mark_survives_each_way_to_coalesce() {
    // Three segments: one discarded, freed in each order, taken again in one piece.
    for discarded in 0..3 {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            for sizes in [[1, 1, 3], [3, 1, 1]] {
                let source = source();
                let arena = borrower(PAGE, &source);
                let total = sizes.iter().sum::<usize>() * PAGE;
                import(&arena, total / PAGE);
                let mut base = BASE;
                let bases = sizes.map(|size| {
                    arena.xalloc_at(base, size * PAGE).unwrap();
                    let this = base;
                    base += size * PAGE;
                    this
                });
                arena.discard(bases[discarded], PAGE).unwrap();
                for segment in order {
                    arena.free(bases[segment]).unwrap();
                }
                assert_eq!(arena.largest_free(), total);
                arena.xalloc_at(BASE, total).unwrap();
                source.verify(BASE, total, 0);
            }
        }
    }
}

#[test]
fn growth_in_place_restores_what_it_takes() {
    for grown in [4, 10] {
        let source = source();
        let arena = borrower(PAGE, &source);
        import_discarded(&arena, 10);
        arena.xalloc_at(BASE, 2 * PAGE).unwrap();
        source.write(BASE, 2 * PAGE, 7);
        let failed = while_failing(&source, || arena.resize(BASE, grown * PAGE));
        assert_eq!(failed, Err(SPENT));
        assert_eq!(
            (arena.allocated_space(), arena.free_space()),
            (2 * PAGE, 8 * PAGE)
        );
        assert_eq!(source.units_of_memory(), 2);
        arena.check().unwrap();
        arena.resize(BASE, grown * PAGE).unwrap();
        source.verify(BASE, 2 * PAGE, 7);
        source.verify(BASE + 2 * PAGE, (grown - 2) * PAGE, 0);
        assert_eq!(source.units_of_memory(), grown);
        // What is left is still restored when it is taken.
        arena.resize(BASE, 10 * PAGE).unwrap();
        source.write(BASE, 10 * PAGE, 8);
        arena.check().unwrap();
    }
}

#[test]
fn an_extension_restores_the_free_space_that_it_takes() {
    let source = source();
    let arena = borrower(PAGE, &source);
    import_discarded(&arena, 6);
    arena.xalloc_at(BASE, 2 * PAGE).unwrap();
    source.write(BASE, 2 * PAGE, 7);
    // The restore fails, then the extension.
    for budget in 0..2 {
        source.lender.budget.store(budget, SeqCst);
        assert_eq!(arena.resize(BASE, 8 * PAGE), Err(SPENT), "{budget}");
        source.lender.budget.store(usize::MAX, SeqCst);
        assert_eq!(
            (arena.allocated_space(), arena.free_space()),
            (2 * PAGE, 4 * PAGE)
        );
        arena.check().unwrap();
    }
    arena.resize(BASE, 8 * PAGE).unwrap();
    source.verify(BASE, 2 * PAGE, 7);
    source.verify(BASE + 2 * PAGE, 6 * PAGE, 0);
    arena.check().unwrap();
}

#[test]
fn free_space_after_a_failed_extension_is_still_restored() {
    let source = source();
    let arena = borrower(PAGE, &source);
    import_discarded(&arena, 6);
    arena.xalloc_at(BASE, 2 * PAGE).unwrap();
    assert_eq!(
        while_failing(&source, || arena.resize(BASE, 8 * PAGE)),
        Err(SPENT)
    );
    arena.xalloc_at(BASE + 2 * PAGE, 4 * PAGE).unwrap();
    source.write(BASE + 2 * PAGE, 4 * PAGE, 1);
}

#[test]
fn a_failed_extension_discards_again_what_it_restored() {
    for fails_late in [false, true] {
        let mut source = source();
        source.lender.resizable = false;
        let arena = borrower(PAGE, &source);
        import_discarded(&arena, 6);
        arena.xalloc_at(BASE, 2 * PAGE).unwrap();
        assert_eq!(source.units_of_memory(), 2);
        let restored = source.ever_restored();
        // The restore succeeds. Then the extension fails, and also the discard if it is late.
        source
            .lender
            .budget
            .store(if fails_late { 1 } else { usize::MAX }, SeqCst);
        assert_eq!(arena.resize(BASE, 7 * PAGE), Err(Error::NotSupported));
        source.lender.budget.store(usize::MAX, SeqCst);
        assert_eq!(source.ever_restored(), restored + 4);
        assert_eq!(source.units_of_memory(), if fails_late { 6 } else { 2 });
        arena.check().unwrap();
        arena.xalloc_at(BASE + 2 * PAGE, 4 * PAGE).unwrap();
        source.write(BASE + 2 * PAGE, 4 * PAGE, 1);
    }
}

#[test]
fn the_tail_of_a_shrunk_segment_keeps_the_mark() {
    // With free space above the segment, and without.
    for pages in [6, 8] {
        let source = source();
        let arena = borrower(PAGE, &source);
        import(&arena, pages);
        arena.xalloc_at(BASE, 6 * PAGE).unwrap();
        arena.discard(BASE + 4 * PAGE, PAGE).unwrap();
        arena.resize(BASE, 2 * PAGE).unwrap();
        let tail = BASE + 2 * PAGE;
        arena.xalloc_at(tail, (pages - 2) * PAGE).unwrap();
        source.write(tail, (pages - 2) * PAGE, 1);
        arena.check().unwrap();
    }
}

#[test]
fn memory_that_the_source_refuses_to_take_back_keeps_the_mark() {
    let source = source();
    let arena = borrower(PAGE, &source).with_retained_spans(0);
    let base = arena.alloc(4 * PAGE, InstantFit).unwrap();
    arena.discard(base, 4 * PAGE).unwrap();
    // The tail, then the whole span.
    while_failing(&source, || arena.resize(base, 2 * PAGE)).unwrap();
    assert_eq!(arena.free_space(), 2 * PAGE);
    arena.xalloc_at(base + 2 * PAGE, 2 * PAGE).unwrap();
    source.write(base + 2 * PAGE, 2 * PAGE, 1);
    arena.discard(base + 2 * PAGE, PAGE).unwrap();
    while_failing(&source, || arena.free(base + 2 * PAGE)).unwrap();
    while_failing(&source, || arena.free(base)).unwrap();
    assert_eq!(arena.free_space(), 4 * PAGE);
    arena.xalloc_at(base, 4 * PAGE).unwrap();
    source.write(base, 4 * PAGE, 2);
    arena.free(base).unwrap();
    assert_eq!((arena.total_space(), source.units_of_memory()), (0, 0));
}

#[test]
fn spans_with_discarded_parts_go_back() {
    let source = source();
    {
        let arena = borrower(PAGE, &source);
        let base = arena.alloc(8 * PAGE, InstantFit).unwrap();
        arena.discard(base + PAGE, PAGE).unwrap();
        arena.discard(base + 6 * PAGE, PAGE).unwrap();
        arena.resize(base, 4 * PAGE).unwrap();
        assert_eq!(arena.trim(), 4 * PAGE);
        assert_eq!(source.units_of_memory(), 3);
        arena.free(base).unwrap();
        assert_eq!(arena.trim(), 4 * PAGE);
        let base = arena.alloc(2 * PAGE, InstantFit).unwrap();
        arena.discard(base, 2 * PAGE).unwrap();
        arena.free(base).unwrap();
    }
    assert_eq!(
        (source.lender.lent_space(), source.units_of_memory()),
        (0, 0)
    );
}

#[test]
fn imported_spans_are_not_restored() {
    let source = source();
    let arena = borrower(PAGE, &source).with_retained_spans(16);
    let base = arena.alloc(2 * PAGE, InstantFit).unwrap();
    arena.discard(base, 2 * PAGE).unwrap();
    arena.free(base).unwrap();
    arena.trim();
    // Its tags, and its addresses, serve again.
    let all = || -> Vec<usize> {
        let spans = (0..16).map(|_| arena.alloc(PAGE, InstantFit).unwrap());
        spans.collect()
    };
    all().iter().for_each(|&base| arena.free(base).unwrap());
    let calls = source.lender.calls.load(SeqCst);
    assert_eq!(all().len(), 16);
    assert_eq!(source.lender.calls.load(SeqCst), calls, "they are memory");
}

#[test]
fn an_arena_passes_discards_on_to_its_source() {
    let source = source();
    let lower = borrower(PAGE, &source);
    let upper = borrower(PAGE, &lower);
    let base = upper.alloc(4 * PAGE, InstantFit).unwrap();
    source.write(base, 4 * PAGE, 7);
    upper.discard(base + PAGE, 2 * PAGE).unwrap();
    assert_eq!(source.is_memory(base, 4 * PAGE), [true, false, false, true]);
    upper.restore(base + PAGE, PAGE).unwrap();
    source.verify(base, PAGE, 7);
    source.verify(base + PAGE, PAGE, 0);
    upper.free(base).unwrap();
    upper.trim();
    let base = lower.alloc(4 * PAGE, InstantFit).unwrap();
    source.write(base, 4 * PAGE, 1);
    let alone = arena(PAGE);
    alone.add_span(BASE, 4 * PAGE).unwrap();
    let upper = borrower(PAGE, &alone);
    let base = upper.alloc(PAGE, InstantFit).unwrap();
    assert_eq!(upper.discard(base, PAGE), Err(Error::NotImported { base }));
}

#[test]
fn an_arena_with_a_finer_quantum_does_not_pass_discards_on() {
    let source = source();
    let lower = borrower(0x100, &source);
    let upper = borrower(0x100, &lower);
    let base = upper.alloc(PAGE, InstantFit).unwrap();
    assert_eq!(upper.discard(base, PAGE), Err(Error::NotSupported));
    assert_eq!(upper.restore(base, PAGE), Err(Error::NotSupported));
    assert_eq!(lower.discard(base, PAGE), Ok(()));
}

/// A source of pages, for an arena with a quantum of a quarter of a page.
const UNIT: usize = PAGE / 4;

fn fine_source() -> PagedSource {
    PagedSource::new(BASE, BASE + 0xf_ffff, PAGE, UNIT)
}

#[test]
fn segments_that_share_a_page_are_memory() {
    let source = fine_source();
    let arena = borrower(UNIT, &source);
    import(&arena, 4);
    arena.xalloc_at(BASE, 4 * PAGE).unwrap();
    let unaligned = Err(Error::UnalignedPart {
        base: BASE,
        size: UNIT,
        quantum: PAGE,
    });
    assert_eq!(arena.discard(BASE, UNIT), unaligned);
    arena.discard(BASE, 4 * PAGE).unwrap();
    arena.free(BASE).unwrap();
    let failed = while_failing(&source, || arena.xalloc_at(BASE + 6 * UNIT, UNIT));
    assert_eq!(failed, Err(SPENT));
    assert_eq!(arena.largest_free(), 4 * PAGE);
    arena.check().unwrap();
    arena.xalloc_at(BASE + 6 * UNIT, UNIT).unwrap();
    source.write(BASE + 6 * UNIT, UNIT, 7);
    // The rest of its page is memory, and another allocation there leaves this one alone.
    assert_eq!(source.units_of_memory(), 4);
    arena.xalloc_at(BASE + 7 * UNIT, 3 * UNIT).unwrap();
    source.write(BASE + 7 * UNIT, 3 * UNIT, 8);
    arena.xalloc_at(BASE + UNIT, 5 * UNIT).unwrap();
    source.write(BASE + UNIT, 5 * UNIT, 9);
    source.verify(BASE + 6 * UNIT, UNIT, 7);
    source.verify(BASE + 7 * UNIT, 3 * UNIT, 8);
    arena.resize(BASE + 7 * UNIT, 6 * UNIT).unwrap();
    source.write(BASE + 7 * UNIT, 6 * UNIT, 8);
    arena.check().unwrap();
    assert_eq!(source.units_of_memory(), 16);
}

#[test]
fn a_discarded_page_is_restored_before_it_is_divided() {
    let source = fine_source();
    let arena = borrower(UNIT, &source);
    import(&arena, 4);
    arena.xalloc_at(BASE, 3 * PAGE).unwrap();
    arena.discard(BASE, 3 * PAGE).unwrap();
    let failed = while_failing(&source, || arena.resize(BASE, PAGE + UNIT));
    assert_eq!(failed, Err(SPENT));
    assert_eq!(arena.allocated_space(), 3 * PAGE);
    arena.check().unwrap();
    arena.resize(BASE, PAGE + UNIT).unwrap();
    source.verify(BASE + PAGE, PAGE, 0);
    arena.xalloc_at(BASE + PAGE + UNIT, UNIT).unwrap();
    source.write(BASE + PAGE + UNIT, UNIT, 7);
    assert!(!source.is_memory(BASE, UNIT)[0]);
    arena.check().unwrap();
}

/// A source that calls a function during a discard or a restore.
struct Meanwhile<'a> {
    source: PagedSource,
    arena: Mutex<Option<&'a TestArena<'a>>>,
    calls: fn(&TestArena<'_>),
    enabled: AtomicBool,
}

impl Meanwhile<'_> {
    fn run(&self) {
        if self.enabled.load(SeqCst) {
            // A call may come from a call, so the lock is released.
            let arena = *self.arena.lock().unwrap();
            (self.calls)(arena.unwrap());
        }
    }
}

impl Source for Meanwhile<'_> {
    fn quantum(&self) -> usize {
        self.source.quantum()
    }
    fn import(&self, layout: Layout) -> Result<usize> {
        self.source.import(layout)
    }
    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        // SAFETY: the caller keeps the contract.
        unsafe { self.source.release(base, size) }
    }
    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        // SAFETY: the caller keeps the contract.
        unsafe { self.source.extend(base, size, new_size) }
    }
    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        // SAFETY: the caller keeps the contract.
        unsafe { self.source.shrink(base, size, new_size) }
    }
    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        self.run();
        // SAFETY: the caller keeps the contract.
        unsafe { self.source.discard(base, size) }
    }
    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        self.run();
        // SAFETY: the caller keeps the contract.
        unsafe { self.source.restore(base, size) }
    }
}

/// Runs `work` on an arena of quantum `UNIT`, whose source makes `calls` during each discard and
/// restore from when `work` enables them.
fn meanwhile(
    retained: usize,
    calls: fn(&TestArena<'_>),
    work: impl FnOnce(&TestArena<'_>, &PagedSource, &AtomicBool),
) {
    // Leaked, since source and arena refer to each other.
    let source: &'static Meanwhile<'static> = Box::leak(Box::new(Meanwhile {
        source: fine_source(),
        arena: Mutex::new(None),
        calls,
        enabled: AtomicBool::new(false),
    }));
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let arena = TestArena::create("meanwhile", UNIT, Some(source), tags).unwrap();
    let arena: &'static TestArena<'static> =
        Box::leak(Box::new(arena.with_retained_spans(retained)));
    *source.arena.lock().unwrap() = Some(arena);
    work(arena, &source.source, &source.enabled);
    source.enabled.store(false, SeqCst);
    arena.check().unwrap();
}

#[test]
fn a_segment_is_resized_while_a_part_is_discarded() {
    let calls: fn(&TestArena<'_>) = |arena| {
        let busy = Err(Error::Busy { base: BASE });
        arena.check().unwrap();
        assert_eq!(arena.free(BASE), busy);
        assert_eq!(arena.free_sized(BASE, 8 * PAGE), busy);
        assert_eq!(arena.resize(BASE, 3 * PAGE), busy);
        assert_eq!(arena.resize(BASE, 4 * PAGE - UNIT), busy);
        assert_eq!(arena.discard(BASE + 3 * PAGE, PAGE), busy);
        assert_eq!(arena.restore(BASE + PAGE, 2 * PAGE), busy);
        arena.resize(BASE, 6 * PAGE).unwrap();
        arena.resize(BASE, 9 * PAGE).unwrap();
        arena.resize(BASE, 4 * PAGE).unwrap();
        arena.check().unwrap();
    };
    for retained in [0, 1] {
        meanwhile(retained, calls, |arena, source, enabled| {
            assert_eq!(arena.alloc(8 * PAGE, InstantFit), Ok(BASE));
            enabled.store(true, SeqCst);
            arena.discard(BASE + 2 * PAGE, 2 * PAGE).unwrap();
            enabled.store(false, SeqCst);
            assert!(!source.is_memory(BASE + 2 * PAGE, UNIT)[0]);
            arena.free(BASE).unwrap();
        });
    }
}

#[test]
fn an_undone_extension_discards_again_what_it_restored() {
    // The first call is the restore, after which the span cannot be extended any more.
    let calls: fn(&TestArena<'_>) = |arena| _ = arena.add_span(BASE + 6 * PAGE, PAGE);
    meanwhile(1, calls, |arena, source, enabled| {
        import_discarded(arena, 6);
        arena.xalloc_at(BASE, 2 * PAGE).unwrap();
        enabled.store(true, SeqCst);
        let occupied = Error::Occupied {
            base: BASE + 6 * PAGE,
            size: PAGE,
        };
        assert_eq!(arena.resize(BASE, 7 * PAGE), Err(occupied));
        assert_eq!(source.units_of_memory(), 2 * PAGE / UNIT);
    });
}

#[test]
fn other_parts_are_discarded_and_restored_meanwhile() {
    static DEPTH: AtomicBool = AtomicBool::new(false);
    let calls: fn(&TestArena<'_>) = |arena| {
        if !DEPTH.swap(true, SeqCst) {
            arena.discard(BASE, PAGE).unwrap();
            arena.restore(BASE + 2 * PAGE, PAGE).unwrap();
            // Still busy, since the first call goes on.
            assert_eq!(arena.free(BASE), Err(Error::Busy { base: BASE }));
            arena.check().unwrap();
        }
    };
    meanwhile(1, calls, |arena, source, enabled| {
        assert_eq!(arena.alloc(3 * PAGE, InstantFit), Ok(BASE));
        enabled.store(true, SeqCst);
        arena.discard(BASE + PAGE, PAGE).unwrap();
        assert!(!source.is_memory(BASE, UNIT)[0]);
        arena.free(BASE).unwrap();
    });
}

#[test]
fn memory_that_is_being_restored_is_not_handed_out_nor_discarded() {
    let calls: fn(&TestArena<'_>) = |arena| {
        arena.check().unwrap();
        // Neither the allocated part nor the rest of its page.
        let occupied = Err(Error::Occupied {
            base: BASE + UNIT,
            size: UNIT,
        });
        assert_eq!(arena.xalloc_at(BASE + UNIT, UNIT), occupied);
        let busy = Err(Error::Busy { base: BASE });
        assert_eq!(arena.discard(BASE, PAGE), busy);
        assert_eq!(arena.resize(BASE, UNIT), busy);
        assert_eq!(arena.resize(BASE, 3 * PAGE), busy);
        assert_eq!(arena.free(BASE), busy);
    };
    meanwhile(1, calls, |arena, source, enabled| {
        import_discarded(arena, 4);
        enabled.store(true, SeqCst);
        arena.xalloc_at(BASE, UNIT).unwrap();
        enabled.store(false, SeqCst);
        source.write(BASE, UNIT, 1);
        arena.resize(BASE, 2 * UNIT).unwrap();
    });
}

#[test]
fn memory_that_a_growing_segment_takes_is_not_discarded() {
    let calls: fn(&TestArena<'_>) = |arena| {
        arena.check().unwrap();
        let busy = Err(Error::Busy { base: BASE });
        assert_eq!(arena.discard(BASE + PAGE, PAGE), busy);
        assert_eq!(arena.resize(BASE, PAGE), busy);
        assert_eq!(arena.resize(BASE, 6 * PAGE), busy);
        assert_eq!(arena.free(BASE), busy);
    };
    // Within the span, and beyond its end.
    for pages in [3, 5] {
        meanwhile(1, calls, |arena, source, enabled| {
            import_discarded(arena, 4);
            arena.xalloc_at(BASE, PAGE).unwrap();
            enabled.store(true, SeqCst);
            arena.resize(BASE, pages * PAGE).unwrap();
            enabled.store(false, SeqCst);
            source.write(BASE, pages * PAGE, 1);
            arena.free(BASE).unwrap();
        });
    }
}

#[test]
fn a_discard_needs_no_tag_from_the_supply() {
    let source = source();
    let tags = Box::leak(Box::new(Tags::new()));
    let arena = TestArena::create("tags", PAGE, Some(&source), tags).unwrap();
    let base = arena.alloc(4 * PAGE, InstantFit).unwrap();
    tags.budget.store(0, SeqCst);
    for page in 0..4 {
        arena.discard(base + page * PAGE, PAGE).unwrap();
        arena.restore(base, 4 * PAGE).unwrap();
    }
    arena.check().unwrap();
}
