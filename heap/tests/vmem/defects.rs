//! Regression tests: each shows that the arena does not have a defect that an earlier arena of this
//! kind had.

use std::sync::atomic::Ordering::SeqCst;

use super::support::{CheckedSource, Choices, Random, Tags, TestArena, arena, borrower, satisfies};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, SegmentKind};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn neighbours_freed_in_any_order_coalesce() {
    let top = arena(0x1000);
    top.add_span(0x10_0000, 0x1000 * 512).unwrap();
    let child = borrower(0x1000, &top).with_retained_spans(0);
    let pages = [0; 4].map(|_| top.alloc(0x1000, InstantFit).unwrap());
    for page in [0, 2, 3, 1] {
        top.free(pages[page]).unwrap();
    }
    assert_eq!(top.segments().count(), 1);

    let mut random = Random::new(1);
    let mut live = Vec::new();
    for _ in 0..20_000 {
        if random.below(2) == 0 || live.is_empty() {
            live.extend(child.alloc(0x1000 * (1 + random.below(5)), InstantFit));
        } else {
            child
                .free(live.swap_remove(random.below(live.len())))
                .unwrap();
        }
    }
    for base in live {
        child.free(base).unwrap();
    }
    assert_eq!(child.borrowed_space(), 0);
    assert_eq!(top.segments().count(), 1);
}

#[test]
fn a_constrained_allocation_leaves_all_other_space_reachable() {
    let arena = arena(0x1000);
    for span in 0..8 {
        arena.add_span(0x10_0000 * (span + 1), 0x8000).unwrap();
    }
    arena.xalloc(layout(0x1000, 0x4000), InstantFit).unwrap();
    let pages = (0..)
        .take_while(|_| arena.alloc(0x1000, InstantFit).is_ok())
        .count();
    assert_eq!(pages, 8 * 8 - 1);
}

#[test]
fn the_space_before_a_constrained_allocation_stays_free() {
    let arena = arena(1);
    arena.add_span(16, 512).unwrap();
    assert_eq!(arena.xalloc(layout(64, 256), InstantFit), Ok(256));
    assert_eq!(arena.free_space(), 512 - 64);
    assert!(arena.alloc(1 << 20, InstantFit).is_err());
    assert_eq!(arena.alloc(240, InstantFit), Ok(16));
    arena.check().unwrap();
}

#[test]
fn an_alignment_near_the_last_address_does_not_wrap() {
    let arena = arena(0x1000);
    arena.add_span(usize::MAX - 0xffff, 0x1_0000).unwrap();
    for policy in [InstantFit, BestFit, NextFit] {
        let result = arena.xalloc(layout(0x1000, 1 << (usize::BITS / 2).max(20)), policy);
        assert_eq!(result, Err(Error::Empty { size: 0x1000 }));
    }
    arena.check().unwrap();
}

#[test]
fn a_phase_larger_than_the_segment_stays_inside_it() {
    let arena = arena(0x1000);
    arena.add_span(0x1000, 0x4000).unwrap();
    for phase in [0x5000, 0x3000, 0x7000, usize::MAX - 0xfff] {
        for policy in [InstantFit, BestFit, NextFit] {
            let layout = layout(0x1000, 0x8000).with_phase(phase);
            match arena.xalloc(layout, policy) {
                Ok(base) => {
                    assert!(satisfies(&layout, base) && base < 0x5000);
                    arena.free(base).unwrap();
                }
                Err(error) => assert_eq!(error, Error::Empty { size: 0x1000 }),
            }
            arena.check().unwrap();
        }
    }
}

#[test]
fn a_segment_of_exactly_the_size_is_found_before_an_import() {
    let lender = CheckedSource::new(0x100_0000, 0x1ff_ffff);
    let arena = borrower(0x1000, &lender);
    for pages in 1..200 {
        let base = arena.alloc(pages * 0x1000, InstantFit).unwrap();
        arena.free(base).unwrap();
        let imports = lender.imports();
        assert_eq!(
            arena.alloc(pages * 0x1000, InstantFit),
            Ok(base),
            "{pages} pages"
        );
        assert_eq!(lender.imports(), imports);
        arena.free(base).unwrap();
        arena.trim();
    }
}

#[test]
fn a_missing_tag_for_a_split_leaves_the_arena_unchanged() {
    let tags: &'static Tags = Box::leak(Box::new(Tags::new()));
    let arena = TestArena::create("split", 0x1000, None, tags).unwrap();
    arena.add_span(0x1000, 0x1000 * 200).unwrap();
    tags.budget.store(0, SeqCst);
    while arena.alloc(0x1000, InstantFit).is_ok() {}
    let free = arena.free_space();
    for policy in [InstantFit, BestFit, NextFit] {
        let middle = layout(0x1000, 0x1000).with_min(0x9_0000);
        assert_eq!(arena.xalloc(middle, policy), Err(Error::AllocatorError));
        assert_eq!(arena.alloc(1 << 30, policy), Err(Error::AllocatorError));
    }
    assert_eq!(arena.free_space(), free);
    arena.check().unwrap();
}

#[test]
fn a_freed_tag_is_not_read_and_the_released_size_is_right() {
    // `Tags` overwrites each returned tag, and `CheckedSource` verifies each size.
    let lender = CheckedSource::new(0x10_0000, 0xff_ffff);
    let arena = borrower(0x1000, &lender)
        .with_retained_spans(0)
        .with_min_import(0x10_000);
    let mut random = Random::new(8);
    for _ in 0..200 {
        let mut live: Vec<_> = (0..20)
            .filter_map(|_| arena.alloc(0x1000 * (1 + random.below(30)), BestFit).ok())
            .collect();
        while !live.is_empty() {
            arena
                .free(live.swap_remove(random.below(live.len())))
                .unwrap();
            arena.check().unwrap();
        }
        assert_eq!(lender.lent(), []);
    }
}

#[test]
fn the_cursor_of_next_fit_survives_the_release_of_its_span() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender).with_retained_spans(0);
    for _ in 0..10 {
        let base = arena.alloc(0x3000, NextFit).unwrap();
        arena.free(base).unwrap();
        assert_eq!(arena.total_space(), 0);
        arena.check().unwrap();
    }
    arena.add_span(0, 0x2000).unwrap();
    assert_eq!(arena.alloc(0x1000, NextFit), Ok(0));
}

#[test]
fn sizes_that_overflow_are_errors_and_the_lock_is_released() {
    let arena = arena(0x1000);
    arena.add_span(0x1000, 0x1000).unwrap();
    let half = 1 << (usize::BITS - 1);
    for policy in [InstantFit, BestFit, NextFit] {
        for size in [usize::MAX, usize::MAX - 0xffe] {
            assert_eq!(arena.alloc(size, policy), Err(Error::SizeOverflow { size }));
        }
        for size in [usize::MAX - 0xfff, half + 0x1000, half] {
            assert_eq!(arena.alloc(size, policy), Err(Error::Empty { size }));
            let layout = layout(size, half);
            assert!(arena.xalloc(layout, policy).is_err());
        }
    }
    assert_eq!(arena.alloc(0x1000, InstantFit), Ok(0x1000));
}

#[test]
fn overlapping_spans_are_refused() {
    let arena = arena(1);
    arena.add_span(100, 100).unwrap();
    for (base, len) in [
        (100, 100),
        (0, 101),
        (199, 1),
        (150, 10),
        (50, 500),
        (0, 200),
    ] {
        let other = 100;
        let expected = Err(Error::OverlappingSpan { base, len, other });
        assert_eq!(arena.add_span(base, len), expected);
    }
    arena.add_span(0, 100).unwrap();
    arena.add_span(200, 1).unwrap();
    assert_eq!(arena.total_space(), 201);
    arena.check().unwrap();
}

// Miri reports a violation of the aliasing rules here. `sanitizers.sh` runs this test by its name.
#[test]
fn operations_keep_the_aliasing_rules_that_miri_checks() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    arena.add_span(0x1000, 0x8000).unwrap();
    let mut random = Random::new(12);
    let mut live = Vec::new();
    for _ in 0..60 {
        let policy = random.pick(&[InstantFit, BestFit, NextFit]);
        live.extend(arena.alloc(0x1000 * (1 + random.below(3)), policy));
        let layout = layout(0x1000, 0x1000 << random.below(3));
        live.extend(arena.xalloc(layout, policy));
        let block = random.below(live.len());
        let _ = arena.resize(live[block], 0x1000 * (1 + random.below(4)));
        if live.len() > 4 {
            arena.free(live.swap_remove(block)).unwrap();
        }
    }
    for base in live {
        arena.free(base).unwrap();
    }
    arena.trim();
    arena.check().unwrap();
    assert_eq!(lender.lent(), []);
    assert_eq!(arena.largest_free(), 0x8000);
}

#[test]
fn a_constrained_search_goes_beyond_the_first_free_list() {
    let arena = arena(0x1000);
    for span in 0..20 {
        arena.add_span(0x1000 + span * 0x10_0000, 0x2000).unwrap();
    }
    arena.add_span(0x1000_0000, 0x10_0000).unwrap();
    for policy in [InstantFit, BestFit, NextFit] {
        let base = arena.xalloc(layout(0x1000, 0x4_0000), policy).unwrap();
        assert_eq!(base % 0x4_0000, 0);
        arena.free(base).unwrap();
    }
}

#[test]
fn min_and_max_bound_the_whole_range() {
    let arena = arena(1);
    arena.add_span(0, 1000).unwrap();
    for policy in [InstantFit, BestFit, NextFit] {
        let fits = layout(10, 1).with_min(500).with_max(509);
        assert_eq!(arena.xalloc(fits, policy), Ok(500));
        arena.free(500).unwrap();
        let tight = layout(10, 1).with_min(500).with_max(508);
        assert_eq!(
            arena.xalloc(tight, policy),
            Err(Error::Unsatisfiable { size: 10 })
        );
        let crossed = layout(1, 1).with_min(2).with_max(1);
        assert_eq!(
            arena.xalloc(crossed, policy),
            Err(Error::Unsatisfiable { size: 1 })
        );
    }
}

#[test]
fn nocross_concerns_the_last_address_and_keeps_the_phase() {
    let arena = arena(1);
    arena.add_span(60, 100).unwrap();
    let ends_at_boundary = layout(4, 1).with_nocross(64).unwrap();
    assert_eq!(arena.xalloc(ends_at_boundary, InstantFit), Ok(60));
    let moved = layout(20, 16).with_phase(3).with_nocross(32).unwrap();
    assert_eq!(arena.xalloc(moved, InstantFit), Ok(67));
    arena.check().unwrap();
}

#[test]
fn a_missing_tag_after_an_import_releases_the_import() {
    for budget in 0..12 {
        let tags: &'static Tags = Box::leak(Box::new(Tags::limited(budget)));
        let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
        let arena = TestArena::create("poor", 0x1000, Some(&lender), tags)
            .unwrap()
            .with_min_import(0x8000);
        while arena.alloc(0x3000, InstantFit).is_ok() {}
        assert_eq!(lender.lent_space(), arena.borrowed_space(), "{budget} tags");
        arena.check().unwrap();
    }
}

#[test]
fn next_fit_keeps_the_front_piece_free_and_wraps() {
    let arena = arena(1);
    arena.add_span(100, 20).unwrap();
    assert_eq!(arena.alloc(5, NextFit), Ok(100));
    arena.free(100).unwrap();
    assert_eq!(
        arena.alloc(5, NextFit),
        Ok(105),
        "the segment that was just freed is not reused"
    );
    assert_eq!(arena.free_space(), 15);
    assert_eq!(arena.alloc(10, NextFit), Ok(110));
    assert_eq!(
        arena.alloc(5, NextFit),
        Ok(100),
        "the front piece is reused after the wrap"
    );
    assert_eq!(arena.free_space(), 0);
}

#[test]
fn dropping_an_arena_does_not_release_live_allocations() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    let arena = borrower(0x1000, &lender);
    let base = arena.alloc(0x1000, InstantFit).unwrap();
    drop(arena);
    assert_eq!(lender.lent(), [(base, 0x1000)]);
}

#[test]
fn a_zero_sized_constrained_allocation_is_refused() {
    let arena = arena(1);
    arena.add_span(0, 100).unwrap();
    assert_eq!(
        arena.xalloc(Layout::new::<()>(), InstantFit),
        Err(Error::AllocZeroSize)
    );
    assert_eq!(arena.alloc(0, BestFit), Err(Error::AllocZeroSize));
    assert_eq!(Layout::from_size_align(0, 8), None);
}

#[test]
fn the_last_page_of_the_address_space_is_usable() {
    let arena = arena(0x1000);
    let top = usize::MAX - 0xfff;
    arena.add_span(top, 0x1000).unwrap();
    arena.add_span(0, 0x1000).unwrap();
    assert!(arena.contains(usize::MAX) && arena.contains(0));
    let max = layout(0x1000, 0x1000).with_min(top).with_max(usize::MAX);
    assert_eq!(arena.xalloc(max, NextFit), Ok(top));
    assert_eq!(arena.alloc(0x1000, NextFit), Ok(0), "the cursor wraps");
    assert_eq!(
        arena.segment_of(usize::MAX).unwrap().kind,
        SegmentKind::Allocated
    );
    arena.check().unwrap();
}

#[test]
fn pairs_of_alloc_and_free_do_not_import_each_time() {
    let lender = CheckedSource::new(0x10_0000, 0xfff_ffff);
    let arena = borrower(0x1000, &lender);
    let mut random = Random::new(21);
    for size in [1, 16, 64, 100, 1000].map(|pages| pages * 0x1000) {
        let before = lender.imports();
        for _ in 0..100 {
            let policy = random.pick(&[InstantFit, BestFit, NextFit]);
            let base = arena.alloc(size, policy).unwrap();
            arena.free(base).unwrap();
        }
        assert!(lender.imports() <= before + 1);
    }
}

#[test]
fn error_messages_say_what_happened() {
    let arena = arena(0x10).with_limit(0x300);
    arena.add_span(0x100, 0x100).unwrap();
    let used = arena.alloc(0x20, InstantFit).unwrap();
    let texts = [
        (
            TestArena::create("bad", 3, None, Box::leak(Box::new(Tags::new()))).map(drop),
            "the quantum 0x3 is not a power of two",
        ),
        (arena.alloc(0x200, BestFit).map(drop), "no room for 0x200"),
        (
            arena.xalloc(layout(8, 8).with_phase(1), BestFit).map(drop),
            "no address satisfies the constraints on size 0x8",
        ),
        (arena.alloc(0, BestFit).map(drop), "a size of zero"),
        (arena.free(0x1f0), "nothing is allocated at 0x1f0"),
        (
            arena.free_sized(used, 0x40),
            "the allocation at 0x100 has size 0x20, not 0x40",
        ),
        (
            arena.xalloc_at(0x110, 0x10),
            "the range at 0x110 of size 0x10 is not free",
        ),
        (
            arena.xalloc_at(0x121, 0x10),
            "the address 0x121 is not a multiple of the quantum 0x10",
        ),
        (
            arena.add_span(0x101, 0x10),
            "a span at 0x101 of length 0x10 is not in multiples of the quantum 0x10",
        ),
        (
            arena.add_span(0x1f0, 0x20),
            "a span at 0x1f0 of length 0x20 overlaps the span at 0x100",
        ),
        (
            arena.add_span(0x1000, 0x210),
            "a total of 0x310 is above the limit 0x300",
        ),
        (arena.import(layout(0x10, 0x10)), "the arena has no source"),
        (Err(Error::AllocatorError), "no boundary tags left"),
        (
            Err(Error::Busy { base: 0x10 }),
            "another operation on 0x10 is in progress",
        ),
        (Err(Error::NotSupported), "not supported by the source"),
        (Err(Error::Other("the source's own")), "the source's own"),
    ];
    for (result, text) in texts {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
    let size = usize::MAX;
    assert_eq!(
        arena.alloc(size, BestFit).unwrap_err().to_string(),
        format!("the size {size:#x} is more than the address space")
    );
    let base = usize::MAX - 0xf;
    assert_eq!(
        arena.add_span(base, 0x20).unwrap_err().to_string(),
        format!("a span at {base:#x} of length 0x20 passes the last address")
    );
}

#[test]
fn constrained_allocations_return_the_error_of_the_source() {
    let lender = CheckedSource::new(0x10_0000, 0x1f_ffff);
    lender.budget.store(0, SeqCst);
    let arena = borrower(0x1000, &lender);
    let failure = Err(Error::Other("the source fails, as the test wants"));
    assert_eq!(arena.xalloc(layout(0x1000, 0x4000), BestFit), failure);
    assert_eq!(arena.import(layout(0x1000, 0x4000)).map(|()| 0), failure);

    // A range that the source refuses to take back stays in the arena …
    lender.budget.store(1, SeqCst);
    let arena = arena.with_retained_spans(0);
    let base = arena.alloc(0x3000, InstantFit).unwrap();
    arena.free(base).unwrap();
    assert_eq!(lender.lent_space(), 0x3000);
    assert_eq!(arena.xalloc_at(base, 0x3000), Ok(()));

    // … and an arena that is a source takes back only a range with the size that it lent.
    let lent = &arena as &dyn heap::vmem::Source;
    // SAFETY: an arena verifies the size of a release, and here the range stands for no memory.
    let wrong = unsafe { lent.release(base, 0x2000) };
    let (expected, found) = (0x3000, 0x2000);
    assert_eq!(
        wrong,
        Err(Error::WrongSize {
            base,
            expected,
            found
        })
    );
    arena.check().unwrap();
}
