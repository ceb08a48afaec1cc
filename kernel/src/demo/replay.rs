//! The first part of the demonstration: replays a recorded program on the kernel heap, and draws
//! how the heap grows and shrinks.

use core::fmt::{self, Display};
use core::mem;

use kernel::heap::HEAP;
use kernel::memory::{PAGE_SIZE, mapped_pages};
use kernel::println;
use kernel::trace::Trace;

use super::format::{Bar, Bytes, Count, Ratio};
use super::pages::PageCounter;
use super::replayer::Replayer;

/// The number of lines for the operations.
const LINES: usize = 20;
/// The lines for freeing what is left: the percentage that is freed, of the bytes that are live at
/// the trace's end.
const FREED: [usize; 5] = [25, 50, 75, 90, 98];
/// The width of the bars in characters.
const WIDTH: usize = 32;

/// The bound for mapped memory: a percentage of the pages with live bytes, and an allowance in
/// bytes.
const BOUND: (usize, usize) = (110, 64 << 10);

/// Replays `trace`, and draws. Returns whether no allocation failed, no block was damaged, and the
/// heap is as small as before.
pub(crate) fn replay(name: &str, trace: &Trace<'_>) -> bool {
    HEAP.reap();
    let before = HEAP.stats();
    introduce(name, trace);
    let Some(replay) = Replay::new(trace) else {
        println!(
            "  not enough memory for the {} slots",
            Count(trace.slots() as u64)
        );
        return false;
    };
    let mut summary = replay.run(trace);
    summary.mapped_again = mapped_again(trace);
    let after = HEAP.stats();
    println!();
    println!("{summary}");
    println!(
        "  Frames of the heap: {} before, {} after.",
        before.heap_frames, after.heap_frames
    );
    summary.failed == 0 && summary.damaged == 0 && after.heap_frames == before.heap_frames
}

/// Prints what the table shows, and its header.
fn introduce(name: &str, trace: &Trace<'_>) {
    println!();
    println!(
        "The recorded program `{name}` on the kernel heap: {} operations, at most {} live,",
        Count(trace.len() as u64),
        Bytes(trace.peak())
    );
    println!(
        "\
every byte of every block verified; what is left is freed in the order of its slots.
Touched is the size of all pages with a live byte: no heap can map less. The last two
columns divide mapped by live and by touched. In the bars, # is live, + is the rest of
touched, and - is the rest of mapped memory.
"
    );
    println!(
        "   {:>9} {:>9} {:>9} {:>9} {:>6} {:>8}",
        "operation", "live", "touched", "mapped", "/live", "/touched"
    );
}

/// A running replay, whose tables do not lie on the heap.
struct Replay {
    replayer: Replayer<'static, kernel::heap::KernelHeap, true>,
    pages: PageCounter,
    /// The number of bytes that are mapped for the tables.
    tables: usize,
    /// The value at the end of the bars.
    scale: usize,
    /// The largest quotients since they were last taken.
    worst: Quotients,
    /// The number of lines.
    lines: usize,
    /// The number of lines in which more than the [`BOUND`] is mapped.
    above_bound: usize,
}

/// The mapped memory in relation to other memory.
#[derive(Clone, Copy, Default)]
struct Quotients {
    /// In relation to the live bytes.
    per_live: Ratio,
    /// In relation to the pages with live bytes, without the allowance of the [`BOUND`].
    per_touched: Ratio,
}

impl Replay {
    /// Allocates the tables for a replay of `trace`. Returns `None` if no memory is left for them.
    fn new(trace: &Trace<'_>) -> Option<Self> {
        let before = mapped_pages::mapped();
        Some(Replay {
            replayer: Replayer::new(&HEAP, trace.slots())?,
            pages: PageCounter::new(trace.slots())?,
            tables: (mapped_pages::mapped() - before) * PAGE_SIZE,
            scale: trace.peak() * 4 / 3,
            worst: Quotients::default(),
            lines: 0,
            above_bound: 0,
        })
    }

    /// Replays `trace`, frees what is left, and prints the lines of the table.
    fn run(mut self, trace: &Trace<'_>) -> Summary {
        for (done, operation) in trace.operations().enumerate() {
            if done % trace.len().div_ceil(LINES) == 0 {
                self.line(&Count(done as u64));
            }
            self.replayer.replay(operation);
        }
        self.line(&Count(trace.len() as u64));
        let running = mem::take(&mut self.worst);
        let left = self.replayer.live;
        for percentage in FREED {
            self.replayer.free_down_to(left * (100 - percentage) / 100);
            self.line(&format_args!("{percentage} % freed"));
        }
        self.replayer.free_down_to(0);
        self.line(&"all freed");
        HEAP.reap();
        self.line(&"trimmed");
        Summary {
            operations: trace.len(),
            live: self.replayer.peak,
            failed: self.replayer.failed,
            damaged: self.replayer.damaged,
            running,
            freeing: self.worst,
            lines: self.lines,
            above_bound: self.above_bound,
            mapped_again: None,
        }
    }

    /// Lets the heap settle, and prints a line of the table. O(blocks · log blocks).
    ///
    /// # Panics
    /// Panics if fewer bytes are mapped than the pages with live bytes have.
    fn line(&mut self, title: &dyn Display) {
        HEAP.settle();
        let live = self.replayer.live;
        let touched = self.pages.count(self.replayer.blocks()) * PAGE_SIZE;
        let mapped = HEAP.stats().mapped - self.tables;
        assert!(
            touched <= mapped,
            "{touched} bytes of pages have live bytes, and only {mapped} are mapped"
        );
        let bar = Bar {
            parts: [('#', live), ('+', touched), ('-', mapped)],
            scale: self.scale,
            width: WIDTH,
        };
        let (per_live, per_touched) = (Ratio::of(mapped, live), Ratio::of(mapped, touched));
        println!(
            "  {title:>10} {:>9} {:>9} {:>9} {per_live:>6} {per_touched:>8} |{bar}|",
            Bytes(live),
            Bytes(touched),
            Bytes(mapped),
        );
        let without_allowance = mapped.saturating_sub(BOUND.1);
        let worst = &mut self.worst;
        worst.per_live = worst.per_live.max(per_live);
        worst.per_touched = worst.per_touched.max(Ratio::of(without_allowance, touched));
        self.lines += 1;
        self.above_bound += usize::from(without_allowance * 100 > touched * BOUND.0);
    }
}

/// Replays `trace` without letting the heap settle. Returns the number of pages that were mapped,
/// without those of one growth to the peak: the largest number of mapped pages after an operation.
/// A page counts each time it is mapped. Returns `None` if no memory is left for the slots.
fn mapped_again(trace: &Trace<'_>) -> Option<usize> {
    HEAP.reap();
    let mut replayer = Replayer::<_, false>::new(&HEAP, trace.slots())?;
    let (ever_mapped, mapped) = (mapped_pages::ever_mapped(), mapped_pages::mapped());
    let mut peak = mapped;
    for operation in trace.operations() {
        replayer.replay(operation);
        peak = peak.max(mapped_pages::mapped());
    }
    let pages = (mapped_pages::ever_mapped() - ever_mapped) - (peak - mapped);
    drop(replayer);
    HEAP.reap();
    Some(pages)
}

/// The results of a replay.
struct Summary {
    operations: usize,
    /// The largest number of live bytes.
    live: usize,
    /// The number of failed allocations.
    failed: usize,
    /// The number of damaged blocks.
    damaged: usize,
    /// The largest quotients while the program runs.
    running: Quotients,
    /// The largest quotients while what is left is freed.
    freeing: Quotients,
    /// The number of lines.
    lines: usize,
    /// The number of lines in which more than the [`BOUND`] is mapped.
    above_bound: usize,
    /// See [`mapped_again`].
    mapped_again: Option<usize>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {} live at the peak; {} allocations failed; {} blocks damaged.",
            Bytes(self.live),
            self.failed,
            self.damaged
        )?;
        writeln!(
            f,
            "  Worst mapped/live: {} while the program runs, {} while what is left is freed.",
            self.running.per_live, self.freeing.per_live
        )?;
        writeln!(
            f,
            "  Worst (mapped - {})/touched: {} and {}.",
            Bytes(BOUND.1),
            self.running.per_touched,
            self.freeing.per_touched
        )?;
        writeln!(
            f,
            "  Lines with mapped above {} x touched + {}: {} of {}.",
            Ratio::of(BOUND.0, 100),
            Bytes(BOUND.1),
            self.above_bound,
            self.lines
        )?;
        match self.mapped_again {
            Some(pages) => write!(
                f,
                "  Without the lines, {} pages are mapped a second time: {} per 1,000 operations.",
                Count(pages as u64),
                Ratio::of(pages * 1000, self.operations)
            ),
            None => write!(f, "  No memory is left to run without the lines."),
        }
    }
}
