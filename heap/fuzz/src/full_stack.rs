//! Programs on all layers over real pages, with fault injection, interruptions and other users of
//! the arena. The steps are those of the model test `full_stack`, chosen by bytes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::input::Input;
use crate::stack;

/// Runs a program.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    stack::run(&mut input, |actor, input| {
        while !input.is_over() {
            actor.step(input);
        }
    });
    if is_first_program() {
        register_report();
    }
}

/// Returns whether this is the first program of the process.
fn is_first_program() -> bool {
    static HAS_RUN: AtomicBool = AtomicBool::new(false);
    !HAS_RUN.swap(true, Relaxed)
}

/// Registers a function that prints the situations of all programs when the process exits.
fn register_report() {
    extern "C" fn print() {
        println!("{} operations; situations:", stack::operations());
        stack::SITUATIONS.print();
    }
    // SAFETY: the function uses only statics, so it is sound to call it when the process exits.
    unsafe { libc::atexit(print) };
}
