//! Random actions by one and by two threads at once, each on its own blocks: nanoseconds for an
//! operation of any thread.
//!
//! `threads [THREADS]`: the number of threads that is compared with one; 2 by default.
//!
//! Each thread repeats the random actions of the other benchmarks. The shortest of several times
//! counts, because a busy machine makes times longer and never shorter. All rows include the replay
//! itself, which the row `nothing` shows.

use std::alloc::{GlobalAlloc, Layout};
use std::env;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use heap::slab::{SlabAllocator, Threads};
use heap::source::Claim;
use heap::talc::TalcLock;
use heap_benches::arena::Arena;
use heap_benches::forward_to_global;
use heap_benches::peer::Peer;
use heap_benches::replay::{replay, slots};
use heap_benches::trace::Trace;
use heap_benches::workload::workload;
use spin::mutex::TicketMutex;

/// The number of measurements of which the shortest counts.
const ROUNDS: usize = 7;

/// The memory of each allocator.
const ROOM: usize = 256 << 20;

/// A shared allocator, as each thread's peer.
struct Shared<'a, G>(&'a G);

impl<G: GlobalAlloc> Peer for Shared<'_, G> {
    const NAME: &'static str = "shared";

    unsafe fn new(_: *mut u8, _: usize) -> Option<Self> {
        None
    }

    forward_to_global!(self => self.0);
}

/// No allocator: the cost of the replay.
struct Nothing;

// SAFETY: the replay does not use the blocks, except that `realloc` is not the default, which would
// copy.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        std::hint::black_box(layout.size());
        std::ptr::dangling_mut()
    }

    unsafe fn dealloc(&self, ptr: *mut u8, _: Layout) {
        std::hint::black_box(ptr);
    }

    unsafe fn realloc(&self, ptr: *mut u8, _: Layout, _: usize) -> *mut u8 {
        ptr
    }
}

/// Returns nanoseconds for an operation when `threads` threads run at once.
fn time<G: GlobalAlloc + Sync>(heap: &G, trace: &Trace, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let run = || {
        let mut slots = slots(trace);
        let mut peer = Shared(heap);
        assert!(replay(&mut peer, trace, &mut slots), "out of memory");
        let mut shortest = Duration::MAX;
        for _ in 0..ROUNDS {
            barrier.wait();
            let start = Instant::now();
            assert!(replay(&mut peer, trace, &mut slots), "out of memory");
            barrier.wait();
            shortest = shortest.min(start.elapsed());
        }
        shortest
    };
    let shortest = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let times = running
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        times.max().expect("there is a thread")
    });
    shortest.as_nanos() as f64 / (threads * trace.operations.len()) as f64
}

fn row<G: GlobalAlloc + Sync>(name: &str, heap: &G, trace: &Trace, threads: usize) {
    let (one, all) = (time(heap, trace, 1), time(heap, trace, threads));
    println!("{name:<20}{one:>12.1}{all:>12.1}{:>12.2}", one / all);
}

/// Returns Talc's source of memory.
fn claim(arena: &Arena) -> Claim {
    // SAFETY: only one allocator uses the arena, which outlives it.
    unsafe { Claim::new(arena.base(), arena.size()) }
}

fn main() {
    let threads = env::args()
        .nth(1)
        .map_or(2, |count| count.parse().expect("a number"));
    for name in ["random-200", "random-1000", "random-1000-realloc"] {
        let trace = workload(name).expect("it exists");
        println!(
            "{name:<20}{:>12}{:>12}{:>12}",
            "1 thread",
            format!("{threads} threads"),
            "speedup"
        );
        row("nothing", &Nothing, &trace, threads);
        let arena = Arena::new(ROOM);
        let talc = TalcLock::<spin::Mutex<()>, _>::new(claim(&arena));
        let slabs = SlabAllocator::<_, Threads<64>, 64>::new(talc, Threads::new());
        row("slabs", &slabs, &trace, threads);
        // A fair lock: those who wait get it in the order in which they came.
        let arena = Arena::new(ROOM);
        let talc = TalcLock::<TicketMutex<()>, _>::new(claim(&arena));
        let slabs = SlabAllocator::<_, Threads<64>, 64>::new(talc, Threads::new());
        row("slabs, ticket lock", &slabs, &trace, threads);
        let arena = Arena::new(ROOM);
        let heap = TalcLock::<spin::Mutex<()>, _>::new(claim(&arena));
        row("heap, spin lock", &heap, &trace, threads);
        let arena = Arena::new(ROOM);
        // SAFETY: only this allocator uses the arena, which outlives it.
        let source = unsafe { talc::source::Claim::new(arena.base(), arena.size()) };
        let talc = talc::TalcLock::<spin::Mutex<()>, _>::new(source);
        row("talc, spin lock", &talc, &trace, threads);
        row("mimalloc", &mimalloc::MiMalloc, &trace, threads);
        println!();
    }
}
