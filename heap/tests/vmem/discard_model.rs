//! Random programs that discard and restore, compared with what the source says is memory.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::paged::PagedSource;
use super::support::{Random, TestArena, borrower};
use heap::vmem::AllocPolicy::{self, BestFit, InstantFit, NextFit};
use heap::vmem::Layout;

const PAGE: usize = 0x1000;
const BASE: usize = 0x8_0000;
const POLICIES: [AllocPolicy; 3] = [InstantFit, BestFit, NextFit];

/// An allocated segment, of which some pages are discarded.
struct Live {
    base: usize,
    size: usize,
    value: u64,
    /// The discarded pages, and the pages restored since the last write, by base.
    holes: Vec<usize>,
}

/// The arena and its segments.
struct Model<'a> {
    arena: &'a TestArena<'a>,
    source: &'a PagedSource,
    unit: usize,
    live: Vec<Live>,
    value: u64,
}

impl Model<'_> {
    /// Fills new memory of a segment, all of which must be memory.
    fn fill(&mut self, index: usize, from: usize) {
        let live = &self.live[index];
        self.source
            .write(live.base + from, live.size - from, live.value);
    }

    /// Checks that all of a segment but its holes is memory, unchanged.
    fn verify(&self, index: usize) {
        let live = &self.live[index];
        for unit in (live.base..live.base + live.size).step_by(self.unit) {
            if !live.holes.contains(&(unit & !(PAGE - 1))) {
                self.source.verify(unit, self.unit, live.value);
            }
        }
    }

    fn allocate(&mut self, random: &mut Random) {
        let size = (1 + random.below(6 * PAGE / self.unit)) * self.unit;
        let policy = POLICIES[random.below(3)];
        let base = if random.below(3) == 0 {
            let align = self.unit << random.below(4);
            let layout = Layout::from_size_align(size, align).unwrap();
            self.arena.xalloc(layout, policy)
        } else {
            self.arena.alloc(size, policy)
        };
        if let Ok(base) = base {
            self.value += 1;
            let value = self.value;
            let holes = Vec::new();
            self.live.push(Live {
                base,
                size,
                value,
                holes,
            });
            self.fill(self.live.len() - 1, 0);
        }
    }

    fn resize(&mut self, index: usize, random: &mut Random) {
        let new_size = (1 + random.below(8 * PAGE / self.unit)) * self.unit;
        let live = &mut self.live[index];
        let before = live.size;
        if self.arena.resize(live.base, new_size).is_err() {
            return;
        }
        live.size = new_size;
        let end = live.base + new_size;
        live.holes.retain(|&hole| hole < end);
        if let Some(last) = live.holes.iter().position(|&hole| hole + PAGE > end) {
            // The page is divided, so it is memory again.
            let hole = live.holes.swap_remove(last);
            self.source.write(hole, end - hole, live.value);
        }
        if new_size > before {
            self.fill(index, before);
        }
    }

    fn change_part(&mut self, index: usize, random: &mut Random) {
        let live = &mut self.live[index];
        let first = live.base.next_multiple_of(PAGE);
        let end = (live.base + live.size) & !(PAGE - 1);
        if first >= end {
            return;
        }
        let pages = (end - first) / PAGE;
        let from = random.below(pages);
        let count = 1 + random.below(pages - from);
        let (base, size) = (first + from * PAGE, count * PAGE);
        let part = base..base + size;
        if random.below(3) == 0 {
            let before = self.source.is_memory(base, size);
            if self.arena.restore(base, size).is_err() {
                assert_eq!(self.source.is_memory(base, size), before);
                return;
            }
            for &hole in live.holes.iter().filter(|hole| part.contains(hole)) {
                self.source.verify(hole, PAGE, 0);
            }
            live.holes.retain(|hole| !part.contains(hole));
            self.source.write(base, size, live.value);
        } else if self.arena.discard(base, size).is_ok() {
            assert!(!self.source.is_memory(base, size).contains(&true));
            live.holes.retain(|hole| !part.contains(hole));
            live.holes.extend(part.step_by(PAGE));
        }
    }

    fn step(&mut self, random: &mut Random) {
        let index = random.below(self.live.len().max(1));
        match random.below(8) {
            0..3 => self.allocate(random),
            _ if self.live.is_empty() => {}
            3 => {
                self.verify(index);
                let live = self.live.swap_remove(index);
                self.arena.free_sized(live.base, live.size).unwrap();
            }
            4 | 5 => self.resize(index, random),
            _ => self.change_part(index, random),
        }
    }
}

#[test]
fn allocated_memory_is_never_discarded_memory() {
    for program in 0..400 {
        let mut random = Random::new(program);
        let unit = [PAGE, PAGE / 4][random.below(2)];
        let source = PagedSource::new(BASE, BASE + 60 * PAGE - 1, PAGE, unit);
        let mut lower = borrower(PAGE, &source);
        lower = lower.with_retained_spans(random.below(3));
        let (chained, retained) = (random.below(2) == 0, random.below(3));
        let arena = match chained {
            true => borrower(unit, &lower),
            false => borrower(unit, &source),
        };
        let arena = arena
            .with_retained_spans(retained)
            .with_min_import(random.below(20) * PAGE);
        let mut model = Model {
            arena: &arena,
            source: &source,
            unit,
            live: Vec::new(),
            value: 0,
        };
        for _ in 0..200 {
            // Each call may be the first that fails.
            if random.below(4) == 0 {
                source.lender.budget.store(random.below(3), SeqCst);
            }
            model.step(&mut random);
            source.lender.budget.store(usize::MAX, SeqCst);
            arena.check().unwrap();
            (0..model.live.len()).for_each(|index| model.verify(index));
        }
        for live in model.live {
            arena.free(live.base).unwrap();
        }
        arena.trim();
        lower.trim();
        assert_eq!(source.units_of_memory(), 0, "all of it goes back");
    }
}

#[test]
fn threads_discard_and_restore_while_others_resize() {
    const THREADS: u64 = 4;
    for (unit, retained) in [(PAGE, 0), (PAGE, 2), (PAGE / 4, 1)] {
        let source = PagedSource::new(BASE, BASE + 4000 * PAGE - 1, PAGE, unit);
        {
            let arena = borrower(unit, &source)
                .with_retained_spans(retained)
                .with_min_import(16 * PAGE);
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let (arena, source) = (&arena, &source);
                    scope.spawn(move || {
                        let mut random = Random::new(thread);
                        let mut model = Model {
                            arena,
                            source,
                            unit,
                            live: Vec::new(),
                            value: thread << 32,
                        };
                        for _ in 0..1500 {
                            model.step(&mut random);
                        }
                        for live in model.live {
                            arena.free(live.base).unwrap();
                        }
                    });
                }
            });
            assert_eq!(arena.allocated_space(), 0);
            arena.check().unwrap();
        }
        assert_eq!(source.units_of_memory(), 0);
    }
}

#[test]
fn parts_of_one_segment_change_while_it_is_resized() {
    const PAGES: usize = 64;
    const PARTS: usize = 3;
    let source = PagedSource::new(BASE, BASE + 1000 * PAGE - 1, PAGE, PAGE);
    let arena = borrower(PAGE, &source).with_retained_spans(0);
    let base = arena.alloc(PAGES * PAGE, InstantFit).unwrap();
    thread::scope(|scope| {
        for part in 0..PARTS {
            let (arena, source) = (&arena, &source);
            scope.spawn(move || {
                let mut random = Random::new(part as u64);
                let size = PAGES / PARTS * PAGE;
                let first = base + part * size;
                for value in 1..500 {
                    let from = random.below(size / PAGE) * PAGE;
                    let len = PAGE * (1 + random.below((size - from) / PAGE));
                    arena.discard(first + from, len).unwrap();
                    arena.restore(first, size).unwrap();
                    source.verify(first + from, len, 0);
                    source.write(first, size, value);
                }
            });
        }
        let arena = &arena;
        scope.spawn(move || {
            for round in 0..1000 {
                arena.resize(base, (PAGES + round % 7) * PAGE).unwrap();
            }
        });
    });
    arena.check().unwrap();
}
