//! Prints what is typed on the keyboard, and ends with Escape. Each interrupt of the keyboard puts
//! a byte into a queue on the heap, and the main function decodes them.
//!
//! `./run-qemu.sh --display --example keyboard`
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::collections::VecDeque;

use kernel::exit::ExitCode;
use kernel::interrupts::{self, Irq};
use kernel::sync::InterruptMutex;
use kernel::{Boot, print, println};
use pc_keyboard::layouts::{AnyLayout, Us104Key};
use pc_keyboard::{DecodedKey, HandleControl, PS2Keyboard, ScancodeSet1};
use x86_64::instructions::port::Port;

kernel::entry_point!(kernel_main);

/// The bytes that the keyboard has sent.
static BYTES: InterruptMutex<VecDeque<u8>> = InterruptMutex::new(VecDeque::new());

/// Takes a byte from the keyboard.
fn take_byte() {
    // SAFETY: this is the port of the keyboard, which no other code uses. Reading it takes the byte
    // that the interrupt announces.
    let byte = unsafe { Port::new(0x60).read() };
    BYTES.lock().push_back(byte);
}

fn kernel_main(_boot: Boot) -> ExitCode {
    if let Err(error) = interrupts::register(Irq::KEYBOARD, take_byte) {
        println!("{error}");
        return ExitCode::Failed;
    }
    println!("Type something. Escape ends the kernel.");
    let layout = AnyLayout::Us104Key(Us104Key);
    let mut keyboard = PS2Keyboard::new(ScancodeSet1::new(), layout, HandleControl::Ignore);
    loop {
        let byte = interrupts::wait_until(|| BYTES.lock().pop_front());
        // A byte that belongs to no key is skipped.
        let Ok(Some(event)) = keyboard.add_byte(byte) else {
            continue;
        };
        match keyboard.process_keyevent(event) {
            Some(DecodedKey::Unicode('\u{1b}')) => break,
            Some(DecodedKey::Unicode(character)) => print!("{character}"),
            Some(DecodedKey::RawKey(key)) => print!("<{key:?}>"),
            None => {}
        }
    }
    println!("\nGoodbye.");
    ExitCode::Success
}
