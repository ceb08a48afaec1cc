//! Runs one peer on one workload, and prints the number of operations, for `callgrind.sh`.

use std::env;

use heap_benches::arena::Arena;
use heap_benches::peer::Peer;
use heap_benches::replay::{replay, slots};
use heap_benches::trace::Trace;
use heap_benches::with_peer;
use heap_benches::workload::{room, workload};

fn run<P: Peer>(trace: &Trace, room: usize) {
    let arena = Arena::new(room);
    // SAFETY: only this peer uses the arena.
    let mut peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
    assert!(replay(&mut peer, trace, &mut slots(trace)), "out of memory");
}

fn main() {
    let mut arguments = env::args().skip(1);
    let (Some(peer), Some(name)) = (arguments.next(), arguments.next()) else {
        panic!("usage: instructions PEER WORKLOAD");
    };
    let trace = workload(&name).expect("the name of a workload");
    with_peer!(peer.as_str(), run(&trace, room(&name))).expect("the name of a peer");
    println!("{}", trace.operations.len());
}
