//! Counts ten tenths of a second, and leaves the CPU halted meanwhile.
//!
//! `./run-qemu.sh --example timer`
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::string::String;

use kernel::exit::ExitCode;
use kernel::interrupts::{self, timer};
use kernel::{Boot, println};

kernel::entry_point!(kernel_main);

fn kernel_main(_boot: Boot) -> ExitCode {
    let rate = u64::from(timer::start(1000));
    println!("The timer ticks {rate} times in a second.");
    let mut bar = String::new();
    for tenth in 1..=10 {
        let end = timer::ticks() + rate / 10;
        interrupts::wait_until(|| (timer::ticks() >= end).then_some(()));
        bar.push('#');
        println!("{tenth:2} {bar}");
    }
    timer::stop();
    ExitCode::Success
}
