//! Programs on arenas, chosen at random or by a fuzzer, and a shadow that records each allocation.
#![allow(dead_code, reason = "the fuzzer uses a part of it")]

use std::collections::BTreeMap;

use super::support::{Choices, Random, TestArena, satisfies};
use crate::common::programs::tell;
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{AllocPolicy, Error, Layout, SegmentKind};

const POLICIES: [AllocPolicy; 3] = [InstantFit, BestFit, NextFit];

/// The last address of each allocation, by base.
#[derive(Default)]
pub(crate) struct Shadow(BTreeMap<usize, usize>);

impl Shadow {
    /// Records an allocation, which must be disjoint from all others.
    fn add(&mut self, base: usize, size: usize) {
        let last = base + (size - 1);
        tell(format_args!("{base:#x} to {last:#x} is allocated"));
        let below = self.0.range(..=last).next_back();
        assert!(
            below.is_none_or(|(_, &below)| below < base),
            "granted twice"
        );
        self.0.insert(base, last);
    }

    /// Returns a random allocation.
    ///
    /// The choice depends on the sizes. With one allocation more or less it is mostly the same, so
    /// that a failing program can be shortened.
    fn pick(&self, random: &mut impl Choices) -> Option<(usize, usize)> {
        let draw = random.below(1 << 16);
        self.0
            .iter()
            .map(|(&base, &last)| (base, last - base + 1))
            .min_by_key(|&(_, size)| Random::new((draw ^ size) as u64).word())
    }

    /// Compares every segment and the totals with those of the arena.
    pub(crate) fn compare(&self, arena: &TestArena<'_>) {
        let mut allocated = 0;
        let mut total = 0;
        for segment in arena.segments() {
            let size = segment.last - segment.base + 1;
            assert!(segment.span.base <= segment.base && segment.last <= segment.span.last);
            total += size;
            if segment.kind == SegmentKind::Allocated {
                assert_eq!(self.0.get(&segment.base), Some(&segment.last));
                allocated += 1;
            }
        }
        assert_eq!(allocated, self.0.len());
        assert_eq!(total, arena.total_space());
        let sum: usize = self.0.iter().map(|(base, last)| last - base + 1).sum();
        assert_eq!(arena.allocated_space(), sum);
        assert_eq!(arena.free_space(), total - sum);
    }

    /// Performs a random operation on an arena whose spans lie in `[low, low + space)`.
    pub(crate) fn step(
        &mut self,
        arena: &TestArena<'_>,
        random: &mut impl Choices,
        low: usize,
        space: usize,
    ) {
        let quantum = arena.quantum();
        let round = |size: usize| size.next_multiple_of(quantum);
        match random.below(12) {
            0..=2 => {
                let most = if random.chance(6) { 80 } else { 5 };
                let size = 1 + random.below(quantum * most);
                if let Ok(base) = arena.alloc(size, random.pick(&POLICIES)) {
                    self.add(base, round(size));
                }
            }
            3..=4 => {
                let layout = layout(random, quantum, low, space);
                if let Ok(base) = arena.xalloc(layout, random.pick(&POLICIES)) {
                    assert!(satisfies(&layout, base), "{layout:?}");
                    self.add(base, round(layout.size()));
                }
            }
            5 => {
                let base = low + random.below(space / quantum) * quantum;
                let size = round(1 + random.below(quantum * 8));
                let free = arena.segment_of(base).is_some_and(|segment| {
                    segment.kind == SegmentKind::Free
                        && base
                            .checked_add(size - 1)
                            .is_some_and(|last| last <= segment.last)
                });
                match arena.xalloc_at(base, size) {
                    Ok(()) => {
                        assert!(free);
                        self.add(base, size);
                    }
                    Err(Error::Occupied { .. } | Error::SizeOverflow { .. }) => assert!(!free),
                    Err(Error::AllocatorError) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            6..=8 => {
                if let Some((base, size)) = self.pick(random) {
                    if random.chance(2) {
                        arena.free(base).unwrap();
                    } else {
                        arena.free_sized(base, size).unwrap();
                    }
                    tell(format_args!("{base:#x} is freed"));
                    self.0.remove(&base);
                }
            }
            9..=10 => {
                if let Some((base, size)) = self.pick(random) {
                    let new_size = round(1 + random.below(size * 2));
                    match arena.resize(base, new_size) {
                        Ok(()) => {
                            self.0.remove(&base);
                            self.add(base, new_size);
                        }
                        Err(Error::AllocatorError) => {}
                        Err(error) => assert!(new_size > size, "{error}"),
                    }
                }
            }
            _ => {
                let wrong = low.wrapping_add(random.below(space));
                if !self.0.contains_key(&wrong) {
                    let expected = Err(Error::NoSuchAllocation { base: wrong });
                    assert_eq!(arena.free(wrong), expected);
                    assert_eq!(arena.resize(wrong, quantum), expected);
                }
                if let Some((base, size)) = self.pick(random) {
                    let wrong = arena.free_sized(base, size + 1);
                    assert!(matches!(wrong, Err(Error::WrongSize { .. })));
                }
                if random.chance(8) {
                    arena.trim();
                }
            }
        }
    }

    /// Frees all allocations.
    pub(crate) fn finish(mut self, arena: &TestArena<'_>, random: &mut impl Choices) {
        self.compare(arena);
        while let Some((base, _)) = self.pick(random) {
            arena.free(base).unwrap();
            self.0.remove(&base);
            arena.check().unwrap();
        }
        self.compare(arena);
    }
}

/// Runs a program on an arena whose spans lie in `[low, low + space)`.
pub(crate) fn run(
    arena: &TestArena<'_>,
    program: impl Iterator<Item = Random>,
    low: usize,
    space: usize,
) {
    let mut shadow = Shadow::default();
    for (step, mut random) in program.enumerate() {
        shadow.step(arena, &mut random, low, space);
        arena
            .check()
            .unwrap_or_else(|corruption| panic!("step {step}: {corruption}"));
        if step % 16 == 0 {
            shadow.compare(arena);
        }
    }
    shadow.finish(arena, &mut Random::new(0));
}

fn layout(random: &mut impl Choices, quantum: usize, low: usize, space: usize) -> Layout {
    let most = if random.chance(8) { 60 } else { 6 };
    let size = 1 + random.below(quantum * most);
    let mut layout = Layout::from_size_align(size, quantum << random.below(4)).unwrap();
    if random.chance(4) {
        layout = layout.with_phase(random.below(32) * quantum);
    }
    if random.chance(4) {
        layout = layout
            .with_nocross(quantum << random.below(6))
            .unwrap_or(layout);
    }
    if random.chance(4) {
        layout = layout.with_min(low.saturating_add(random.below(space)));
    }
    if random.chance(4) {
        layout = layout.with_max(low.saturating_add(random.below(space)));
    }
    layout
}
