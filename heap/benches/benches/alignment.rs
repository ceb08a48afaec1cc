//! Time for a free and an allocation among many live blocks, for two alignments; and for 1,000
//! operations on page-aligned blocks, and on blocks of a page.

use criterion::measurement::WallTime;
use criterion::{
    AxisScale, BenchmarkGroup, BenchmarkId, Criterion, PlotConfiguration, criterion_group,
    criterion_main,
};
use heap_benches::live::Live;
use heap_benches::peer::{Buddy, LinkedList, NAMES, Peer};
use heap_benches::with_peer;
use heap_benches::workload::PAGES;

mod replays;

/// The numbers of live blocks.
const LIVE: [usize; 3] = [1_000, 10_000, 100_000];

/// Returns whether a peer is measured: with more live blocks, one that searches linearly takes
/// minutes even to set up.
fn is_feasible(peer: &str, live: usize) -> bool {
    live <= 1_000 || ![Buddy::NAME, LinkedList::NAME].contains(&peer)
}

fn among_live(criterion: &mut Criterion) {
    for align in [8, 64] {
        let mut group = replays::group(criterion, &format!("align-{align}"));
        group.plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
        for peer in NAMES.iter().chain(&[LinkedList::NAME]) {
            for live in LIVE.into_iter().filter(|&live| is_feasible(peer, live)) {
                with_peer!(*peer, pairs(&mut group, live, align)).expect("it is a peer");
            }
        }
        group.finish();
    }
}

fn pairs<P: Peer>(group: &mut BenchmarkGroup<WallTime>, count: usize, align: usize) {
    let mut live = Live::<P>::new(count, align);
    group.bench_function(BenchmarkId::new(P::NAME, count), |bencher| {
        bencher.iter(|| live.pair());
    });
}

fn pages(criterion: &mut Criterion) {
    for name in PAGES {
        let mut group = replays::group(criterion, name);
        replays::bench_peers(&mut group, name, |peer| BenchmarkId::from_parameter(peer));
        group.finish();
    }
}

criterion_group!(benches, among_live, pages);
criterion_main!(benches);
