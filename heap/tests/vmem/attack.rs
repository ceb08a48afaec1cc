//! Attacks on chains of arenas with different quanta. Source and tag supply fail at random calls,
//! and the source calls back. A ledger records each allocation, and an oracle checks each refusal.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::oracle::Chain;
use super::support::{CheckedSource, Choices, Random, Tags, TestArena, satisfies};
use crate::common::programs::{for_programs, tell};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout, Result, Source};

const PLENTY: usize = usize::MAX / 2;

/// The allocations of an arena, by base: the last address, and whether an operation is in progress.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<usize, (usize, bool)>>);

impl Ledger {
    /// Records an allocation, which must be disjoint from all others.
    fn add(&self, base: usize, size: usize) {
        let last = base + (size - 1);
        let mut entries = self.0.lock().unwrap();
        let below = entries.range(..=last).next_back();
        assert!(
            below.is_none_or(|(_, &(below, _))| below < base),
            "granted twice"
        );
        entries.insert(base, (last, false));
    }

    /// Reserves a random allocation for one operation, until it is added again or removed.
    fn hold(&self, random: &mut impl Choices) -> Option<(usize, usize)> {
        let mut entries = self.0.lock().unwrap();
        let count = entries.values().filter(|entry| !entry.1).count();
        let number = random.below(count.max(1));
        let (&base, entry) = entries.iter_mut().filter(|entry| !entry.1.1).nth(number)?;
        entry.1 = true;
        Some((base, entry.0 - base + 1))
    }

    fn remove(&self, base: usize) {
        self.0.lock().unwrap().remove(&base);
    }
}

/// Performs a random operation on an arena. With an oracle in `world`, checks each refusal.
fn step(arena: &TestArena<'_>, ledger: &Ledger, random: &mut impl Choices, world: &World<'_>) {
    let quantum = arena.quantum();
    let policy = random.pick(&[InstantFit, BestFit, NextFit]);
    match random.below(10) {
        0..=1 => {
            let most = if random.chance(4) { 60 } else { 4 };
            let size = 1 + random.below(quantum * most);
            let layout = Layout::from_size_align(size, 1).unwrap();
            match arena.alloc(size, policy) {
                Ok(base) => ledger.add(base, size.next_multiple_of(quantum)),
                Err(error) => world.refused(&layout, error),
            }
        }
        2..=4 => {
            let layout = layout(random, quantum, world);
            match arena.xalloc(layout, policy) {
                Ok(base) => {
                    assert!(satisfies(&layout, base), "{layout:?} at {base:#x}");
                    ledger.add(base, layout.size().next_multiple_of(quantum));
                }
                Err(error) => world.refused(&layout, error),
            }
        }
        5..=6 => {
            let Some((base, size)) = ledger.hold(random) else {
                return;
            };
            // Removed first: after the call another thread may get the range at once.
            ledger.remove(base);
            tell(format_args!("{base:#x} of {size:#x} is freed"));
            arena.free_sized(base, size).unwrap();
        }
        7..=8 => {
            let Some((base, size)) = ledger.hold(random) else {
                return;
            };
            let new_size = (1 + random.below(2 * size)).next_multiple_of(quantum);
            let possible = world.chain.as_ref().map(|chain| {
                base.checked_add(new_size - 1)
                    .is_some_and(|last| chain.extends(base, last))
            });
            if new_size < size {
                // Another thread may get the freed tail before the call returns.
                let mut entries = ledger.0.lock().unwrap();
                entries.insert(base, (base + (new_size - 1), true));
            }
            tell(format_args!("{base:#x} of {size:#x} is made {new_size:#x}"));
            let resized = arena.resize(base, new_size);
            ledger.remove(base);
            match resized {
                Ok(()) => ledger.add(base, new_size),
                // Shrinking fails only without tags, and then leaves the segment unchanged.
                Err(error) if new_size < size => {
                    assert_eq!(error, Error::AllocatorError);
                    ledger.add(base, size);
                }
                Err(error) => {
                    ledger.add(base, size);
                    assert!(
                        possible != Some(true) || error == Error::AllocatorError,
                        "{base:#x} of {size:#x} to {new_size:#x}: {error}"
                    );
                }
            }
        }
        _ => match random.below(3) {
            0 => drop(arena.trim()),
            1 => drop(arena.import(layout(random, quantum, world))),
            _ => {
                let segments = arena.segments();
                let mut next = 0;
                for segment in segments {
                    assert!(segment.base >= next || next == 0 && segment.base == 0);
                    next = segment.last.wrapping_add(1);
                }
            }
        },
    }
}

/// The window of the spans, and the oracle unless calls may fail.
struct World<'a> {
    low: usize,
    space: usize,
    chain: Option<Chain<'a>>,
}

impl World<'_> {
    fn refused(&self, layout: &Layout, error: Error) {
        let chain = self.chain.as_ref();
        if let Some(chain) = chain.filter(|_| error != Error::AllocatorError) {
            let wrong = chain.serves(layout, self.low, self.space);
            assert!(!wrong, "{layout:?} is refused: {error}");
        }
    }
}

fn layout(random: &mut impl Choices, quantum: usize, world: &World<'_>) -> Layout {
    let most = if random.chance(4) { 40 } else { 4 };
    let size = 1 + random.below(quantum * most);
    let mut layout = Layout::from_size_align(size, 1 << random.below(10)).unwrap();
    if random.chance(3) {
        layout = layout.with_phase(random.below(64) * quantum);
    }
    if random.chance(3) {
        let nocross = size.next_power_of_two() << random.below(5);
        layout = layout.with_nocross(nocross).unwrap_or(layout);
    }
    let first = random.below(world.space);
    if random.chance(3) {
        layout = layout.with_min(world.low + first);
    }
    if random.chance(3) {
        let most = if random.chance(2) {
            4 * size
        } else {
            world.space
        };
        let far = random.below(most);
        layout = layout.with_max((world.low + first).saturating_add(far));
    }
    layout
}

/// A source that fails at random calls, and may call the arena at the other end of the chain
/// during a call.
struct Fickle {
    lender: CheckedSource,
    random: Mutex<Random>,
    /// One in this number of calls fails; 0 for none.
    fails: usize,
    /// One in this number of calls calls back; 0 for none.
    calls_back: usize,
    depth: AtomicUsize,
    arena: AtomicPtr<()>,
    ledger: Ledger,
    low: usize,
    space: usize,
}

impl Fickle {
    fn draw(&self, one_in: usize) -> bool {
        one_in != 0 && self.random.lock().unwrap().chance(one_in)
    }

    fn whim(&self, refusal: Error) -> Result<()> {
        let arena = self.arena.load(SeqCst).cast::<TestArena<'_>>();
        if self.draw(self.calls_back) && !arena.is_null() {
            if self.depth.fetch_add(1, SeqCst) < 2 {
                let seed = self.random.lock().unwrap().word();
                let world = World {
                    low: self.low,
                    space: self.space,
                    chain: None,
                };
                // SAFETY: the pointer is set to null before the arena is dropped.
                let arena = unsafe { &*arena };
                step(arena, &self.ledger, &mut Random::new(seed), &world);
                arena.check().unwrap();
            }
            self.depth.fetch_sub(1, SeqCst);
        }
        if self.draw(self.fails) {
            Err(refusal)
        } else {
            Ok(())
        }
    }
}

impl Source for Fickle {
    fn quantum(&self) -> usize {
        self.lender.quantum
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        self.whim(Error::Other("no import"))?;
        self.lender.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        self.whim(Error::Other("no release"))?;
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.whim(Error::Other("no extension"))?;
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.extend(base, size, new_size) }
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.whim(Error::Other("no shrinking"))?;
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.shrink(base, size, new_size) }
    }
}

/// The kind of an attack.
#[derive(Clone, Copy, PartialEq)]
enum Attack {
    /// No call fails, and the oracle checks every refusal.
    Oracle,
    Failures,
    FailuresAndCallbacks,
    Threads,
}

fn attack(kind: Attack) {
    for_programs(|program| {
        let random = &mut program.set_up();
        let quanta = [random.below(4), random.below(7), random.below(8)].map(|log2| 1 << log2);
        let space = quanta[2].max(quanta[1]) * (8 + random.below(24));
        let space = space.next_multiple_of(quanta[2].max(quanta[1]));
        let top = (usize::MAX - space).wrapping_add(1);
        let low = random.pick(&[0, 1 << 20, 3 * space.next_power_of_two(), top]);
        let fails = kind != Attack::Oracle;
        let mut lender = CheckedSource::new(low, low + (space - 1));
        lender.quantum = quanta[2];
        lender.resizable = random.chance(2);
        let source = Fickle {
            lender,
            random: Mutex::new(Random::new(random.word())),
            fails: if fails { random.below(6) } else { 0 },
            calls_back: match kind {
                Attack::FailuresAndCallbacks | Attack::Threads => 2 + random.below(4),
                _ => 0,
            },
            depth: AtomicUsize::new(0),
            arena: AtomicPtr::new(ptr::null_mut()),
            ledger: Ledger::default(),
            low,
            space,
        };
        let tags: &'static Tags = Box::leak(Box::new(Tags::limited(PLENTY)));
        {
            let middle = TestArena::create("middle", quanta[1], Some(&source), tags)
                .unwrap()
                .with_retained_spans(random.below(3))
                .with_min_import(random.below(8) * quanta[1]);
            let chained = random.chance(2);
            let below: &dyn Source = if chained { &middle } else { &source };
            let arena = TestArena::create("bottom", quanta[0], Some(below), tags)
                .unwrap()
                .with_retained_spans(random.below(3))
                .with_min_import(random.below(40) * quanta[0]);
            source
                .arena
                .store(ptr::from_ref(&arena).cast_mut().cast(), SeqCst);
            tell(format_args!(
                "quanta {quanta:?}, {space:#x} from {low:#x}, chained: {chained}"
            ));
            let both = [&arena, &middle];
            let world = World {
                low,
                space,
                chain: (kind == Attack::Oracle).then_some(Chain {
                    arenas: if chained { &both } else { &both[..1] },
                    lender: &source.lender,
                }),
            };

            let check = || {
                for arena in both {
                    arena
                        .check()
                        .unwrap_or_else(|corruption| panic!("{corruption}"));
                }
                let lender = if chained { &middle } else { &arena };
                assert_eq!(source.lender.lent_space(), lender.borrowed_space());
                if chained {
                    assert_eq!(middle.allocated_space(), arena.borrowed_space());
                }
                let entries = source.ledger.0.lock().unwrap();
                let sum: usize = entries.iter().map(|(base, entry)| entry.0 - base + 1).sum();
                assert_eq!(arena.allocated_space(), sum);
            };
            if kind == Attack::Threads {
                thread::scope(|scope| {
                    for part in 0..2 {
                        let (arena, source, world) = (
                            &arena,
                            &source,
                            World {
                                chain: None,
                                ..world
                            },
                        );
                        scope.spawn(move || {
                            for mut random in program.steps().skip(part).step_by(2) {
                                step(arena, &source.ledger, &mut random, &world);
                            }
                        });
                    }
                });
                check();
            } else {
                for mut random in program.steps() {
                    if fails && random.chance(12) {
                        tags.budget.store(random.below(24), SeqCst);
                    } else if fails && random.chance(12) {
                        tags.budget.store(PLENTY, SeqCst);
                    }
                    step(&arena, &source.ledger, &mut random, &world);
                    check();
                }
            }

            tags.budget.store(PLENTY, SeqCst);
            let mut random = Random::new(0);
            while let Some((base, size)) = source.ledger.hold(&mut random) {
                source.ledger.remove(base);
                arena.free_sized(base, size).unwrap();
            }
            source.arena.store(ptr::null_mut(), SeqCst);
            for _ in 0..200 {
                arena.trim();
                middle.trim();
            }
            check();
            assert_eq!(source.lender.lent(), []);
        }
        tags.assert_all_back();
    });
}

#[test]
fn every_request_that_the_chain_can_serve_is_served() {
    attack(Attack::Oracle);
}

#[test]
fn failures_at_any_call_lose_no_range_and_share_none() {
    attack(Attack::Failures);
}

#[test]
fn a_source_that_calls_back_and_fails_loses_no_range() {
    attack(Attack::FailuresAndCallbacks);
}

#[test]
fn two_threads_and_a_source_that_fails_lose_no_range() {
    attack(Attack::Threads);
}
