//! The workloads. All of them are traces, so that one replay serves all.

use std::alloc::Layout;

use crate::random::Random;
use crate::trace::{Operation, Trace};

/// The recorded programs.
pub const RECORDED: [&str; 5] = ["cc", "git", "python", "sqlite", "json"];

/// The largest sizes of random actions, which are called `random-SIZE` and `random-SIZE-realloc`.
pub const RANDOM_SIZES: [usize; 5] = [200, 1_000, 3_000, 10_000, 30_000];

/// The workloads of page-aligned bytes and of whole pages.
pub const PAGES: [&str; 2] = ["byte-at-page", "page-at-byte"];

/// The number of operations of a random workload.
const RANDOM_OPERATIONS: usize = 100_000;

/// The approximate number of live blocks among random actions. At most twice as many are live.
const RANDOM_LIVE: usize = 1_000;

/// The number of pages, and their size.
const PAGE_COUNT: usize = 16_384;
const PAGE: usize = 4096;

/// Returns the workload of that name, or `None` if it is unknown.
pub fn workload(name: &str) -> Option<Trace> {
    let bytes: &[u8] = match name {
        "cc" => include_bytes!("../../../tests/traces/cc.trace"),
        "git" => include_bytes!("../../../tests/traces/git.trace"),
        "python" => include_bytes!("../../../tests/traces/python.trace"),
        "sqlite" => include_bytes!("../../../tests/traces/sqlite.trace"),
        "json" => include_bytes!("../../../tests/traces/json.trace"),
        "byte-at-page" => return Some(all_then_none(Layout::from_size_align(1, PAGE).ok()?)),
        "page-at-byte" => return Some(all_then_none(Layout::from_size_align(PAGE, 1).ok()?)),
        _ => {
            let size = name.strip_prefix("random-")?;
            let (size, reallocates) = match size.strip_suffix("-realloc") {
                Some(size) => (size, true),
                None => (size, false),
            };
            return Some(random_actions(size.parse().ok()?, reallocates));
        }
    };
    Some(Trace::parse(bytes).expect("the trace is not damaged"))
}

/// Returns a size of memory that suffices every peer for the workload of that name. (The cost of a
/// search among lists or levels may depend on it.)
pub fn room(name: &str) -> usize {
    if PAGES.contains(&name) {
        2 * PAGE_COUNT * PAGE
    } else {
        64 << 20
    }
}

/// Returns the first `operations` of a trace.
pub fn shortened(mut trace: Trace, operations: usize) -> Trace {
    trace.operations.truncate(operations);
    trace
}

/// Returns random allocations and frees of blocks of 1 to `max_size` bytes. With `reallocates`,
/// every third operation resizes one.
fn random_actions(max_size: usize, reallocates: bool) -> Trace {
    let mut random = Random::new(max_size as u64);
    let mut vacant: Vec<_> = (0..2 * RANDOM_LIVE).collect();
    // The live slots with their sizes.
    let mut live: Vec<(usize, usize)> = Vec::new();
    let (mut live_bytes, mut peak) = (0, 0);
    let operations = (0..RANDOM_OPERATIONS)
        .map(|_| {
            let new_size = 1 + random.below(max_size);
            let operation = if reallocates && !live.is_empty() && random.below(3) == 0 {
                let index = random.below(live.len());
                let (slot, size) = &mut live[index];
                live_bytes = live_bytes - *size + new_size;
                *size = new_size;
                let slot = *slot;
                Operation::Reallocate { slot, new_size }
            } else if live.len() <= random.below(2 * RANDOM_LIVE) {
                let slot = vacant
                    .pop()
                    .expect("there are slots for all that can be live");
                live.push((slot, new_size));
                live_bytes += new_size;
                let layout = Layout::from_size_align(new_size, 8).expect("a small layout");
                Operation::Allocate { slot, layout }
            } else {
                let (slot, size) = live.swap_remove(random.below(live.len()));
                vacant.push(slot);
                live_bytes -= size;
                Operation::Free { slot }
            };
            peak = peak.max(live_bytes);
            operation
        })
        .collect();
    Trace {
        slots: 2 * RANDOM_LIVE,
        peak_live_bytes: peak as u64,
        operations,
    }
}

/// Returns a trace that allocates many equal blocks, and then frees them in the same order.
fn all_then_none(layout: Layout) -> Trace {
    let allocate = (0..PAGE_COUNT).map(|slot| Operation::Allocate { slot, layout });
    let free = (0..PAGE_COUNT).map(|slot| Operation::Free { slot });
    Trace {
        slots: PAGE_COUNT,
        peak_live_bytes: (PAGE_COUNT * layout.size()) as u64,
        operations: allocate.chain(free).collect(),
    }
}
