//! The kernel `my-kernel`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod picture;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use kernel::exit::ExitCode;
use kernel::heap::HEAP;
use kernel::{Boot, println};

kernel::entry_point!(kernel_main);

/// Runs when serial port, screen, interrupts, memory and heap are ready.
fn kernel_main(boot: Boot) -> ExitCode {
    if let Some(mut screen) = boot.framebuffer {
        picture::draw(&mut screen);
    }
    println!("This is my-kernel, started by {:?}.", boot.firmware);
    match boot.ramdisk.text("hello.txt") {
        Ok(text) => print_file(text),
        Err(error) => println!("{error}"),
    }
    let squares: Vec<u64> = (1..=10).map(|number| number * number).collect();
    println!("The first squares are {squares:?}.");
    println!("The heap has {} bytes mapped.", HEAP.stats().mapped);
    ExitCode::Success
}

/// Prints a file of the folder `files/`.
fn print_file(text: &str) {
    for line in text.lines() {
        println!("> {line}");
    }
}
