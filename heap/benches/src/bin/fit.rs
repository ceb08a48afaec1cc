//! The fit of a peer: the smallest arena in which a trace completes, found by bisection, in
//! relation to the trace's peak of live bytes.
//!
//! `fit [PEER…]`

use std::env;

use heap_benches::arena::Arena;
use heap_benches::peer::{self, Peer};
use heap_benches::replay::{replay, slots};
use heap_benches::trace::Trace;
use heap_benches::with_peer;
use heap_benches::workload::{RECORDED, workload};

/// The sizes of arenas are multiples of this.
const STEP: usize = 1024;

fn completes<P: Peer>(trace: &Trace, arena: &Arena, size: usize) -> bool {
    // SAFETY: only this peer uses the arena.
    let peer = unsafe { P::new(arena.base(), size) };
    peer.is_some_and(|mut peer| replay(&mut peer, trace, &mut slots(trace)))
}

/// Returns the live bytes at the peak per byte of the smallest arena. `None` if the peer uses other
/// memory, or needs four times as much.
fn fit<P: Peer>(trace: &Trace) -> Option<f64> {
    if !P::STAYS_IN_RANGE {
        return None;
    }
    let peak = trace.peak_live_bytes as usize;
    let (mut fails, mut completes_at) = (peak / STEP, 4 * peak / STEP);
    let arena = Arena::new(completes_at * STEP);
    if !completes::<P>(trace, &arena, arena.size()) {
        return None;
    }
    while completes_at - fails > 1 {
        let middle = fails.midpoint(completes_at);
        if completes::<P>(trace, &arena, middle * STEP) {
            completes_at = middle;
        } else {
            fails = middle;
        }
    }
    Some(peak as f64 / (completes_at * STEP) as f64)
}

fn main() {
    let named: Vec<_> = env::args().skip(1).collect();
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    print!("{:<12}", "fit, %");
    RECORDED.iter().for_each(|trace| print!("{trace:>9}"));
    println!();
    for peer in if named.is_empty() {
        &peer::NAMES[..]
    } else {
        &named
    } {
        print!("{peer:<12}");
        for name in RECORDED {
            let trace = workload(name).expect("it exists");
            match with_peer!(*peer, fit(&trace)).expect("the name of a peer") {
                Some(fit) => print!("{:>9.3}", fit * 100.0),
                None => print!("{:>9}", "-"),
            }
        }
        println!();
    }
}
