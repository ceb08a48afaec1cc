//! How many of its pages a heap gives back while a recorded program runs, and while what is left is
//! freed in the order of its slots. The heap is `heap::slab` over an arena of pages that are mapped
//! and unmapped, with holes and without.
//!
//! `holes [TRACE…]`
//!
//! | column | what |
//! |---|---|
//! | running | (mapped - 64 KiB) / pages with live bytes: the worst of 40 points |
//! | remapped | pages mapped in 1,000 operations beyond those of one growth to the peak |
//! | settled | as running, when no operation has come for a while before each point |
//! | end/live | mapped / live at the end of the trace, settled |
//! | 50 to 98 % | as settled, when this share of the live bytes is freed |
//! | /live | mapped / live when 90 % are freed |
//! | left | pages when all is freed |

use std::alloc::{GlobalAlloc, Layout};
use std::env;

use heap::slab::{OneThread, SlabAllocator};
use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::{Arena, LockApi, NoPages, TagPool};
use heap_benches::pages::{PAGE, Pages, touched};
use heap_benches::peer::Peer;
use heap_benches::replay::{Slot, free_rest, replay_part, slots};
use heap_benches::trace::Trace;
use heap_benches::workload::{RECORDED, workload};

type Lock = LockApi<spin::Mutex<()>>;
type Talc<'a> = TalcLock<spin::Mutex<()>, ArenaSource<'a, &'a Tags, Lock>>;
type Tags = TagPool<Lock, NoPages>;
type Heap<'a> = SlabAllocator<Talc<'a>, OneThread, 1>;

/// The number of operations after which memory that is still free goes back.
const DECAY: usize = 2_000;
/// The number of points at which pages are counted.
const POINTS: usize = 40;
/// What a heap may have mapped beyond its share.
const SLACK: usize = 64 << 10;

/// The heap as a peer of the replay.
struct Decaying<'h, 'a> {
    heap: &'h Heap<'a>,
    operations: usize,
}

impl Decaying<'_, '_> {
    fn count(&mut self) {
        self.operations += 1;
        if self.operations.is_multiple_of(DECAY) {
            self.decay();
        }
    }

    fn decay(&self) {
        self.heap.backing().decay();
        self.heap.backing().drain().expect("the arena takes it");
    }
}

impl Peer for Decaying<'_, '_> {
    const NAME: &'static str = "heap::slab";

    unsafe fn new(_: *mut u8, _: usize) -> Option<Self> {
        None
    }

    unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the size is not zero.
        let block = unsafe { self.heap.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has as many bytes.
            unsafe { block.write_bytes(1, layout.size()) };
        }
        block
    }

    unsafe fn deallocate(&mut self, block: *mut u8, layout: Layout) {
        self.count();
        // SAFETY: the block is live.
        unsafe { self.heap.dealloc(block, layout) };
    }

    unsafe fn reallocate(&mut self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.count();
        // SAFETY: the block is live, and the size is not zero.
        unsafe { self.heap.realloc(block, layout, new_size) }
    }
}

/// A heap over pages, and the blocks of a trace.
struct Run<'h, 'a> {
    pages: &'a Pages,
    peer: Decaying<'h, 'a>,
    slots: Vec<Slot>,
}

impl Run<'_, '_> {
    /// Does what the passing of a few seconds does in a kernel.
    fn settle(&self) {
        self.peer.heap.reap();
        (0..24).for_each(|_| self.peer.decay());
    }

    /// Returns the mapped bytes, those of pages with live bytes, and the live bytes.
    fn sample(&self) -> [usize; 3] {
        let (touched, live) = touched(&self.slots);
        [self.pages.count() * PAGE, touched, live]
    }

    /// Frees the blocks in the order of their slots, up to this share of the live bytes.
    fn free(&mut self, percent: usize, total: usize) {
        let mut rest = touched(&self.slots).1;
        for index in 0..self.slots.len() {
            if rest * 100 <= total * (100 - percent) {
                return;
            }
            if let Some((_, size)) = self.slots[index].block() {
                rest -= size;
                free_rest(&mut self.peer, &mut self.slots[index..=index]);
            }
        }
    }
}

/// Runs `work` with a new heap and an empty table of slots.
fn with_heap<R>(trace: &Trace, makes_holes: bool, work: impl FnOnce(Run<'_, '_>) -> R) -> R {
    let tags: Tags = TagPool::new(Lock::new(), NoPages);
    let pages = Pages::new(makes_holes);
    let arena = Arena::<_, Lock>::create("pages", PAGE, Some(&pages), &tags)
        .expect("tags are there")
        .with_retained_spans(0);
    // SAFETY: the arena's pages are memory, zero, and only the source uses them.
    let source = unsafe { ArenaSource::new(&arena).of_zeroed_memory() };
    let heap = Heap::new(TalcLock::new(source), OneThread::new());
    let peer = Decaying {
        heap: &heap,
        operations: 0,
    };
    work(Run {
        pages: &pages,
        peer,
        slots: slots(trace),
    })
}

/// Returns mapped bytes beyond the slack, as a share of the pages with live bytes.
fn beyond([mapped, touched, _]: [usize; 3]) -> f64 {
    mapped.saturating_sub(SLACK) as f64 / touched as f64
}

fn of_live([mapped, _, live]: [usize; 3]) -> f64 {
    mapped as f64 / live as f64
}

/// Measures one trace, and prints a line.
fn measure(name: &str, makes_holes: bool) {
    let trace = workload(name).expect("the name of a trace");
    let part = trace.operations.len().div_ceil(POINTS);
    let (mut running, mut remapped) = (0.0_f64, 0.0);
    with_heap(&trace, makes_holes, |mut run| {
        for operations in trace.operations.chunks(part) {
            assert!(replay_part(&mut run.peer, operations, &mut run.slots));
            running = running.max(beyond(run.sample()));
        }
        let (ever, most) = run.pages.ever_and_most();
        remapped = (ever - most) as f64 * 1000.0 / trace.operations.len() as f64;
        free_rest(&mut run.peer, &mut run.slots);
    });
    with_heap(&trace, makes_holes, |mut run| {
        let mut settled = 0.0_f64;
        for operations in trace.operations.chunks(part) {
            assert!(replay_part(&mut run.peer, operations, &mut run.slots));
            run.settle();
            settled = settled.max(beyond(run.sample()));
        }
        let end = run.sample();
        print!(
            "{name:<8}{running:>9.2}{remapped:>9.2}{settled:>9.2}{:>9.2}",
            of_live(end)
        );
        for percent in [50, 75, 90, 98] {
            run.free(percent, end[2]);
            run.settle();
            let sample = run.sample();
            print!("{:>9.2}", beyond(sample));
            if percent == 90 {
                print!("{:>9.2}", of_live(sample));
            }
        }
        free_rest(&mut run.peer, &mut run.slots);
        run.settle();
        assert!(run.peer.heap.backing().lock().check().is_ok());
        println!("{:>9}", run.pages.count());
    });
}

fn main() {
    let named: Vec<_> = env::args().skip(1).collect();
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    let traces = if named.is_empty() {
        &RECORDED[..]
    } else {
        &named
    };
    for makes_holes in [false, true] {
        println!(
            "{}: mapped - 64 KiB / pages with live bytes; mapped / live",
            if makes_holes { "with holes" } else { "without" }
        );
        println!(
            "{:<8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "",
            "running",
            "remapped",
            "settled",
            "end/live",
            "50 %",
            "75 %",
            "90 %",
            "/live",
            "98 %",
            "left"
        );
        for name in traces {
            measure(name, makes_holes);
        }
    }
}
