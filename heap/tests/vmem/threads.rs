//! Arenas that threads share: no range is allocated twice, and all of them are freed.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::support::{CheckedSource, Choices, Random, Tags, TestLock};
use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Arena, Error, TagPool};

const THREADS: u64 = 4;
const QUANTUM: usize = 0x1000;

/// The owner of each quantum of a window; 0 if it is free.
struct Owners(Vec<AtomicU8>, usize);

impl Owners {
    fn new(base: usize, quanta: usize) -> Self {
        Self((0..quanta).map(|_| AtomicU8::new(0)).collect(), base)
    }

    fn change(&self, base: usize, size: usize, from: u8, to: u8) {
        let first = (base - self.1) / QUANTUM;
        for owner in &self.0[first..first + size / QUANTUM] {
            assert_eq!(owner.swap(to, SeqCst), from, "at {base:#x}");
        }
    }
}

#[test]
fn threads_share_a_chain_of_arenas_and_a_pool() {
    let pages = Tags::limited(10_000);
    let pages: &'static Tags = Box::leak(Box::new(pages));
    let pool: &'static TagPool<TestLock, &'static Tags> =
        Box::leak(Box::new(TagPool::new(TestLock::new(), pages)));
    let base = 0x100_0000;
    let quanta = 2000;
    let owners = Owners::new(base, quanta);
    for retained in [0, 1] {
        let top = Arena::<_, TestLock>::create("top", QUANTUM, None, pool).unwrap();
        top.add_span(base, quanta * QUANTUM).unwrap();
        {
            let shared = Arena::<_, TestLock>::create("shared", QUANTUM, Some(&top), pool)
                .unwrap()
                .with_retained_spans(retained);
            let done = AtomicUsize::new(0);
            thread::scope(|scope| {
                for thread in 1..=THREADS {
                    let (shared, owners, done) = (&shared, &owners, &done);
                    scope.spawn(move || {
                        work(shared, owners, thread);
                        done.fetch_add(1, SeqCst);
                    });
                }
                let (top, shared, done) = (&top, &shared, &done);
                scope.spawn(move || {
                    while done.load(SeqCst) < THREADS as usize {
                        shared.check().unwrap();
                        top.check().unwrap();
                        let listed: Vec<_> = shared.segments().collect();
                        assert!(listed.windows(2).all(|pair| pair[0].last < pair[1].base));
                        shared.trim();
                    }
                });
            });
            assert_eq!(shared.allocated_space(), 0);
            shared.trim();
            shared.check().unwrap();
        }
        assert_eq!(top.largest_free(), quanta * QUANTUM);
        top.check().unwrap();
    }
    assert_eq!(pool.counts().in_use, 0);
}

type Shared<'src> = Arena<'static, 'src, &'static TagPool<TestLock, &'static Tags>, TestLock>;

fn work(arena: &Shared<'_>, owners: &Owners, thread: u64) {
    let mut random = Random::new(thread);
    let me = thread as u8;
    let mut live: Vec<(usize, usize)> = Vec::new();
    for _ in 0..4000 {
        match random.below(8) {
            0..=3 => {
                let size = (1 + random.below(6)) * QUANTUM;
                let policy = random.pick(&[InstantFit, BestFit, NextFit]);
                if let Ok(base) = arena.alloc(size, policy) {
                    owners.change(base, size, 0, me);
                    live.push((base, size));
                }
            }
            4..=5 => {
                if !live.is_empty() {
                    let block = random.below(live.len());
                    let (base, size) = live[block];
                    let new_size = (1 + random.below(10)) * QUANTUM;
                    if new_size < size {
                        // Disown the tail before the call: another thread may get it at once.
                        owners.change(base + new_size, size - new_size, me, 0);
                        if arena.resize(base, new_size).is_err() {
                            owners.change(base + new_size, size - new_size, 0, me);
                            continue;
                        }
                    } else if new_size > size {
                        if arena.resize(base, new_size).is_err() {
                            continue;
                        }
                        owners.change(base + size, new_size - size, 0, me);
                    }
                    live[block].1 = new_size;
                }
            }
            _ => {
                if !live.is_empty() {
                    let (base, size) = live.swap_remove(random.below(live.len()));
                    owners.change(base, size, me, 0);
                    arena.free_sized(base, size).unwrap();
                }
            }
        }
    }
    for (base, size) in live {
        owners.change(base, size, me, 0);
        arena.free_sized(base, size).unwrap();
    }
}

#[test]
fn threads_that_free_and_resize_one_segment_get_errors() {
    let lender = CheckedSource::new(0x100_0000, 0x1ff_ffff);
    let arena = super::support::borrower(QUANTUM, &lender).with_retained_spans(0);
    for round in 0..200 {
        let base = arena.alloc(4 * QUANTUM, InstantFit).unwrap();
        let freed = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..3usize {
                let (arena, freed) = (&arena, &freed);
                scope.spawn(move || {
                    for step in 0..8 {
                        let size = (1 + (step + thread) % 8) * QUANTUM;
                        match arena.resize(base, size) {
                            Ok(()) | Err(Error::Busy { .. } | Error::NoSuchAllocation { .. }) => {}
                            Err(error) => panic!("round {round}: {error}"),
                        }
                    }
                    freed.fetch_add(usize::from(arena.free(base).is_ok()), SeqCst);
                });
            }
        });
        if freed.load(SeqCst) == 0 {
            // Each `free` failed because the segment was busy.
            arena.free(base).unwrap();
        } else {
            assert_eq!(freed.load(SeqCst), 1, "round {round}");
        }
        arena.check().unwrap();
        assert_eq!(lender.lent(), [], "round {round}");
    }
}
