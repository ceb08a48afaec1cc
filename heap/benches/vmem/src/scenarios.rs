//! What is measured.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::subject::{PAGE, Subject};

/// Runs a scenario with `live` segments in place, and returns what the operations took. `None` if
/// there is no such scenario, or the subject cannot do it.
pub fn run<S: Subject>(scenario: &str, live: usize, operations: usize) -> Option<Duration> {
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

/// What `count.sh` counts the instructions of.
#[inline(never)]
fn measured(operations: usize, mut operation: impl FnMut(usize)) -> Duration {
    let start = Instant::now();
    for number in 0..operations {
        operation(number);
    }
    start.elapsed()
}

/// An arena with so many segments of one, two and three pages, and much room after them.
fn filled<S: Subject>(live: usize) -> (S, Vec<usize>) {
    let arena = S::empty();
    arena.add_span(PAGE, 4 * (live + 100) * PAGE);
    let blocks = (0..live).map(|number| arena.alloc::<false>(size(number)));
    let blocks = blocks.collect();
    (arena, blocks)
}

fn size(number: usize) -> usize {
    (1 + number % 3) * PAGE
}

/// Allocates, and frees that.
fn newest<S: Subject, const BEST: bool>(live: usize, operations: usize) -> Duration {
    let (arena, _blocks) = filled::<S>(live);
    measured(operations, |number| {
        arena.free(arena.alloc::<BEST>(size(number)));
    })
}

/// Frees any, and allocates another.
fn random<S: Subject, const BEST: bool>(live: usize, operations: usize) -> Duration {
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

/// Allocates 35 pages and frees them, where there are many holes of 33 and one of 35.
fn holes<S: Subject, const BEST: bool>(holes: usize, operations: usize) -> Duration {
    let arena = S::empty();
    arena.add_span(PAGE, (holes * 34 + 36) * PAGE);
    // From the one span, in address order.
    let large = [arena.alloc::<BEST>(35 * PAGE), arena.alloc::<BEST>(PAGE)];
    let pairs = (0..holes).map(|_| (arena.alloc::<BEST>(33 * PAGE), arena.alloc::<BEST>(PAGE)));
    let pairs: Vec<_> = pairs.collect();
    arena.free(large[0]);
    for &(hole, _) in &pairs {
        arena.free(hole);
    }
    measured(operations, |_| arena.free(arena.alloc::<BEST>(35 * PAGE)))
}

/// Adds a span to so many others.
fn spans<S: Subject>(spans: usize, operations: usize) -> Duration {
    let arena = S::empty();
    let base = |number: usize| (1 + 2 * number) * PAGE;
    for number in 0..spans {
        arena.add_span(base(number), PAGE);
    }
    measured(operations, |number| {
        arena.add_span(base(spans + number), PAGE)
    })
}

/// Allocates with alignment, phase, boundary, minimum and maximum, and frees that.
fn constrained<S: Subject>(live: usize, operations: usize) -> Duration {
    let (arena, _blocks) = filled::<S>(live);
    let (min, max) = (2 * live * PAGE, 4 * (live + 100) * PAGE);
    measured(operations, |_| {
        arena.free(arena.alloc_constrained(min, max))
    })
}

/// Allocates what is there only for as long as it is needed: two borrowed spans come and go.
fn import<S: Subject>(live: usize, operations: usize) -> Duration {
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
fn resize<S: Subject>(live: usize, operations: usize) -> Option<Duration> {
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
