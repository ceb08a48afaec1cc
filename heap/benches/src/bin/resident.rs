//! Pages that hold at least one live byte, in relation to the live bytes: what a heap could not
//! give back even if it gave back single pages. The mean of 40 points of a replay, without its
//! ends.
//!
//! `resident [PEER…]`

use std::env;

use heap_benches::arena::Arena;
use heap_benches::pages::touched;
use heap_benches::peer::{self, Peer};
use heap_benches::replay::{replay_part, slots};
use heap_benches::trace::Trace;
use heap_benches::with_peer;
use heap_benches::workload::{RECORDED, room, workload};

/// The number of points at which pages are counted.
const POINTS: usize = 40;

fn resident<P: Peer>(trace: &Trace, room: usize) -> f64 {
    let arena = Arena::new(room);
    // SAFETY: only this peer uses the arena.
    let mut peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
    let mut slots = slots(trace);
    let part = trace.operations.len().div_ceil(POINTS + 1);
    let mut parts = trace.operations.chunks(part);
    let mut sum = 0.0;
    for operations in parts.by_ref().take(POINTS) {
        assert!(
            replay_part(&mut peer, operations, &mut slots),
            "out of memory"
        );
        let (pages, live) = touched(&slots);
        sum += pages as f64 / live as f64;
    }
    sum / POINTS as f64
}

fn main() {
    let named: Vec<_> = env::args().skip(1).collect();
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    print!("{:<16}", "pages / live");
    RECORDED.iter().for_each(|trace| print!("{trace:>9}"));
    println!("{:>9}", "mean");
    for peer in if named.is_empty() {
        &peer::NAMES[..]
    } else {
        &named
    } {
        print!("{peer:<16}");
        let mut sum = 0.0;
        for name in RECORDED {
            let trace = workload(name).expect("it exists");
            let ratio =
                with_peer!(*peer, resident(&trace, room(name))).expect("the name of a peer");
            sum += ratio;
            print!("{ratio:>9.3}");
        }
        println!("{:>9.3}", sum / RECORDED.len() as f64);
    }
}
