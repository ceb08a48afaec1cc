//! The cost of an alignment among many live blocks: nanoseconds for a free and an allocation.
//!
//! `alignment` prints a table; `alignment PEER LIVE ALIGN PAIRS` runs one case, for `callgrind.sh`.
//!
//! Two rows are not allocators. `null` is the cost of the measurement. `one list` is the cost of
//! the memory: a list of free blocks of one size accesses at least one word of each block that is
//! freed.

use std::alloc::Layout;
use std::env;
use std::time::Instant;

use heap_benches::live::Live;
use heap_benches::peer::{Dlmalloc, Heap, Null, Peer, Rlsf, Talc};
use heap_benches::with_peer;

/// The peers, without those that take a minute for one number.
const PEERS: [&str; 6] = [
    Null::NAME,
    OneList::NAME,
    Heap::NAME,
    Talc::NAME,
    Rlsf::NAME,
    Dlmalloc::NAME,
];

/// The numbers of live blocks.
const LIVE: [usize; 3] = [1_000, 10_000, 100_000];

/// The largest number of live blocks for peers that search lists.
const PAIRS: usize = 20_000;

/// The number of measurements of which the median is shown: other programs use the caches too.
const ROUNDS: usize = 5;

/// A list of free blocks of 128 bytes, latest first.
struct OneList {
    free: *mut *mut u8,
    untouched: *mut u8,
}

impl OneList {
    const SIZE: usize = 128;
}

impl Peer for OneList {
    const NAME: &'static str = "one list";

    unsafe fn new(base: *mut u8, _: usize) -> Option<Self> {
        Some(Self {
            free: std::ptr::null_mut(),
            untouched: base,
        })
    }

    #[inline(never)]
    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        assert!(layout.size() <= Self::SIZE && layout.align() <= Self::SIZE);
        if self.free.is_null() {
            // `Live` reserves memory for more than all blocks.
            let block = self.untouched;
            self.untouched = block.wrapping_add(Self::SIZE);
            return block;
        }
        let block = self.free;
        // SAFETY: each block in the list begins with a pointer to the next.
        self.free = unsafe { block.read() }.cast();
        block.cast()
    }

    #[inline(never)]
    unsafe fn deallocate(&mut self, ptr: *mut u8, _: Layout) {
        let block = ptr.cast::<*mut u8>();
        // SAFETY: the block is no longer used, and is aligned and large enough for a pointer.
        unsafe { block.write(self.free.cast()) };
        self.free = block;
    }
}

fn run<P: Peer>(live: usize, align: usize, pairs: usize) -> f64 {
    let mut live = Live::<P>::new(live, align);
    let start = Instant::now();
    (0..pairs).for_each(|_| live.pair());
    start.elapsed().as_nanos() as f64 / pairs as f64
}

/// Returns the median of runs, each from the beginning: allocators that search do so most at first.
fn median<P: Peer>(live: usize, align: usize) -> f64 {
    let mut times = [(); ROUNDS].map(|()| run::<P>(live, align, PAIRS));
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn number(argument: &str) -> usize {
    argument.parse().expect("a number")
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [peer, live, align, pairs] = &arguments[..] {
        let (live, align, pairs) = (number(live), number(align), number(pairs));
        with_peer!(peer.as_str(), run(live, align, pairs)).expect("the name of a peer");
        return;
    }
    println!(
        "ns a pair   align{}",
        LIVE.map(|live| format!("{live:>9}")).concat()
    );
    for peer in PEERS {
        for align in [8, 64] {
            print!("{peer:<12}{align:>5}");
            for live in LIVE {
                let time = match peer {
                    OneList::NAME => median::<OneList>(live, align),
                    _ => with_peer!(peer, median(live, align)).expect("it is a peer"),
                };
                print!("{time:>9.1}");
            }
            println!();
        }
    }
}
