//! What many CPUs share does not become more with their number.
#![cfg(not(feature = "hardened"))] // Slabs serve nothing.

use std::cell::Cell;

use heap::slab::{Cpus, SlabAllocator};

use crate::random::Random;
use crate::support::{Block, Counted, layout};

const CPUS: usize = 64;

thread_local!(static CPU: Cell<usize> = const { Cell::new(0) });

/// The CPU whose turn it is.
struct Turns;

// SAFETY: one thread uses the allocator of a test, and `work` does not begin again before it ends.
unsafe impl Cpus for Turns {
    const COUNT: usize = CPUS;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(CPU.get())
    }
}

/// Which CPU frees a block.
#[derive(Clone, Copy, Debug)]
enum FreedBy {
    /// The one that has allocated it.
    Itself,
    /// The next one, for one block in ten.
    Next,
}

/// The operations of each CPU that are counted, after as many that are not.
const OPERATIONS: usize = 4_000;

/// Runs random actions on each of `cpus` CPUs in turn. Returns how often, for 1,000 operations, a
/// CPU used what others use too: the lock of the shared lists, the slab of another CPU, or the
/// allocator behind the slabs.
fn shared_uses(cpus: usize, freed_by: FreedBy) -> usize {
    let heap: SlabAllocator<_, _, CPUS> = SlabAllocator::new(Counted::new(64 << 20), Turns);
    let mut random = Random::new(7);
    let mut blocks: Vec<Vec<Block>> = (0..cpus).map(|_| Vec::new()).collect();
    let uses = || {
        let sum = |stats: &[heap::slab::CpuStats]| -> usize {
            stats.iter().map(|cpu| cpu.locks + cpu.deliveries).sum()
        };
        sum(&heap.cpu_stats()) + heap.backing().calls()
    };
    let mut before = 0;
    for round in 0..2 * OPERATIONS {
        if round == OPERATIONS {
            before = uses();
        }
        for (cpu, own) in blocks.iter_mut().enumerate() {
            CPU.set(cpu);
            if own.len() < 200 || (own.len() < 400 && random.below(2) == 0) {
                let block = Block::new(&heap, layout(1 + random.below(496), 1));
                own.push(block.expect("there is room"));
            } else {
                let block = own.swap_remove(random.below(own.len()));
                if matches!(freed_by, FreedBy::Next) && random.below(10) == 0 {
                    CPU.set((cpu + 1) % cpus);
                }
                block.free(&heap);
            }
        }
    }
    let uses = (uses() - before) * 1000 / (OPERATIONS * cpus);
    for (cpu, blocks) in blocks.into_iter().enumerate() {
        CPU.set(cpu);
        blocks.into_iter().for_each(|block| block.free(&heap));
    }
    uses
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn more_cpus_share_no_more() {
    for (freed_by, bound) in [(FreedBy::Itself, 20), (FreedBy::Next, 100)] {
        let uses = [1, 2, 4, 8, 16, 32, 64].map(|cpus| shared_uses(cpus, freed_by));
        println!("{freed_by:?}: {uses:?} uses for 1,000 operations of 1 to 64 CPUs");
        let of_two = uses[1];
        assert!(of_two <= bound, "{freed_by:?}: {uses:?}");
        // Each CPU has random actions of its own.
        let is_flat = |&uses: &usize| uses <= of_two + of_two / 2 + 5;
        assert!(uses.iter().all(is_flat), "{freed_by:?}: {uses:?}");
    }
}
