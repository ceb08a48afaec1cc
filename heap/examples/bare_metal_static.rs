//! A heap for the crate `alloc`, as a kernel sets it up: without the standard library, first in
//! static memory, then in the ranges of the bootloader's memory map.
//!
//!     cargo run -p heap --example bare_metal_static
//!
//! A `main` with a made-up memory map takes the place of the bootloader, so the example runs
//! anywhere.
#![no_std]

extern crate alloc;
/// Only `main` uses it.
extern crate std;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use heap::Span;
use heap::bump::Bump;
use heap::source::Claim;
use heap::talc::TalcLock;

/// Memory for tables that the kernel needs before it has a heap, and never frees.
static BOOT: Bump<[u64; 512]> = Bump::uninit();

/// Claims its first heap at the first allocation, so it needs no initialisation.
#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
    static mut FIRST: [u8; 1 << 16] = [0; 1 << 16];
    // SAFETY: nothing else uses `FIRST`.
    unsafe { Claim::array(&raw mut FIRST) }
});

/// Claims the usable ranges of a memory map, as a kernel does. Returns how many bytes it claimed.
///
/// # Safety
/// The ranges are disjoint, and valid memory for the rest of the program. Nothing else uses them.
unsafe fn kernel_main(usable: &[Span]) -> usize {
    // Tables that live as long as the kernel need no heap.
    let table: &'static mut [u64; 64] = BOOT.leak([0; 64]).expect("512 words are enough");
    table[0] = 1;

    let mut claimed = 0;
    for range in usable {
        // SAFETY: the caller vouches that the range is valid memory that nothing else uses.
        if let Some(end) = unsafe { HEAP.lock().claim(range.base(), range.size()) } {
            claimed += range.below(end.as_ptr()).size();
        }
    }
    claimed
}

fn main() {
    static mut MAP: [[u8; 1 << 18]; 2] = [[0; 1 << 18]; 2];
    let [lower, upper] = {
        let base: *mut [u8; 1 << 18] = (&raw mut MAP).cast();
        [base, base.wrapping_add(1)].map(Span::from_array)
    };
    // The first range begins at an odd address, the second ends at an odd one, the last is too
    // small.
    let usable = [
        lower.truncate(3, 0),
        upper.truncate(0, 100),
        upper.truncate(0, 5).above(upper.end().wrapping_sub(20)),
    ];
    // SAFETY: nothing else uses `MAP`.
    let claimed = unsafe { kernel_main(&usable) };

    let large: Vec<u8> = Vec::with_capacity(200_000);
    let map: BTreeMap<usize, usize> = (0..1000).map(|n| (n, n * n)).collect();
    std::println!(
        "{claimed} bytes claimed; {} bytes in one block, {} in a map",
        large.capacity(),
        map.len()
    );
    let talc = HEAP.lock();
    let checked = talc.check();
    drop(talc);
    checked.expect("all invariants hold");
}
