//! Allocates zeroed blocks of 64 KiB and prints their number, for callgrind to count.
//!
//! `zeroed known|unknown COUNT`: the memory comes from a source that declares it as zero, or does
//! not.

use std::alloc::{GlobalAlloc, Layout};
use std::env;

use heap::talc::TalcCell;
use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::source::Source;
use heap_benches::arena::Arena;

const ROOM: usize = 128 << 20;

/// A source that grants all its memory at once.
#[derive(Debug)]
struct All<const ZEROED: bool> {
    base: *mut u8,
}

// SAFETY: the memory is granted once. It is zero because the system has just mapped it.
unsafe impl<const ZEROED: bool> Source for All<ZEROED> {
    const TRACK_HEAP_END: bool = true;
    const GRANTS_ZEROED: bool = ZEROED;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let base = std::mem::replace(&mut talc.source.base, std::ptr::null_mut());
        // SAFETY: the source was made with this memory.
        unsafe { talc.claim_zeroed(base, ROOM) }
            .map(|_| ())
            .ok_or(())
    }
}

fn run<const ZEROED: bool>(count: usize) {
    let arena = Arena::new(ROOM);
    let talc = TalcCell::new(All::<ZEROED> { base: arena.base() });
    let layout = Layout::from_size_align(1 << 16, 8).expect("a small layout");
    for _ in 0..count {
        // SAFETY: the size is not zero.
        let block = unsafe { talc.alloc_zeroed(layout) };
        assert!(!block.is_null());
        // SAFETY: the block has this size.
        assert_eq!(unsafe { block.add(layout.size() - 1).read() }, 0);
    }
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [known, count] = &arguments[..] else {
        panic!("usage: zeroed known|unknown COUNT");
    };
    let count = count.parse().expect("a number");
    match known.as_str() {
        "known" => run::<true>(count),
        _ => run::<false>(count),
    }
    println!("{count}");
}
