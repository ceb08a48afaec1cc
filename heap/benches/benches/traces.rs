//! Time for 1,000 operations of the recorded traces.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heap_benches::workload::RECORDED;

mod replays;

fn traces(criterion: &mut Criterion) {
    for name in RECORDED {
        let mut group = replays::group(criterion, name);
        replays::bench_peers(&mut group, name, |peer| BenchmarkId::from_parameter(peer));
        group.finish();
    }
}

criterion_group!(benches, traces);
criterion_main!(benches);
