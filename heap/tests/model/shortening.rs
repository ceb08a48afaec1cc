//! The shortening of failing programs, on which the model tests rely.

use crate::common::programs::{Program, shorten};

#[test]
fn a_failing_program_is_shortened_to_the_steps_that_matter() {
    let program = Program::new(7, 200);
    let culprits = [program.seeds()[31], program.seeds()[150]];
    let shortest = shorten(program, &|program| {
        assert!(!culprits.iter().all(|seed| program.seeds().contains(seed)));
    });
    assert_eq!(shortest.seeds(), culprits);
}
