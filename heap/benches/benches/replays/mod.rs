//! Replays as criterion's benchmarks.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode};
use heap_benches::arena::Arena;
use heap_benches::parts::Parts;
use heap_benches::peer::{LinkedList, NAMES, Null, Peer};
use heap_benches::replay::slots;
use heap_benches::trace::Trace;
use heap_benches::with_peer;
use heap_benches::workload::{room, shortened, workload};

/// The number of operations per measurement: microseconds in the results are nanoseconds for one
/// operation.
const OPERATIONS: f64 = 1_000.0;

/// [`LinkedList`] probes every hole, and takes seconds where others take milliseconds. It gets only
/// this many operations from the beginning of each workload.
const LINKED_LIST_OPERATIONS: usize = 10_000;

/// Starts a group of measurements, all of which are quick.
pub(crate) fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        // All samples take equally long: most replays take milliseconds.
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    group
}

/// Measures all peers, including the null allocator, with a workload. `id` turns the name of a peer
/// into that of a benchmark.
pub(crate) fn bench_peers(
    group: &mut BenchmarkGroup<WallTime>,
    name: &str,
    id: impl Fn(&str) -> BenchmarkId,
) {
    let trace = workload(name).expect("it exists");
    for peer in NAMES.iter().chain(&[Null::NAME]) {
        with_peer!(*peer, bench(group, id(peer), &trace, room(name))).expect("it is a peer");
    }
    let trace = shortened(trace, LINKED_LIST_OPERATIONS);
    let beginning = format!("{} ({LINKED_LIST_OPERATIONS} only)", LinkedList::NAME);
    bench::<LinkedList>(group, id(&beginning), &trace, room(name));
}

/// Measures replays in new heaps. Each sample is one undisturbed replay, composed of parts of
/// several.
fn bench<P: Peer>(
    group: &mut BenchmarkGroup<WallTime>,
    id: BenchmarkId,
    trace: &Trace,
    room: usize,
) {
    let arena = Arena::new(room);
    let mut slots = slots(trace);
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|replays| {
            let mut parts = Parts::new(trace);
            (0..replays).for_each(|_| parts.replay::<P>(&arena, trace, &mut slots));
            let scale = OPERATIONS / trace.operations.len() as f64;
            parts.total().mul_f64(replays as f64 * scale)
        });
    });
}
