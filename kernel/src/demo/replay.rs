//! The first part of the demonstration: replays a recorded program on the kernel heap, and draws
//! how the heap grows and shrinks.

use alloc::vec::Vec;

use kernel::heap::HEAP;
use kernel::println;
use kernel::trace::Trace;

use super::format::{Bar, Bytes, Count};
use super::replayer::Replayer;

/// The numbers of lines for the operations, and for freeing the remaining blocks.
const STAGES: (usize, usize) = (20, 8);
const WIDTH: usize = 40;

/// Replays `trace`, and draws. Returns whether no allocation failed, no block was damaged, and the
/// heap is as small as before.
pub(crate) fn replay(name: &str, trace: &Trace<'_>) -> bool {
    HEAP.reap();
    let before = HEAP.stats();
    println!();
    println!(
        "The recorded program `{name}` on the kernel heap: {} operations, at most {} live,",
        Count(trace.len() as u64),
        Bytes(trace.peak())
    );
    println!(
        "every byte of every block verified; the remaining blocks are freed from the top down."
    );
    println!("In the bars, # is live memory, and - is further mapped memory.");
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
    let replayer = Replayer::<_, true>::new(&HEAP, trace.slots());
    let (Some(mut replayer), Ok(())) = (replayer, order.try_reserve_exact(trace.slots())) else {
        println!(
            "  not enough memory for the {} slots",
            Count(trace.slots() as u64)
        );
        return false;
    };
    for (done, operation) in trace.operations().enumerate() {
        if done % trace.len().div_ceil(STAGES.0) == 0 {
            line(&Count(done as u64), replayer.live);
        }
        replayer.replay(operation);
    }
    line(&Count(trace.len() as u64), replayer.live);
    replayer.highest_first(&mut order);
    for (done, &slot) in order.iter().enumerate() {
        if done > 0 && done % order.len().div_ceil(STAGES.1) == 0 {
            line(&"freeing", replayer.live);
        }
        replayer.free(slot);
    }
    line(&"all freed", replayer.live);
    let (failed, damaged, peak) = (replayer.failed, replayer.damaged, replayer.peak);
    drop((replayer, order));
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
