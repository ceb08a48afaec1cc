//! The main job: a recorded program on the kernel heap, with the heap's growth and shrinkage drawn as it happens.

use alloc::vec::Vec;

use kernel::heap::HEAP;
use kernel::println;
use kernel::trace::Trace;

use super::format::{Bar, Bytes, Count};
use super::replayer::Replayer;

/// Lines drawn while the operations are replayed, and while what is left is freed.
const STAGES: (usize, usize) = (20, 8);
const WIDTH: usize = 40;

/// Replays `trace`, and draws. Returns whether everything went well: no allocation failed, no block was damaged, and
/// afterwards the heap is as small as before.
pub fn replay(name: &str, trace: &Trace<'_>) -> bool {
    HEAP.reap();
    let before = HEAP.stats();
    println!();
    println!(
        "The recorded program `{name}` on the kernel heap: {} operations, at most {} live,",
        Count(trace.len() as u64),
        Bytes(trace.peak())
    );
    println!(
        "every byte of every block verified; what is left at the end is freed from the top down."
    );
    println!("In the bars # is live, - is mapped beyond that.");
    println!();
    println!(
        "  {:>9} {:>10} {:>10} {:>7}  {:<WIDTH$}",
        "operation", "live", "mapped", "frames", "0"
    );
    let scale = trace.peak() * 4 / 3;
    let line = |operation: &dyn core::fmt::Display, live: usize| {
        let stats = HEAP.stats();
        let bar = Bar {
            inner: live,
            outer: stats.mapped,
            scale,
            width: WIDTH,
        };
        println!(
            "  {operation:>9} {:>10} {:>10} {:>7} |{bar}|",
            Bytes(live),
            Bytes(stats.mapped),
            Count(stats.frames as u64)
        );
    };

    let mut order = Vec::new();
    let player = Replayer::<_, true>::new(&HEAP, trace.slots());
    let (Some(mut player), Ok(())) = (player, order.try_reserve_exact(trace.slots())) else {
        println!(
            "  there is no memory for its {} slots",
            Count(trace.slots() as u64)
        );
        return false;
    };
    for (done, operation) in trace.operations().enumerate() {
        if done % trace.len().div_ceil(STAGES.0) == 0 {
            line(&Count(done as u64), player.live);
        }
        player.play(operation);
    }
    line(&Count(trace.len() as u64), player.live);
    player.highest_first(&mut order);
    for (done, &slot) in order.iter().enumerate() {
        if done > 0 && done % order.len().div_ceil(STAGES.1) == 0 {
            line(&"freeing", player.live);
        }
        player.free(slot);
    }
    line(&"all freed", player.live);
    let (failed, damaged, peak) = (player.failed, player.damaged, player.peak);
    drop((player, order));
    HEAP.reap();
    line(&"trimmed", 0);

    let after = HEAP.stats();
    println!();
    println!(
        "  {} live at the peak; {failed} allocations failed; {damaged} blocks damaged.",
        Bytes(peak)
    );
    println!(
        "  Frames of the heap: {} before, {} after.",
        before.heap_frames, after.heap_frames
    );
    failed == 0 && damaged == 0 && after.heap_frames == before.heap_frames
}
