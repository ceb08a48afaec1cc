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

/// The times are those of so many operations: what are microseconds in the results are nanoseconds for
/// one operation.
const OPERATIONS: f64 = 1_000.0;

/// [`LinkedList`] looks at every hole, and takes seconds for what others do in milliseconds: of each
/// workload it gets so many operations from the beginning only.
const LINKED_LIST_OPERATIONS: usize = 10_000;

/// A group of measurements that are all quick.
pub fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        // Each sample as long as the others: most replays take milliseconds.
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    group
}

/// Puts all peers, the null allocator among them, through a workload. `id` makes a benchmark's name of a
/// peer's.
pub fn bench_peers(
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

/// Replays in new heaps. Each sample is one replay that nobody disturbed, put together from several.
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
