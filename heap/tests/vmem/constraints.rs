//! Constrained allocation with every policy, compared with the definition of the constraints.

use super::support::{Choices, Random, TestArena, arena, satisfies};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, SegmentKind};

/// Returns whether some base in a free segment satisfies the layout.
fn possible(arena: &TestArena<'_>, layout: &Layout) -> bool {
    arena
        .segments()
        .filter(|segment| segment.kind == SegmentKind::Free)
        .any(|segment| {
            (segment.base..=segment.last)
                .filter(|base| base % arena.quantum() == 0)
                .any(|base| satisfies(layout, base) && base + layout.size() - 1 <= segment.last)
        })
}

fn random_layout(random: &mut Random, space: usize) -> Layout {
    let most = if random.chance(3) { space } else { 9 };
    let size = 1 + random.below(most);
    let mut layout = Layout::from_size_align(size, 1 << random.below(6)).unwrap();
    if random.chance(3) {
        layout = layout.with_phase(random.below(80));
    }
    if random.chance(3) {
        layout = layout.with_nocross(1 << random.below(7)).unwrap_or(layout);
    }
    if random.chance(3) {
        layout = layout.with_min(random.below(space));
    }
    if random.chance(3) {
        layout = layout.with_max(random.below(space + 20));
    }
    layout
}

#[test]
fn a_constrained_allocation_succeeds_exactly_if_a_base_exists() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let quantum = random.pick(&[1, 1, 2, 8]);
        let arena = arena(quantum);
        let low = random.below(4) * quantum;
        arena.add_span(low, 16 * quantum).unwrap();
        arena.add_span(low + 16 * quantum, 5 * quantum).unwrap();
        arena.add_span(low + 24 * quantum, 40 * quantum).unwrap();
        let mut live = Vec::new();
        for step in 0..120 {
            if random.chance(3) && !live.is_empty() {
                let (base, size) = live.swap_remove(random.below(live.len()));
                arena.free_sized(base, size).unwrap();
            } else {
                let layout = random_layout(&mut random, 70 * quantum);
                let policy = random.pick(&[InstantFit, BestFit, NextFit]);
                let possible = possible(&arena, &layout);
                match arena.xalloc(layout, policy) {
                    Ok(base) => {
                        assert!(
                            satisfies(&layout, base),
                            "seed {seed} step {step}: {layout:?}"
                        );
                        live.push((base, layout.size()));
                    }
                    Err(Error::Empty { .. } | Error::Unsatisfiable { .. }) => assert!(
                        !possible,
                        "seed {seed} step {step}: {policy:?} {layout:?} {:?}",
                        arena.segments().collect::<Vec<_>>()
                    ),
                    Err(error) => panic!("seed {seed} step {step}: {error}"),
                }
            }
            arena
                .check()
                .unwrap_or_else(|corruption| panic!("seed {seed} step {step}: {corruption}"));
        }
        for (base, size) in live {
            arena.free_sized(base, size).unwrap();
        }
        assert_eq!(arena.segments().count(), 3, "seed {seed}");
    }
}

/// Returns every layout of size one to three with constraints that matter in a span of eight.
fn small_layouts() -> impl Iterator<Item = Layout> {
    let phases = [None, Some(1), Some(3)];
    let nocrosses = [None, Some(2), Some(4)];
    let bounds = [
        (None, None),
        (Some(3), None),
        (None, Some(4)),
        (Some(2), Some(5)),
    ];
    (1..=3).flat_map(move |size| {
        [1, 2, 4].into_iter().flat_map(move |align| {
            phases.into_iter().flat_map(move |phase| {
                nocrosses.into_iter().flat_map(move |nocross| {
                    bounds.into_iter().filter_map(move |(min, max)| {
                        let mut layout = Layout::from_size_align(size, align)?;
                        if let Some(phase) = phase {
                            layout = layout.with_phase(phase);
                        }
                        if let Some(nocross) = nocross {
                            layout = layout.with_nocross(nocross)?;
                        }
                        if let Some(min) = min {
                            layout = layout.with_min(min);
                        }
                        if let Some(max) = max {
                            layout = layout.with_max(max);
                        }
                        Some(layout)
                    })
                })
            })
        })
    })
}

#[test]
fn every_layout_is_served_exactly_if_possible_in_a_small_arena() {
    let mut granted = 0;
    for occupied in 0..256usize {
        let arena = arena(1);
        arena.add_span(0, 8).unwrap();
        for base in (0..8).filter(|base| occupied >> base & 1 != 0) {
            arena.xalloc_at(base, 1).unwrap();
        }
        let before: Vec<_> = arena.segments().collect();
        for layout in small_layouts() {
            let fits = |base: usize| {
                let range = ((1 << layout.size()) - 1) << base;
                base + layout.size() <= 8 && occupied & range == 0 && satisfies(&layout, base)
            };
            let possible = (0..8).any(fits);
            for policy in [InstantFit, BestFit, NextFit] {
                let result = arena.xalloc(layout, policy);
                let case = format!("{occupied:08b} {policy:?} {layout:?}: {result:?}");
                match result {
                    Ok(base) => {
                        assert!(fits(base), "{case}");
                        arena.free(base).unwrap();
                        granted += 1;
                    }
                    Err(Error::Empty { .. } | Error::Unsatisfiable { .. }) => {
                        assert!(!possible, "{case}");
                    }
                    Err(_) => panic!("{case}"),
                }
            }
            assert_eq!(arena.segments().collect::<Vec<_>>(), before, "{layout:?}");
        }
        arena.check().unwrap();
    }
    assert!(granted > 10_000, "{granted}");
}

#[test]
fn layouts_with_bad_alignment_or_boundary_are_none() {
    for align in [0, 3, 6, usize::MAX] {
        assert_eq!(Layout::from_size_align(1, align), None);
    }
    let layout = Layout::from_size_align(5, 1).unwrap();
    for nocross in [0, 4, 6, usize::MAX] {
        assert_eq!(layout.with_nocross(nocross), None);
    }
}

#[test]
fn best_fit_takes_the_smallest_segment_that_meets_constraints() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let arena = arena(1);
        let mut base = 0;
        while base < 4000 {
            let len = 1 + random.below(150);
            arena.add_span(base, len).unwrap();
            base += len + random.below(3);
        }
        for _ in 0..40 {
            let layout = random_layout(&mut random, 150);
            let smallest = arena
                .segments()
                .filter(|segment| segment.kind == SegmentKind::Free)
                .filter(|segment| {
                    (segment.base..=segment.last).any(|base| {
                        satisfies(&layout, base) && base + layout.size() - 1 <= segment.last
                    })
                })
                .map(|segment| segment.last - segment.base)
                .min();
            let before: Vec<_> = arena.segments().collect();
            let chosen = arena.xalloc(layout, BestFit).ok().map(|base| {
                let segment = before
                    .iter()
                    .find(|segment| segment.base <= base && base <= segment.last)
                    .unwrap();
                segment.last - segment.base
            });
            assert_eq!(chosen, smallest, "seed {seed}: {layout:?}");
        }
    }
}

#[test]
fn an_alignment_larger_than_the_span_can_be_met() {
    let arena = arena(0x1000);
    arena.add_span(0x4000_0000, 0x2000).unwrap();
    arena.add_span(0x1000, 0x2000).unwrap();
    let layout = Layout::from_size_align(0x1000, 0x4000_0000).unwrap();
    assert_eq!(arena.xalloc(layout, InstantFit), Ok(0x4000_0000));
    for policy in [InstantFit, BestFit, NextFit] {
        assert_eq!(
            arena.xalloc(layout, policy),
            Err(Error::Empty { size: 0x1000 })
        );
    }
    let phased = layout.with_phase(0x4000_2000);
    assert_eq!(arena.xalloc(phased, InstantFit), Ok(0x2000));
}

#[test]
fn all_segments_are_probed_if_the_source_has_no_range() {
    let empty = super::support::CheckedSource::new(0, 0);
    let arena = super::support::borrower(1, &empty);
    // A hundred segments of the right size class are too small, and one fits.
    for number in 0..101 {
        arena
            .add_span(number * 100, if number == 0 { 67 } else { 64 })
            .unwrap();
    }
    assert_eq!(arena.alloc(66, InstantFit), Ok(0));
    arena.check().unwrap();
}
