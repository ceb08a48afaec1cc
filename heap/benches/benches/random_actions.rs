//! Time for 1,000 random actions on blocks up to a maximum size, without and with reallocations.

use criterion::{
    AxisScale, BenchmarkId, Criterion, PlotConfiguration, criterion_group, criterion_main,
};
use heap_benches::workload::RANDOM_SIZES;

mod replays;

fn random_actions(criterion: &mut Criterion) {
    for (name, kind) in [("random", ""), ("random, realloc", "-realloc")] {
        let mut group = replays::group(criterion, name);
        group.plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
        for size in RANDOM_SIZES {
            replays::bench_peers(&mut group, &format!("random-{size}{kind}"), |peer| {
                BenchmarkId::new(peer, size)
            });
        }
        group.finish();
    }
}

criterion_group!(benches, random_actions);
criterion_main!(benches);
