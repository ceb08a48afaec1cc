//! A heap in a static array as the global allocator, for all threads of the program.
//!
//!     cargo run -p heap --example global_allocator --features counters

use std::collections::BTreeMap;
use std::thread;

use heap::source::Claim;
use heap::talc::{DefaultBinning, TalcLock, min_first_heap_size};

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
    const SIZE: usize = min_first_heap_size::<DefaultBinning>() + (1 << 20);
    static mut MEMORY: [u8; SIZE] = [0; SIZE];
    // SAFETY: nothing else uses `MEMORY`.
    unsafe { Claim::array(&raw mut MEMORY) }
});

fn main() {
    let words = "the heap grows and the heap shrinks and the heap stays";
    let threads: Vec<_> = (1..=4)
        .map(|repeats| thread::spawn(move || count(&words.repeat(repeats))))
        .collect();
    for thread in threads {
        println!("{:?}", thread.join().expect("the thread does not panic"));
    }

    let mut list: Vec<u8> = Vec::new();
    assert!(list.try_reserve(2 << 20).is_err(), "the array has 1 MiB");

    #[cfg(feature = "counters")]
    {
        // Printing may allocate, so the lock is released first.
        let counters = *HEAP.lock().counters();
        println!("{counters}");
    }
}

fn count(text: &str) -> BTreeMap<char, usize> {
    let mut counts = BTreeMap::new();
    for letter in text.chars() {
        *counts.entry(letter).or_default() += 1;
    }
    counts
}
