//! The whole stack over real pages, nearly full: with calls that fail at random, and interrupts.
//! See `common/stack`.

use crate::common::programs::for_programs_of;
use crate::stack;

#[test]
fn real_pages_that_run_out_are_refused_and_are_shared() {
    for_programs_of(400, 8, |program| {
        let mut set_up = program.set_up();
        stack::run(&mut set_up, |actor, _| {
            for mut random in program.steps() {
                actor.step(&mut random);
            }
        });
    });
}

#[test]
fn threads_on_real_pages_that_run_out_are_refused() {
    for_programs_of(400, 32, |program| {
        stack::run_with_threads(program, 1 + program.set_up().below(4));
    });
}
