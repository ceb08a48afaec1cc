//! Random programs on the whole stack (`common/stack`) for any length of time, and a table of the
//! situations that they reached.
//!
//! | variable | what it changes |
//! |---|---|
//! | `HEAP_MINUTES` | how long to run, with new seeds in each run; without it, 250 programs run |
//! | `HEAP_SEED` | runs only the program with this seed |
//!
//! ```text
//! HEAP_MINUTES=30 cargo test --release -p heap --test soak -- --nocapture
//! ```
#![cfg(target_os = "linux")]

mod common;
#[path = "common/stack/mod.rs"]
mod stack;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::programs::{Program, run_program, variable};
use stack::SITUATIONS;

/// Steps of each program.
const STEPS: usize = 1000;
/// Programs that run without `HEAP_MINUTES`.
const PROGRAMS: u64 = 250;

/// Every fourth program has up to four threads.
fn run(seed: u64, program: &Program) {
    if seed % 4 == 3 {
        stack::run_with_threads(program, 1 + (seed / 4 % 4) as usize);
    } else {
        stack::run(&mut program.set_up(), |actor, _| {
            for mut random in program.steps() {
                actor.step(&mut random);
            }
        });
    }
}

#[test]
fn programs_on_the_whole_stack_reach_every_situation() {
    let begin = Instant::now();
    let minutes = variable::<u64>("HEAP_MINUTES");
    let seeds = match (variable::<u64>("HEAP_SEED"), minutes) {
        (Some(seed), _) => seed..seed + 1,
        (None, None) => 0..PROGRAMS,
        (None, Some(_)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (now.as_secs() << 32)..u64::MAX
        }
    };
    let single = seeds.end - seeds.start == 1;
    let mut programs = 0;
    for seed in seeds {
        if minutes.is_some_and(|minutes| begin.elapsed() >= Duration::from_secs(60 * minutes)) {
            break;
        }
        run_program(seed, STEPS, &|program: &Program| run(seed, program));
        programs += 1;
    }
    println!(
        "{} operations in {programs} programs of {STEPS} steps, {:.0?}; situations:",
        stack::operations(),
        begin.elapsed()
    );
    SITUATIONS.print();
    // With `hardened`, allocation finds gaps in another order.
    let differs = single || cfg!(feature = "hardened");
    assert!(
        differs || SITUATIONS.missing().is_empty(),
        "no program reached {:?}",
        SITUATIONS.missing()
    );
}
