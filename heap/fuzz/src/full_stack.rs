//! Programs on all layers over real pages, which are refused, interrupted and used by others: the steps of the
//! model `full_stack`, chosen by bytes.

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
    if print_at_exit() {
        print_when_it_ends();
    }
}

/// Whether this is the first program.
fn print_at_exit() -> bool {
    static IS_LATER: AtomicBool = AtomicBool::new(false);
    !IS_LATER.swap(true, Relaxed)
}

/// Prints what the programs got into when the process ends.
fn print_when_it_ends() {
    extern "C" fn print() {
        println!("{} operations; situations:", stack::operations());
        stack::SITUATIONS.print();
    }
    // SAFETY: the function may be called when the process ends: it uses statics alone.
    unsafe { libc::atexit(print) };
}
