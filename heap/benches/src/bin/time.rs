//! Nanoseconds per operation, without those of the replay itself (the null peer's).
//!
//! `time [WORKLOAD…]`; the recorded traces if none is named.
//!
//! On a busy machine, times are too long and never too short. Therefore the peers take turns, each
//! part of a replay is timed by itself, and the shortest time of each part counts.

use std::env;
use std::time::Duration;

use heap_benches::arena::Arena;
use heap_benches::parts::Parts;
use heap_benches::peer::{NAMES, Null, Peer, Slabs, Talc};
use heap_benches::replay::{Slot, slots};
use heap_benches::trace::Trace;
use heap_benches::with_peer;
use heap_benches::workload::{RECORDED, room, workload};

/// The number of replays by each peer.
const ROUNDS: usize = 100;

/// Returns the time of an undisturbed replay by each of the [`peers`].
fn undisturbed(arena: &Arena, trace: &Trace) -> Vec<Duration> {
    let mut slots = slots(trace);
    let mut parts: Vec<_> = peers().map(|_| Parts::new(trace)).collect();
    for _ in 0..ROUNDS {
        for (peer, parts) in peers().zip(&mut parts) {
            with_peer!(peer, run(arena, trace, &mut slots, parts)).expect("it is a peer");
        }
    }
    parts.iter().map(Parts::total).collect()
}

fn run<P: Peer>(arena: &Arena, trace: &Trace, slots: &mut [Slot], parts: &mut Parts) {
    parts.replay::<P>(arena, trace, slots);
}

/// Returns all peers that are measured; the null peer is the last.
fn peers() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain([Null::NAME])
}

fn main() {
    let mut names: Vec<_> = env::args().skip(1).collect();
    if names.is_empty() {
        names = RECORDED.map(String::from).to_vec();
    }
    print!("{:<24}", "net ns an operation");
    NAMES.iter().for_each(|peer| print!("{peer:>10}"));
    println!("{:>14}", "slabs / talc");
    let mut product = 1.0;
    for name in &names {
        let trace = workload(name).expect("the name of a workload");
        let arena = Arena::new(room(name));
        let times = undisturbed(&arena, &trace);
        let (null, times) = times.split_last().expect("there are peers");
        let net = |&time: &Duration| {
            (time.as_nanos() as f64 - null.as_nanos() as f64) / trace.operations.len() as f64
        };
        let of = |name| {
            let index = NAMES.iter().position(|&peer| peer == name);
            net(&times[index.expect("it is a peer")])
        };
        print!("{name:<24}");
        times.iter().for_each(|time| print!("{:>10.2}", net(time)));
        let ratio = of(Slabs::NAME) / of(Talc::NAME);
        println!("{ratio:>14.3}");
        product *= ratio;
    }
    println!(
        "geometric mean of slabs / talc {:.3}",
        product.powf(1.0 / names.len() as f64)
    );
}
