//! Random programs on the kernel heap. The seed of a program is printed first. All blocks are
//! verified, and an audit of all layers runs after each hundred operations.

use core::alloc::Layout;

use kernel::audit;
use kernel::cpus;
use kernel::heap::HEAP;
use kernel::interrupts::timer;
use kernel::kernel_test;
use x86_64::instructions::interrupts;

use crate::storm::{self, allocate_at_a_tick};
use crate::support::{Blocks, Random, Snapshot};

/// The number of operations between two audits.
const AUDIT_PERIOD: usize = 100;

/// Runs the program of a seed, and frees all its blocks.
pub(crate) fn run(seed: u64, operations: usize) {
    let mut random = Random::new(seed);
    let mut blocks = Blocks::new();
    // Programs differ in the sizes and alignments of their blocks, and in the bytes that are live.
    let (sizes, aligns) = (7 + random.below(12), 1 + random.below(13));
    let most = 1 << (15 + random.below(8));
    for operation in 1..=operations {
        let choice = random.below(16);
        match choice {
            0 => blocks.reallocate(&mut random),
            1 if random.below(64) == 0 => blocks.free_half(&mut random),
            // The more bytes are live, the more likely is a free.
            _ if choice * most / 12 > blocks.bytes() => {
                let size = random.size(sizes);
                let align = 1 << random.below(aligns);
                let layout = Layout::from_size_align(size, align).expect("a valid layout");
                let block = if choice.is_multiple_of(4) {
                    blocks.allocate_zeroed(layout)
                } else {
                    blocks.allocate(layout)
                };
                assert!(
                    block.is_some(),
                    "operation {operation}: no memory for {layout:?}"
                );
            }
            _ => blocks.free_any(&mut random),
        }
        if operation % AUDIT_PERIOD == 0 {
            run_audit(operation);
        }
    }
    blocks.verify();
}

/// Runs an audit while interrupts are masked, so that no handler changes the counts.
fn run_audit(operation: usize) {
    let result = interrupts::without_interrupts(|| {
        HEAP.drain();
        audit::check()
    });
    if let Err(mismatch) = result {
        panic!("operation {operation}: the audit found a mismatch: {mismatch}");
    }
}

/// Runs the program of a seed while a timer interrupt allocates and frees.
pub(crate) fn run_in_a_storm(seed: u64, operations: usize) {
    timer::set_hook(Some(allocate_at_a_tick));
    timer::start(1000);
    run(seed, operations);
    timer::stop();
    timer::set_hook(None);
    storm::clear();
}

/// Runs one program of a soak. Programs with odd seeds are interrupted. On several CPUs, each
/// program is a storm of all of them. Returns the number of operations.
pub(crate) fn soak(seed: u64) -> u64 {
    const OPERATIONS: usize = 5000;
    if cpus::count() > 1 {
        crate::cpus::storm(seed, 10 * OPERATIONS);
        return (10 * OPERATIONS * cpus::count()) as u64;
    }
    if seed.is_multiple_of(2) {
        run(seed, OPERATIONS);
    } else {
        run_in_a_storm(seed, OPERATIONS);
    }
    OPERATIONS as u64
}

kernel_test! {
    fn random_programs_pass_all_audits(deadline = 240) {
        let before = Snapshot::take();
        for seed in 100..112 {
            kernel::println!("the program of seed {seed}");
            run(seed, 3000);
            assert_eq!(Snapshot::take(), before, "seed {seed}");
        }
    }
}

kernel_test! {
    fn interrupted_random_programs_pass_all_audits(deadline = 240) {
        let before = Snapshot::take();
        for seed in 200..206 {
            kernel::println!("the program of seed {seed}");
            run_in_a_storm(seed, 3000);
            assert_eq!(Snapshot::take(), before, "seed {seed}");
        }
    }
}
