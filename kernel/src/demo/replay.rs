//! The first part of the demonstration: replays a recorded program on the kernel heap, and draws
//! how the heap grows and shrinks.

use core::fmt;

use kernel::heap::HEAP;
use kernel::memory::{PAGE_SIZE, mapped_pages};
use kernel::trace::Trace;
use kernel::{print, println};

use super::format::{Bar, Bytes, Count, Kept, Ratio};
use super::pages::PageCounter;
use super::replayer::Replayer;

/// The number of lines for the operations. It is even, so that the last one is shown.
const LINES: usize = 20;
/// The lines for freeing what is left: the percentage that is freed, of the bytes that are live at
/// the trace's end.
const FREED: [usize; 5] = [25, 50, 75, 90, 98];
/// The width of the bars in characters.
const WIDTH: usize = 18;
/// The most lines: those of the operations, one for their end, and two for the end of the table.
const MAX_LINES: usize = LINES + 1 + FREED.len() + 2;

/// The bound for mapped memory: a percentage of the pages with live bytes, and an allowance in
/// bytes.
const BOUND: (usize, usize) = (110, 64 << 10);

/// Replays `trace`, and draws. Returns whether no allocation failed, no block was damaged, and the
/// heap is as small as before.
pub(crate) fn replay(name: &str, trace: &Trace<'_>, color: bool) -> bool {
    HEAP.reap();
    let before = HEAP.stats().heap_frames;
    println!();
    println!(
        "The recorded program `{name}` on the kernel heap: {} operations.",
        Count(trace.len() as u64)
    );
    let Some(replay) = Replay::new(trace) else {
        println!(
            "  not enough memory for the {} slots",
            Count(trace.slots() as u64)
        );
        return false;
    };
    let mut replayed = replay.run(trace);
    replayed.mapped_again = mapped_again(trace);
    replayed.frames = (before, HEAP.stats().heap_frames);
    println!();
    let summary = Summary {
        replayed: &replayed,
        color,
    };
    println!("{summary}");
    println!("{TABLE}");
    for line in replayed.shown() {
        let scale = trace.peak() * 4 / 3;
        println!("  {}", Drawn { line, scale });
    }
    replayed.is_complete() && replayed.is_small()
}

/// What the table shows, and its header.
const TABLE: &str = "\
Touched are all pages with a live byte: no heap can map less. The last columns
divide mapped by live and by touched. In the bars, # is live, + is the rest of
touched, - the rest of mapped. What is left is freed in the order of its slots.

   operation      live   touched    mapped  /live /touched";

/// A running replay, whose tables do not lie on the heap.
struct Replay {
    replayer: Replayer<'static, kernel::heap::KernelHeap, true>,
    pages: PageCounter,
    /// The number of bytes that are mapped for the tables.
    tables: usize,
    replayed: Replayed,
}

impl Replay {
    /// Allocates the tables for a replay of `trace`. Returns `None` if no memory is left for them.
    fn new(trace: &Trace<'_>) -> Option<Self> {
        let before = mapped_pages::mapped();
        Some(Replay {
            replayer: Replayer::new(&HEAP, trace.slots())?,
            pages: PageCounter::new(trace.slots())?,
            tables: (mapped_pages::mapped() - before) * PAGE_SIZE,
            replayed: Replayed {
                operations: trace.len(),
                ..Replayed::default()
            },
        })
    }

    /// Replays `trace`, and frees what is left. Prints a dot for each line of the table.
    fn run(mut self, trace: &Trace<'_>) -> Replayed {
        print!("  ");
        for (done, operation) in trace.operations().enumerate() {
            if done % trace.len().div_ceil(LINES) == 0 {
                self.line(Title::Operation(done));
            }
            self.replayer.replay(operation);
        }
        self.line(Title::Operation(trace.len()));
        let left = self.replayer.live;
        for percentage in FREED {
            self.replayer.free_down_to(left * (100 - percentage) / 100);
            self.line(Title::Freed(percentage));
        }
        self.replayer.free_down_to(0);
        self.line(Title::AllFreed);
        HEAP.reap();
        self.line(Title::Trimmed);
        println!();
        Replayed {
            peak: self.replayer.peak,
            failed: self.replayer.failed,
            damaged: self.replayer.damaged,
            ..self.replayed
        }
    }

    /// Lets the heap settle, and measures a line of the table. O(blocks · log blocks).
    ///
    /// # Panics
    /// Panics if fewer bytes are mapped than the pages with live bytes have.
    fn line(&mut self, title: Title) {
        print!(".");
        HEAP.settle();
        let live = self.replayer.live;
        let touched = self.pages.count(self.replayer.blocks()) * PAGE_SIZE;
        let mapped = HEAP.stats().mapped - self.tables;
        assert!(
            touched <= mapped,
            "{touched} bytes of pages have live bytes, and only {mapped} are mapped"
        );
        self.replayed.add(Line {
            title,
            live,
            touched,
            mapped,
        });
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

/// When a line of the table was measured.
#[derive(Clone, Copy, Default)]
enum Title {
    /// After this many operations.
    Operation(usize),
    /// When this percentage of what was left is freed.
    Freed(usize),
    /// When all is freed.
    #[default]
    AllFreed,
    /// When the heap has given back all free pages at once.
    Trimmed,
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(done) => write!(f, "{:>10}", Count(*done as u64)),
            Self::Freed(percentage) => write!(f, "{percentage:>2} % freed"),
            Self::AllFreed => f.write_str(" all freed"),
            Self::Trimmed => f.write_str("   trimmed"),
        }
    }
}

/// A line of the table: sizes in bytes.
#[derive(Clone, Copy, Default)]
struct Line {
    title: Title,
    live: usize,
    /// The size of all pages with a live byte.
    touched: usize,
    mapped: usize,
}

impl Line {
    /// Returns whether no more than the [`BOUND`] is mapped.
    fn is_within_bound(&self) -> bool {
        self.beyond_allowance() * 100 <= self.touched * BOUND.0
    }

    /// Returns the mapped bytes without the allowance of the [`BOUND`].
    fn beyond_allowance(&self) -> usize {
        self.mapped.saturating_sub(BOUND.1)
    }
}

/// A line with its bar, from 0 to `scale` bytes.
struct Drawn<'a> {
    line: &'a Line,
    scale: usize,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line {
            title,
            live,
            touched,
            mapped,
        } = *self.line;
        let bar = Bar {
            parts: [('#', live), ('+', touched), ('-', mapped)],
            scale: self.scale,
            width: WIDTH,
        };
        write!(
            f,
            "{title} {:>9} {:>9} {:>9} {:>6} {:>8} |{bar}|",
            Bytes(live),
            Bytes(touched),
            Bytes(mapped),
            Ratio::of(mapped, live),
            Ratio::of(mapped, touched),
        )
    }
}

/// The results of a replay.
#[derive(Default)]
struct Replayed {
    operations: usize,
    /// The largest number of live bytes.
    peak: usize,
    /// The number of failed allocations.
    failed: usize,
    /// The number of damaged blocks.
    damaged: usize,
    /// The lines, and how many there are.
    lines: [Line; MAX_LINES],
    count: usize,
    /// See [`mapped_again`].
    mapped_again: Option<usize>,
    /// The frames of the heap before the replay, and after it.
    frames: (usize, usize),
}

impl Replayed {
    /// Adds a line. The table has at most [`MAX_LINES`].
    fn add(&mut self, line: Line) {
        self.lines[self.count] = line;
        self.count += 1;
    }

    fn lines(&self) -> &[Line] {
        &self.lines[..self.count]
    }

    /// Returns the lines that are printed: of those of the operations each second one, so that a
    /// terminal with 24 lines shows the table.
    fn shown(&self) -> impl Iterator<Item = &Line> {
        let is_left_out =
            |index: usize, line: &Line| index % 2 == 1 && matches!(line.title, Title::Operation(_));
        let lines = self.lines().iter().enumerate();
        lines
            .filter(move |(index, line)| !is_left_out(*index, line))
            .map(|(_, line)| line)
    }

    /// Returns whether no allocation failed, and no block was damaged.
    fn is_complete(&self) -> bool {
        self.failed == 0 && self.damaged == 0
    }

    /// Returns whether the heap is as small as before.
    fn is_small(&self) -> bool {
        self.frames.0 == self.frames.1
    }

    /// Returns the largest value of `ratio`: while the program runs, and while what is left is
    /// freed.
    fn worst(&self, ratio: impl Fn(&Line) -> Ratio) -> (Ratio, Ratio) {
        let is_running = |line: &&Line| matches!(line.title, Title::Operation(_));
        let worst = |running: bool| {
            let lines = self.lines().iter();
            let lines = lines.filter(|line| is_running(line) == running);
            lines.map(&ratio).max().unwrap_or_default()
        };
        (worst(true), worst(false))
    }
}

/// The results in short, in colour if the terminal has it.
struct Summary<'a> {
    replayed: &'a Replayed,
    color: bool,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replayed = self.replayed;
        let mark = |kept| Kept {
            kept,
            color: self.color,
        };
        writeln!(
            f,
            "  {} {} allocations failed; {} blocks damaged; {} live at the peak",
            mark(replayed.is_complete()),
            replayed.failed,
            replayed.damaged,
            Bytes(replayed.peak)
        )?;
        writeln!(
            f,
            "  {} frames of the heap: {} before, {} after",
            mark(replayed.is_small()),
            replayed.frames.0,
            replayed.frames.1
        )?;
        let lines = replayed.lines();
        let within = lines.iter().filter(|line| line.is_within_bound()).count();
        writeln!(
            f,
            "  {} mapped is at most {} x touched + {} at {within} of {} times",
            mark(within == lines.len()),
            Ratio::of(BOUND.0, 100),
            Bytes(BOUND.1),
            lines.len()
        )?;
        let (running, freeing) =
            replayed.worst(|line| Ratio::of(line.beyond_allowance(), line.touched));
        writeln!(
            f,
            "         worst (mapped - {})/touched: {running}; as the rest is freed: {freeing}",
            Bytes(BOUND.1),
        )?;
        let (running, freeing) = replayed.worst(|line| Ratio::of(line.mapped, line.live));
        writeln!(
            f,
            "         worst mapped/live: {running}; as the rest is freed: {freeing}",
        )?;
        match replayed.mapped_again {
            Some(pages) => writeln!(
                f,
                "         pages mapped a second time: {} ({} per 1,000 operations)",
                Count(pages as u64),
                Ratio::of(pages * 1000, replayed.operations)
            ),
            None => writeln!(
                f,
                "         no memory is left to count pages that are mapped a second time"
            ),
        }
    }
}
