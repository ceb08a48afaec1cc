//! The scenarios: the operations that are measured.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::peer::{PAGE, Peer};

/// Runs a scenario with `live` allocated segments, and returns the time of the operations. `None`
/// if the scenario does not exist, or the peer cannot run it.
pub fn run<S: Peer>(scenario: &str, live: usize, operations: usize) -> Option<Duration> {
    let elapsed = match scenario {
        "newest-instant" => newest::<S, false>(live, operations),
        "newest-best" => newest::<S, true>(live, operations),
        "random-instant" => random::<S, false>(live, operations),
        "random-best" => random::<S, true>(live, operations),
        "holes-instant" => holes::<S, false>(live, operations),
        "holes-best" => holes::<S, true>(live, operations),
        "spans" => spans::<S>(live, operations),
        "constrained" => constrained::<S>(live, operations),
        "import" => import::<S>(live, operations),
        "resize" => return resize::<S>(live, operations),
        _ => return None,
    };
    Some(elapsed)
}

/// The loop whose instructions `count.sh` counts.
#[inline(never)]
fn measured(operations: usize, mut operation: impl FnMut(usize)) -> Duration {
    let start = Instant::now();
    for number in 0..operations {
        operation(number);
    }
    start.elapsed()
}

/// Returns an arena with `live` segments of one, two and three pages, and free space after them.
fn filled<S: Peer>(live: usize) -> (S, Vec<usize>) {
    let arena = S::empty();
    arena.add_span(PAGE, 4 * (live + 100) * PAGE);
    let blocks = (0..live).map(|number| arena.alloc::<false>(size(number)));
    let blocks = blocks.collect();
    (arena, blocks)
}

fn size(number: usize) -> usize {
    (1 + number % 3) * PAGE
}

/// Allocates a segment, and frees it.
fn newest<S: Peer, const BEST: bool>(live: usize, operations: usize) -> Duration {
    let (arena, _blocks) = filled::<S>(live);
    measured(operations, |number| {
        arena.free(arena.alloc::<BEST>(size(number)));
    })
}

/// Frees a random segment, and allocates another.
fn random<S: Peer, const BEST: bool>(live: usize, operations: usize) -> Duration {
    let (arena, mut blocks) = filled::<S>(live);
    let mut state = 1_u64;
    measured(operations, |number| {
        // Knuth's MMIX generator, whose high bits are the better ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let block = &mut blocks[(state >> 33) as usize % live];
        arena.free(*block);
        *block = arena.alloc::<BEST>(size(number));
    })
}

/// Allocates 35 pages and frees them, in an arena with many holes of 33 pages and one of 35.
fn holes<S: Peer, const BEST: bool>(holes: usize, operations: usize) -> Duration {
    let arena = S::empty();
    arena.add_span(PAGE, (holes * 34 + 36) * PAGE);
    // All of them come from the one span, in address order.
    let large = [arena.alloc::<BEST>(35 * PAGE), arena.alloc::<BEST>(PAGE)];
    let pairs = (0..holes).map(|_| (arena.alloc::<BEST>(33 * PAGE), arena.alloc::<BEST>(PAGE)));
    let pairs: Vec<_> = pairs.collect();
    arena.free(large[0]);
    for &(hole, _) in &pairs {
        arena.free(hole);
    }
    measured(operations, |_| arena.free(arena.alloc::<BEST>(35 * PAGE)))
}

/// Adds a span to an arena with `spans` others.
fn spans<S: Peer>(spans: usize, operations: usize) -> Duration {
    let arena = S::empty();
    let base = |number: usize| (1 + 2 * number) * PAGE;
    for number in 0..spans {
        arena.add_span(base(number), PAGE);
    }
    measured(operations, |number| {
        arena.add_span(base(spans + number), PAGE)
    })
}

/// Allocates a segment with alignment, phase, boundary, minimum and maximum, and frees it.
fn constrained<S: Peer>(live: usize, operations: usize) -> Duration {
    let (arena, _blocks) = filled::<S>(live);
    let (min, max) = (2 * live * PAGE, 4 * (live + 100) * PAGE);
    measured(operations, |_| {
        arena.free(arena.alloc_constrained(min, max))
    })
}

/// Allocates two segments and frees them. Each time, two spans are imported and released.
fn import<S: Peer>(live: usize, operations: usize) -> Duration {
    let arena = S::borrowing(4 * (live + 100));
    let _blocks: Vec<_> = (0..live)
        .map(|number| arena.alloc::<false>(size(number)))
        .collect();
    measured(operations, |number| {
        let blocks = [0, 1].map(|more| arena.alloc::<false>(size(number + more)));
        for block in black_box(blocks) {
            arena.free(block);
        }
    })
}

/// Grows a segment by a page, and shrinks it again.
fn resize<S: Peer>(live: usize, operations: usize) -> Option<Duration> {
    let (arena, blocks) = filled::<S>(live);
    let last = *blocks.last()?;
    let before = size(live - 1);
    if !arena.resize(last, before) {
        return None;
    }
    Some(measured(operations, |_| {
        arena.resize(last, before + PAGE);
        arena.resize(last, before);
    }))
}
