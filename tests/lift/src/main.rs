//! A kernel that has nothing but the bootloader's memory map and the crate `x86_64`, with the heap
//! in it. It allocates, grows by several MiB and frees. Then its frames are free again.
#![no_std]
#![no_main]

extern crate alloc;

mod frames;
mod heap;

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::hint::black_box;
use core::panic::PanicInfo;

use bootloader_api::config::Mapping;
use bootloader_api::{BootInfo, BootloaderConfig, entry_point};
use x86_64::instructions::hlt;
use x86_64::instructions::port::Port;

const CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_end = Some(0x7fff_ffff_f000);
    config
};

entry_point!(start, config = &CONFIG);

fn start(boot_info: &'static mut BootInfo) -> ! {
    // SAFETY: the bootloader has made the boot information, and calls this function once.
    unsafe { heap::start(boot_info) };
    let before = frames_in_use();

    let mut documents: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 60_000]).collect();
    let squares: BTreeMap<u64, u64> = (0..10_000).map(|n| (n, n * n)).collect();
    documents[3].resize(2_000_000, 3);
    let peak = frames_in_use();
    assert!(
        documents
            .iter()
            .zip(0..)
            .all(|(text, n)| text.iter().all(|&byte| byte == n))
    );
    assert!(squares.iter().all(|(n, square)| n * n == *square));

    drop((documents, squares));
    // While the kernel works on, what stays free goes back: this takes no call.
    for number in 0..10_000 {
        black_box(vec![number; 1_000]);
    }
    let freed = frames_in_use();
    // What is left is what the heap retains for speed.
    heap::HEAP.reap();
    let after = frames_in_use();
    print(format_args!(
        "frames: {before} before, {peak} at the peak, {freed} some time after all is freed, \
         {after} after a reap\n"
    ));
    let live = 8_000_000 / 4096;
    let succeeds = before == 0 && peak > live && freed < live / 5 && after < 12;
    exit(if succeeds { 0x10 } else { 0x11 })
}

/// Returns the number of frames that the heap, its page tables and its boundary tags have.
fn frames_in_use() -> usize {
    // SAFETY: the allocator is only asked for its count.
    unsafe { heap::MEMORY.frames() }.lock().in_use()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    print(format_args!("{info}\n"));
    exit(0x12)
}

/// Prints to the serial port.
fn print(text: fmt::Arguments) {
    struct Serial;

    impl Write for Serial {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                // SAFETY: the first serial port is at this I/O port, or there is none.
                unsafe { Port::new(0x3f8).write(byte) };
            }
            Ok(())
        }
    }

    let _ = Serial.write_fmt(text);
}

/// Ends QEMU with a code.
fn exit(code: u32) -> ! {
    // SAFETY: at this port is the exit device, or no device at all.
    unsafe { Port::new(0xf4).write(code) };
    loop {
        hlt();
    }
}
