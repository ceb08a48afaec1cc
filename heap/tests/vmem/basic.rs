//! The basic operations of an arena.

use super::support::{CheckedSource, arena, borrower};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Segment, SegmentKind, SpanExtent};

const POLICIES: [heap::vmem::AllocPolicy; 3] = [InstantFit, BestFit, NextFit];

#[test]
fn allocations_are_disjoint_until_the_span_is_full() {
    for policy in POLICIES {
        let arena = arena(0x1000);
        arena.add_span(0x10_0000, 0x1_0000).unwrap();
        let mut bases: Vec<_> = (0..16).map(|_| arena.alloc(1, policy).unwrap()).collect();
        assert_eq!(
            arena.alloc(1, policy),
            Err(Error::Empty { size: 1 }),
            "{policy:?}"
        );
        bases.sort_unstable();
        assert!(
            bases
                .iter()
                .enumerate()
                .all(|(i, &base)| base == 0x10_0000 + i * 0x1000)
        );
        assert_eq!(arena.free_space(), 0);
        for base in bases {
            arena.free(base).unwrap();
            arena.check().unwrap();
        }
        assert_eq!(arena.largest_free(), 0x1_0000);
        assert_eq!(arena.total_space(), 0x1_0000);
        assert_eq!(arena.allocated_space(), 0);
    }
}

#[test]
fn all_24_orders_of_freeing_four_neighbours_coalesce() {
    let mut orders = 0;
    for order in 0..256usize {
        let order = [order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6];
        if (0..4).any(|block| !order.contains(&block)) {
            continue;
        }
        orders += 1;
        let arena = arena(0x1000);
        arena.add_span(0x1000, 0x4000).unwrap();
        let blocks = [0; 4].map(|_| arena.alloc(0x1000, InstantFit).unwrap());
        for block in order {
            arena.free(blocks[block]).unwrap();
            arena.check().unwrap();
        }
        assert_eq!(arena.largest_free(), 0x4000, "{order:?}");
        assert_eq!(arena.segments().count(), 1);
    }
    assert_eq!(orders, 24);
}

#[test]
fn neighbouring_spans_do_not_coalesce() {
    let arena = arena(0x1000);
    arena.add_span(0x1000, 0x1000).unwrap();
    arena.add_span(0x2000, 0x1000).unwrap();
    assert_eq!(arena.largest_free(), 0x1000);
    assert_eq!(
        arena.alloc(0x2000, InstantFit),
        Err(Error::Empty { size: 0x2000 })
    );
    let a = arena.alloc(0x1000, InstantFit).unwrap();
    let b = arena.alloc(0x1000, InstantFit).unwrap();
    arena.free(a).unwrap();
    arena.free(b).unwrap();
    assert_eq!(arena.segments().count(), 2);
    arena.check().unwrap();
}

#[test]
fn segments_are_listed_in_address_order_with_their_spans() {
    let arena = arena(0x10);
    arena.add_span(0x1000, 0x100).unwrap();
    arena.add_span(0x400, 0x20).unwrap();
    arena.xalloc_at(0x1040, 0x20).unwrap();
    let span = SpanExtent {
        base: 0x1000,
        last: 0x10ff,
        borrowed: false,
    };
    let segment = |base, last, kind| Segment {
        base,
        last,
        kind,
        span,
    };
    let expected = [
        Segment {
            base: 0x400,
            last: 0x41f,
            kind: SegmentKind::Free,
            span: SpanExtent {
                base: 0x400,
                last: 0x41f,
                borrowed: false,
            },
        },
        segment(0x1000, 0x103f, SegmentKind::Free),
        segment(0x1040, 0x105f, SegmentKind::Allocated),
        segment(0x1060, 0x10ff, SegmentKind::Free),
    ];
    assert_eq!(arena.segments().collect::<Vec<_>>(), expected);
    assert_eq!(arena.segment_of(0x105f), Some(expected[2]));
    assert_eq!(arena.segment_of(0x1060), Some(expected[3]));
    assert_eq!(arena.try_segment_of(0x1100), Some(None));
    assert!(arena.contains(0x41f) && !arena.contains(0x420) && !arena.contains(0xfff));
}

#[test]
fn segments_are_listed_across_batches_while_they_change() {
    let arena = arena(1);
    arena.add_span(1000, 1000).unwrap();
    let mut blocks: Vec<_> = (0..200)
        .map(|_| arena.alloc(5, InstantFit).unwrap())
        .collect();
    blocks.sort_unstable();
    for pair in blocks.chunks(2) {
        arena.free(pair[0]).unwrap();
    }
    let mut last = 999;
    let mut seen = 0;
    for segment in arena.segments() {
        assert_eq!(segment.base, last + 1);
        last = segment.last;
        seen += 1;
        if seen == 150 {
            break;
        }
    }
    // All segments coalesce. The iterator continues at the next address.
    let mut segments = arena.segments();
    let first = segments.by_ref().take(16).last().unwrap();
    for pair in blocks.chunks(2) {
        arena.free(pair[1]).unwrap();
    }
    let rest: Vec<_> = segments.collect();
    assert_eq!(
        rest.len(),
        1,
        "one free segment is left, and contains all later addresses"
    );
    assert_eq!(
        (rest[0].base, rest[0].last),
        (first.last + 1, 1999),
        "and the iterator returns only its later addresses"
    );
}

#[test]
fn a_segment_that_coalesces_with_listed_ones_is_cut_off() {
    let arena = arena(0x10);
    arena.add_span(0x1000, 0x1000).unwrap();
    let bases: Vec<_> = (0..0x100)
        .map(|_| arena.alloc(0x10, InstantFit).unwrap())
        .collect();
    for merged in 1..40 {
        // The segments up to `merged` are listed. The last of them then coalesces with the next.
        let mut listing = arena.segments();
        let mut listed: Vec<_> = listing.by_ref().take(merged).collect();
        arena.free(bases[merged - 1]).unwrap();
        arena.free(bases[merged]).unwrap();
        listed.extend(listing);
        assert!(
            listed.windows(2).all(|pair| pair[0].last < pair[1].base),
            "{merged}: {listed:x?}"
        );
        assert_eq!(listed.last().unwrap().last, 0x1fff);
        arena.xalloc_at(bases[merged - 1], 0x10).unwrap();
        arena.xalloc_at(bases[merged], 0x10).unwrap();
    }
}

#[test]
fn xalloc_at_allocates_only_ranges_that_are_free() {
    let arena = arena(0x1000);
    arena.add_span(0x1_0000, 0x8000).unwrap();
    arena.xalloc_at(0x1_2000, 0x1fff).unwrap();
    let occupied = |base, size| Err(Error::Occupied { base, size });
    assert_eq!(
        arena.xalloc_at(0x1_3000, 0x1000),
        occupied(0x1_3000, 0x1000)
    );
    assert_eq!(
        arena.xalloc_at(0x1_1000, 0x2000),
        occupied(0x1_1000, 0x2000)
    );
    assert_eq!(
        arena.xalloc_at(0x1_7000, 0x2000),
        occupied(0x1_7000, 0x2000)
    );
    assert_eq!(
        arena.xalloc_at(0x2_0000, 0x1000),
        occupied(0x2_0000, 0x1000)
    );
    assert_eq!(
        arena.xalloc_at(0x1_0800, 0x1000),
        Err(Error::UnalignedBase {
            base: 0x1_0800,
            quantum: 0x1000
        })
    );
    assert_eq!(
        arena.xalloc_at(usize::MAX - 0xfff, 0x2000),
        Err(Error::SizeOverflow { size: 0x2000 })
    );
    arena.xalloc_at(0x1_0000, 0x2000).unwrap();
    arena.xalloc_at(0x1_4000, 0x4000).unwrap();
    assert_eq!(arena.free_space(), 0);
    arena.check().unwrap();
}

#[test]
fn a_bad_free_is_an_error_and_changes_nothing() {
    let arena = arena(0x1000);
    arena.add_span(0x1_0000, 0x8000).unwrap();
    let base = arena.alloc(0x3000, InstantFit).unwrap();
    let before: Vec<_> = arena.segments().collect();
    let none = |base| Err(Error::NoSuchAllocation { base });
    assert_eq!(arena.free(base + 0x1000), none(base + 0x1000), "interior");
    assert_eq!(arena.free(base + 1), none(base + 1), "unaligned");
    assert_eq!(arena.free(0xdead_0000), none(0xdead_0000), "foreign");
    assert_eq!(arena.free(base + 0x3000), none(base + 0x3000), "free");
    for wrong in [0x2000, 0x3001] {
        assert_eq!(
            arena.free_sized(base, wrong),
            Err(Error::WrongSize {
                base,
                expected: 0x3000,
                found: wrong
            })
        );
    }
    assert_eq!(arena.free_sized(base, 0), Err(Error::AllocZeroSize));
    assert_eq!(
        arena.free_sized(base, usize::MAX),
        Err(Error::SizeOverflow { size: usize::MAX })
    );
    assert_eq!(arena.segments().collect::<Vec<_>>(), before);
    arena.free_sized(base, 0x2fff).unwrap();
    assert_eq!(arena.free(base), none(base), "double");
    arena.check().unwrap();
}

#[test]
fn each_kind_of_bad_span_is_refused_with_its_error() {
    let arena = arena(0x1000);
    let unaligned = |base, len| {
        Err(Error::UnalignedSpan {
            base,
            len,
            quantum: 0x1000,
        })
    };
    assert_eq!(arena.add_span(0x1000, 0), Err(Error::AllocZeroSize));
    assert_eq!(arena.add_span(0x1001, 0x1000), unaligned(0x1001, 0x1000));
    assert_eq!(arena.add_span(0x1000, 0x1fff), unaligned(0x1000, 0x1fff));
    let top = usize::MAX - 0xfff;
    assert_eq!(
        arena.add_span(top, 0x2000),
        Err(Error::WrappingSpan {
            base: top,
            len: 0x2000
        })
    );
    assert_eq!(arena.total_space(), 0);
    arena.check().unwrap();
}

#[test]
fn added_spans_do_not_exceed_the_limit() {
    let arena = arena(0x1000).with_limit(0x3000);
    arena.add_span(0x1000, 0x2000).unwrap();
    assert_eq!(
        arena.add_span(0x8000, 0x2000),
        Err(Error::LimitReached {
            limit: 0x3000,
            total: 0x4000
        })
    );
    arena.add_span(0x8000, 0x1000).unwrap();
    assert_eq!(arena.total_space(), 0x3000);
}

#[test]
fn the_total_size_of_all_spans_may_be_usize_max() {
    let arena = arena(1);
    let half = 1 << (usize::BITS - 1);
    arena.add_span(0, half).unwrap();
    assert_eq!(
        arena.add_span(half, half),
        Err(Error::SizeOverflow { size: half })
    );
    arena.add_span(half, half - 1).unwrap();
    assert_eq!(arena.total_space(), usize::MAX);
    assert_eq!(arena.alloc(half, BestFit), Ok(0));
    assert_eq!(arena.alloc(half, BestFit), Err(Error::Empty { size: half }));
    assert_eq!(arena.alloc(half - 1, BestFit), Ok(half));
    arena.check().unwrap();
}

#[test]
fn best_fit_takes_the_smallest_segment_that_fits() {
    let arena = arena(1);
    for (base, len) in [(1000, 50), (2000, 41), (3000, 40), (4000, 43), (5000, 300)] {
        arena.add_span(base, len).unwrap();
    }
    assert_eq!(arena.alloc(40, BestFit), Ok(3000));
    assert_eq!(arena.alloc(40, BestFit), Ok(2000));
    assert_eq!(arena.alloc(42, BestFit), Ok(4000));
    assert_eq!(arena.alloc(40, BestFit), Ok(1000));
    assert_eq!(arena.alloc(40, BestFit), Ok(5000));
}

#[test]
fn best_fit_continues_in_the_next_size_class() {
    let lender = CheckedSource::new(0x1_0000, 0x1_ffff);
    let arena = borrower(1, &lender);
    // 64 to 71 are one size class, 72 to 79 the next.
    for (base, len) in [(2000, 78), (3000, 76), (4000, 79)] {
        arena.add_span(base, len).unwrap();
    }
    // These are more segments than an instant fit probes before an import.
    for base in (10_000..20_000).step_by(100) {
        arena.add_span(base, 65).unwrap();
    }
    assert_eq!(arena.alloc(70, BestFit), Ok(3000));
    assert_eq!(arena.alloc(70, BestFit), Ok(2000));
    assert_eq!(arena.alloc(70, BestFit), Ok(4000));
    assert_eq!(lender.imports(), 0);
    arena.alloc(70, BestFit).unwrap();
    assert_eq!(lender.imports(), 1);
}

#[test]
fn best_fit_with_constraints_takes_the_smallest_that_fits() {
    let arena = arena(1);
    for (base, len) in [(1001, 40), (1990, 50), (3000, 70)] {
        arena.add_span(base, len).unwrap();
    }
    // The smallest segment lies below the bound. Of the others, the second has room above it.
    let layout = Layout::from_size_align(40, 1).unwrap().with_min(2000);
    assert_eq!(arena.xalloc(layout, BestFit), Ok(2000));
    assert_eq!(arena.xalloc(layout, BestFit), Ok(3000));
}

#[test]
fn next_fit_reuses_no_address_before_it_wraps() {
    let arena = arena(1);
    arena.add_span(100, 10).unwrap();
    arena.add_span(200, 10).unwrap();
    let expected: Vec<_> = (100..110).chain(200..210).collect();
    for round in 0..3 {
        for &id in &expected {
            let got = arena.alloc(1, NextFit).unwrap();
            assert_eq!(got, id, "round {round}");
            arena.free(got).unwrap();
            arena.check().unwrap();
        }
    }
}

#[test]
fn next_fit_finds_room_below_its_cursor_in_the_same_segment() {
    let arena = arena(1);
    arena.add_span(100, 10).unwrap();
    let first = arena.alloc(6, NextFit).unwrap();
    arena.free(first).unwrap();
    // There is no room for 6 at 106, but there is at 100.
    assert_eq!(arena.alloc(6, NextFit), Ok(100));
}

#[test]
fn other_policies_do_not_move_the_cursor_of_next_fit() {
    let arena = arena(1);
    arena.add_span(100, 100).unwrap();
    assert_eq!(arena.alloc(1, NextFit), Ok(100));
    arena.xalloc_at(150, 10).unwrap();
    assert_eq!(arena.alloc(30, BestFit), Ok(160));
    assert_eq!(arena.alloc(40, InstantFit), Ok(101));
    assert_eq!(arena.alloc(1, NextFit), Ok(141), "the next free address");
    arena.free(101).unwrap();
    assert_eq!(arena.alloc(1, NextFit), Ok(142));
    arena.check().unwrap();
}

#[test]
fn an_arena_is_debug_and_names_itself() {
    let arena = arena(8);
    assert_eq!(arena.label(), "test");
    assert_eq!(arena.quantum(), 8);
    assert!(format!("{arena:?}").contains("test"));
}
