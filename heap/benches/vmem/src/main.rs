//! Repeats one operation of an arena, so that `count.sh` can count its instructions and time it.
//!
//! `vmem-benches PEER SCENARIO LIVE OPERATIONS` prints nanoseconds per operation. `PEER` is `heap`,
//! `vmem` or `null`. The peer `null` does nothing: it measures the cost of the loop.

mod ours;
mod peer;
mod scenarios;
mod theirs;

use std::process::ExitCode;

use ours::Ours;
use peer::Null;
use theirs::Theirs;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, scenario, live, operations] = &arguments[..] else {
        eprintln!("usage: vmem-benches heap|vmem|null SCENARIO LIVE OPERATIONS");
        return ExitCode::FAILURE;
    };
    let (Ok(live), Ok(operations)) = (live.parse(), operations.parse()) else {
        eprintln!("LIVE and OPERATIONS are numbers");
        return ExitCode::FAILURE;
    };
    let elapsed = match &peer[..] {
        "heap" => scenarios::run::<Ours>(scenario, live, operations),
        "vmem" => scenarios::run::<Theirs>(scenario, live, operations),
        "null" => scenarios::run::<Null>(scenario, live, operations),
        _ => None,
    };
    match elapsed {
        Some(elapsed) => {
            println!("{:.1}", elapsed.as_nanos() as f64 / operations as f64);
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("no peer {peer}, or no scenario {scenario} for it");
            ExitCode::FAILURE
        }
    }
}
