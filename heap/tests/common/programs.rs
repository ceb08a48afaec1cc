//! Random programs, which are shortened when they fail.
//!
//! A program is a list of seeds: one for its set-up and one for each step. A step draws all its
//! choices from its own seed. Steps can therefore be left out without changing the others, and a
//! failure is shown with the shortest list that still fails.
//!
//! | variable | what it changes |
//! |---|---|
//! | `HEAP_PROGRAMS` | how many programs each model runs |
//! | `HEAP_SEED` | only the program with this seed is run |
#![allow(dead_code, reason = "each test uses a part of it")]

use std::any::Any;
use std::cell::Cell;
use std::env;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;
use std::sync::Once;

use super::random::Random;

/// The number of programs that each model runs by default.
const PROGRAMS: u64 = 10_000;

/// The number of steps of a program.
const STEPS: usize = 200;

/// A program of a model: a set-up, and steps.
#[derive(Clone)]
pub(crate) struct Program {
    set_up: u64,
    steps: Vec<u64>,
}

impl Program {
    pub(crate) fn new(seed: u64, steps: usize) -> Self {
        let mut seeds = Random::new(seed);
        Self {
            set_up: seeds.word(),
            steps: (0..steps).map(|_| seeds.word()).collect(),
        }
    }

    /// Returns the generator of the set-up.
    pub(crate) fn set_up(&self) -> Random {
        Random::new(self.set_up)
    }

    /// Returns the generator of each step.
    pub(crate) fn steps(&self) -> impl ExactSizeIterator<Item = Random> {
        self.steps.iter().map(|&seed| Random::new(seed))
    }

    /// Returns the seeds of the steps.
    pub(crate) fn seeds(&self) -> &[u64] {
        &self.steps
    }

    /// Returns the program without the steps in a range.
    fn without(&self, from: usize, to: usize) -> Self {
        Self {
            set_up: self.set_up,
            steps: [&self.steps[..from], &self.steps[to..]].concat(),
        }
    }
}

/// Runs programs with ten thousand seeds, and returns their number. A program that fails is
/// shortened, and its seed is printed.
pub(crate) fn for_programs(run: impl Fn(&Program)) -> usize {
    for_programs_of(STEPS, 1, run)
}

/// Runs programs of `steps` steps, as [`for_programs`] does. Only one of `one_in` seeds is used,
/// for programs that take long.
pub(crate) fn for_programs_of(steps: usize, one_in: u64, run: impl Fn(&Program)) -> usize {
    let seeds = match variable::<u64>("HEAP_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            0..variable("HEAP_PROGRAMS")
                .unwrap_or(PROGRAMS)
                .div_ceil(one_in)
        }
    };
    let count = (seeds.end - seeds.start) as usize;
    for seed in seeds {
        run_program(seed, steps, &run);
    }
    count
}

thread_local! {
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Returns the seed of the program that this thread runs, for messages before the process ends.
pub(crate) fn running() -> Option<u64> {
    RUNNING.get()
}

/// Runs the program with this seed. If it fails, it is shortened, and its seed is printed.
pub(crate) fn run_program(seed: u64, steps: usize, run: &impl Fn(&Program)) {
    let program = Program::new(seed, steps);
    RUNNING.set(Some(seed));
    if let Some(panic) = failure(&program, run) {
        let shortest = shorten(program, run);
        eprintln!(
            "HEAP_SEED={seed} fails, and still does with {} of its {steps} steps:",
            shortest.steps.len()
        );
        TELLING.set(true);
        run(&shortest);
        TELLING.set(false);
        // The failure is not reproducible.
        resume_unwind(panic);
    }
    RUNNING.set(None);
}

pub(crate) fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    let number = text
        .parse()
        .unwrap_or_else(|_| panic!("{name}={text} is not a number"));
    Some(number)
}

thread_local! {
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Prints a part of what a program does, if it is the shortest that fails.
pub(crate) fn tell(what: fmt::Arguments<'_>) {
    if TELLING.get() {
        eprintln!("    {what}");
    }
}

/// Removes as many steps as possible: first halves, then ever smaller parts, and at last single
/// steps.
pub(crate) fn shorten(mut program: Program, run: &impl Fn(&Program)) -> Program {
    let mut part = program.steps.len() / 2;
    while part > 0 {
        let before = program.steps.len();
        let mut from = 0;
        while from + part <= program.steps.len() {
            let shorter = program.without(from, from + part);
            if failure(&shorter, run).is_some() {
                program = shorter;
            } else {
                from += part;
            }
        }
        if part > 1 || program.steps.len() == before {
            part /= 2;
        }
    }
    program
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The state of a thread that runs a program.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    is_quiet: bool,
    running: Option<u64>,
}

/// Returns the state of this thread.
pub(crate) fn context() -> Context {
    Context {
        is_quiet: QUIET.get(),
        running: RUNNING.get(),
    }
}

/// Joins this thread to a program that another thread runs.
pub(crate) fn enter(context: Context) {
    QUIET.set(context.is_quiet);
    RUNNING.set(context.running);
}

/// Runs a program, and returns the payload of its panic. The panic itself is not printed.
fn failure(program: &Program, run: &impl Fn(&Program)) -> Option<Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(program)));
    QUIET.set(false);
    result.err()
}
