//! Replays one trace once on one peer, and prints the number of operations: for `callgrind.sh`.

use std::env;

use heap_benches::arena::Arena;
use heap_benches::peer::Peer;
use heap_benches::replay::{replay, slots, trace};
use heap_benches::trace::Trace;
use heap_benches::with_peer;

/// Buddies need most.
const ROOM: usize = 64 << 20;

fn run<P: Peer>(trace: &Trace) {
    let arena = Arena::new(ROOM);
    // SAFETY: the arena is nobody else's.
    let mut peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
    assert!(replay(&mut peer, trace, &mut slots(trace)), "out of memory");
}

fn main() {
    let mut arguments = env::args().skip(1);
    let (Some(peer), Some(name)) = (arguments.next(), arguments.next()) else {
        panic!("usage: instructions PEER TRACE");
    };
    let trace = trace(&name).expect("the name of a trace");
    with_peer!(peer.as_str(), run(&trace)).expect("the name of a peer");
    println!("{}", trace.operations.len());
}
