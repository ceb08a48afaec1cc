//! What an alignment costs among many live blocks: nanoseconds for a free and an allocation.
//!
//! `alignment` prints a table; `alignment PEER LIVE ALIGN PAIRS` runs one case, for `callgrind.sh`.

use std::env;
use std::time::Instant;

use heap_benches::live::Live;
use heap_benches::peer::{Dlmalloc, Heap, Peer, Rlsf, Talc};
use heap_benches::with_peer;

/// Without those that take a minute for a number.
const PEERS: [&str; 4] = [Heap::NAME, Talc::NAME, Rlsf::NAME, Dlmalloc::NAME];

/// How many blocks are live.
const LIVE: [usize; 3] = [1_000, 10_000, 100_000];

/// Small enough that lists are not searched for minutes.
const PAIRS: usize = 20_000;

fn run<P: Peer>(live: usize, align: usize, pairs: usize) -> f64 {
    let mut live = Live::<P>::new(live, align);
    let start = Instant::now();
    (0..pairs).for_each(|_| live.pair());
    start.elapsed().as_nanos() as f64 / pairs as f64
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
                let time = with_peer!(peer, run(live, align, PAIRS)).expect("it is a peer");
                print!("{time:>9.0}");
            }
            println!();
        }
    }
}
