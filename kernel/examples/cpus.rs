//! Work for all CPUs: `./run-qemu.sh --example cpus --smp 4`.
//!
//! Each CPU sums up a part of the numbers below a million.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

use core::sync::atomic::{AtomicU64, Ordering};

use kernel::cpus;
use kernel::exit::ExitCode;
use kernel::{Boot, println};

kernel::entry_point!(kernel_main);

fn kernel_main(_boot: Boot) -> ExitCode {
    const END: u64 = 1_000_000;

    let sum = AtomicU64::new(0);
    let count = cpus::count() as u64;
    cpus::on_each(|number| {
        let numbers = (number as u64..END).step_by(count as usize);
        let part: u64 = numbers.sum();
        println!("CPU {number}: {part}");
        sum.fetch_add(part, Ordering::Relaxed);
    });
    println!("the sum, on {count} CPUs: {}", sum.into_inner());
    ExitCode::Success
}
