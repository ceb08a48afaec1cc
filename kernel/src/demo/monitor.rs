//! The monitor: a prompt with commands that show the state of the heap.

use core::fmt::{self, Write};

use heap::Span;
use heap::slab::SLAB_SIZE;
use heap::vmem::SegmentKind;
use kernel::config::Config;
use kernel::cpus::{self, CpuStats};
use kernel::heap::HEAP;
use kernel::line_editor::LineEditor;
use kernel::memory::stacks::{self, kind_of_stack};
use kernel::memory::{arenas, frames, heap_pages, kernel_addresses};
use kernel::println;
use kernel::ramdisk::Ramdisk;
use kernel_protocol::record::Record;

use super::format::{Bytes, Count};
use super::{compare, replay, trace};

/// The commands: name, argument, and what they do.
const COMMANDS: [(&str, &str, &str); 12] = [
    ("help", "", "list the commands"),
    (
        "stats",
        "",
        "how much memory the heap claims, has free, and has mapped",
    ),
    ("slabs", "", "the slabs for small blocks, by block size"),
    (
        "cpus",
        "",
        "what each CPU has done, holds back, and waited for",
    ),
    (
        "arenas",
        "",
        "the two arenas: space allocated, free, borrowed",
    ),
    ("frames", "", "physical memory by purpose"),
    (
        "map",
        "",
        "the heaps, and the use of the heap's window of addresses",
    ),
    (
        "trace",
        "[NAME]",
        "replay a recorded program; without a name, list them",
    ),
    (
        "compare",
        "",
        "this heap and others under the same operations",
    ),
    (
        "test",
        "[FILTER]",
        "boot the test image, run its tests, come back",
    ),
    (
        "trim",
        "",
        "unmap all free memory, at the tops of heaps and inside them",
    ),
    (
        "exit",
        "",
        "switch the machine off (so does the end of input, Ctrl-D)",
    ),
];

/// Reads commands from the serial port until `exit` or the end of input.
pub(crate) fn run(trace: &str, config: &Config<'_>, ramdisk: &Ramdisk<'_>) {
    println!();
    println!("Type `help` for the commands; Tab completes them.");
    let mut editor = LineEditor::new();
    while let Some(line) =
        editor.read_line("heap> ", &|before, visit| words(ramdisk, before, visit))
    {
        let (command, argument) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (command, argument.trim()) {
            ("", _) => {}
            (known, extra) if !extra.is_empty() && stands_alone(known) => {
                println!("`{known}` stands alone, without `{extra}`; nothing was done");
            }
            ("help", _) => help(),
            ("stats", _) => stats(),
            ("slabs", _) => println!("{}", HEAP.slabs()),
            ("cpus", _) => show_cpus(),
            ("arenas", _) => arenas(),
            ("frames", _) => show_frames(),
            ("map", _) => map(),
            ("trace", "") => trace::list(ramdisk),
            ("trace", name) => match trace::load(ramdisk, name) {
                Ok(trace) => _ = replay::replay(name, &trace, config.color),
                Err(error) => println!("{error}"),
            },
            ("compare", _) => match trace::load(ramdisk, trace) {
                Ok(loaded) => _ = compare::compare(trace, &loaded, config),
                Err(error) => println!("{error}"),
            },
            ("trim", _) => {
                let mapped = HEAP.stats().mapped;
                HEAP.reap();
                let unmapped = mapped.saturating_sub(HEAP.stats().mapped);
                println!("  {} unmapped", Bytes(unmapped));
                stats();
            }
            ("test", _) if !config.host => {
                println!("only `./run-qemu.sh` can boot the tests; nothing was done");
            }
            ("test", filter) => {
                let filter = Some(filter).filter(|filter| !filter.is_empty());
                println!("{}", Record::RunTests { filter });
                return;
            }
            ("exit", _) => return,
            (unknown, _) => println!("`{unknown}` is not a command; `help` lists them"),
        }
    }
}

/// Visits the words that can follow the text `before`.
fn words(ramdisk: &Ramdisk<'_>, before: &str, visit: &mut dyn FnMut(&str)) {
    match before.trim() {
        "" => COMMANDS.iter().for_each(|(name, ..)| visit(name)),
        "trace" => trace::for_each_name(ramdisk, visit),
        _ => {}
    }
}

/// Returns whether `command` is one without an argument.
fn stands_alone(command: &str) -> bool {
    COMMANDS
        .iter()
        .any(|&(name, argument, _)| name == command && argument.is_empty())
}

/// Prints the list of commands.
fn help() {
    for (name, argument, what) in COMMANDS {
        println!("  {name:<7} {argument:<8}  {what}");
    }
}

/// Prints the state of the heap.
fn stats() {
    let stats = HEAP.stats();
    println!("  heaps              {:>12}", stats.heaps);
    println!("  claimed            {:>12}", Bytes(stats.claimed));
    println!(
        "  free inside        {:>12} in {}",
        Bytes(stats.free),
        Counted(stats.gaps, "gap")
    );
    println!("  mapped             {:>12}", Bytes(stats.mapped));
    println!("  holes              {:>12}", Bytes(stats.holes));
    println!(
        "  release queue      {:>12}",
        Bytes(stats.mapped + stats.holes - stats.claimed)
    );
    let slabs = HEAP.slabs();
    println!(
        "  slabs              {:>12} in {}",
        Bytes(slabs.bytes()),
        Counted(slabs.slabs(), "slab")
    );
    println!("    in use           {:>12}", Bytes(slabs.used_bytes()));
    let held_back = HEAP.slabs_of_cpus().iter().map(|cpu| cpu.held_back).sum();
    println!("    held back        {:>12}", Bytes(held_back));
    if let Some(window) = arenas::window() {
        println!("  window             {window}");
        println!("    chosen by seed   {}", window.seed);
    }
}

/// Prints what each CPU has done for the heap.
fn show_cpus() {
    println!("  cpu     misses  new slabs  batches   held back  shootdowns     waits      cycles");
    for (number, slabs) in HEAP.slabs_of_cpus().iter().enumerate().take(cpus::count()) {
        let CpuStats {
            shootdowns,
            waits,
            waited,
        } = cpus::stats(number);
        println!(
            "  {number:>3} {:>10} {:>10} {:>8} {:>11} {:>11} {:>9} {:>11}",
            Count(slabs.misses as u64),
            Count(slabs.new_slabs as u64),
            Count(slabs.batches as u64),
            Bytes(slabs.held_back),
            Count(shootdowns),
            Count(waits),
            Count(waited)
        );
        #[cfg(feature = "counters")]
        println!("      {:>10} hits", Count(slabs.hits as u64));
    }
    println!("  A miss is an allocation that found no free block in its slab. A new slab is a");
    println!("  page of the heap. A batch has up to 16 freed blocks of other CPUs' slabs; held");
    println!("  back is what is free, but only for this CPU. A shootdown flushes up to 16 pages");
    println!("  on the other CPUs. Waits are for locks; cycles, of the time-stamp counter, are");
    println!("  how long they took.");
}

/// A number and what it counts: `1 gap`, `2 gaps`.
struct Counted(usize, &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", Count(self.0 as u64), self.1)
    }
}

/// Prints the state of the arenas.
fn arenas() {
    println!(
        "  {:<17} {:>9} {:>11} {:>11} {:>11} {:>11}",
        "arena", "quantum", "total", "allocated", "free", "borrowed"
    );
    for arena in [heap_pages(), kernel_addresses()] {
        println!(
            "  {:<17} {:>9} {:>11} {:>11} {:>11} {:>11}",
            arena.label(),
            Bytes(arena.quantum()),
            Bytes(arena.total_space()),
            Bytes(arena.allocated_space()),
            Bytes(arena.free_space()),
            Bytes(arena.borrowed_space())
        );
    }
}

/// Prints the use of physical memory.
fn show_frames() {
    let usage = frames::usage();
    let stacks = stacks::allocated() / kernel::memory::PAGE_SIZE;
    for (title, frames) in [
        ("free", usage.free),
        ("heap", usage.heap - stacks),
        ("stacks of CPUs", stacks),
        ("page tables", usage.page_tables),
        ("boundary tags", usage.tags),
        ("other", usage.other),
    ] {
        println!(
            "  {title:<18} {:>12} {:<6} {:>12}",
            Count(frames as u64),
            if frames == 1 { "frame" } else { "frames" },
            Bytes(frames * kernel::memory::PAGE_SIZE)
        );
    }
}

/// The largest number of segments that are shown of an arena.
const MOST_SEGMENTS: usize = 64;

/// Prints the use of the window, and of the heaps in it.
fn map() {
    let Some(window) = arenas::window() else {
        return;
    };
    println!("  The heap's window of addresses, {window}:");
    let guard = window.leading_guard();
    // The stacks of the other CPUs, each with its guard page.
    let (mut stacks, mut stack_bytes) = (0, 0);
    let mut shown = 0;
    for segment in kernel_addresses().segments() {
        if kind_of_stack(segment.base).is_some() {
            stacks += 1;
            stack_bytes += segment.last - segment.base + 1;
            continue;
        }
        if shown == MOST_SEGMENTS {
            println!("  ... and more");
            break;
        }
        shown += 1;
        let what = match segment.kind {
            SegmentKind::Free => "unused",
            SegmentKind::Allocated if guard.contains(&segment.base) => "the leading guard",
            SegmentKind::Allocated => "a heap and its guard page",
        };
        println!(
            "  {:#018x} {:>12}  {what}",
            segment.base,
            Bytes(segment.last - segment.base + 1),
        );
    }
    if stacks > 0 {
        println!(
            "  between them       {:>12}  {stacks} stacks and their guard pages",
            Bytes(stack_bytes)
        );
    }
    println!("  The heaps. # is for parts that are mostly in use, s if that is mostly slabs,");
    println!("  . for parts that are mostly free, and a space for those mostly given back:");
    let talc = HEAP.core().lock();
    let heaps = talc.arena_heaps().count();
    drop(talc);
    for index in 0..heaps {
        heap_line(index);
    }
}

/// Prints the heap at `index` of the list, in `PARTS` parts. Prints after unlocking the heap.
fn heap_line(index: usize) {
    let talc = HEAP.core().lock();
    let Some(heap) = talc.arena_heaps().nth(index) else {
        return;
    };
    let mut parts = Parts::of(Span::new(heap.base.as_ptr(), heap.end.as_ptr()));
    for gap in talc.gaps() {
        parts.add(gap, |part| &mut part.free);
    }
    for hole in talc.arena_holes() {
        parts.add(hole, |part| &mut part.holes);
    }
    drop(talc);
    HEAP.visit_slabs(|slab| {
        let base = core::ptr::without_provenance_mut(slab.base);
        let slab = Span::from_base_size(base, SLAB_SIZE).unwrap_or(Span::empty());
        parts.add(slab, |part| &mut part.slabs);
    });
    println!("  {:p} {:>10} [{parts}]", heap.base, Bytes(heap.retained));
}

/// The bytes of a part of a heap.
#[derive(Clone, Copy, Default)]
struct Part {
    free: usize,
    holes: usize,
    slabs: usize,
}

/// A heap in parts of equal size.
struct Parts {
    heap: Span,
    part_size: usize,
    parts: [Part; Self::COUNT],
}

impl Parts {
    const COUNT: usize = 44;

    fn of(heap: Span) -> Self {
        Parts {
            heap,
            part_size: heap.size().div_ceil(Self::COUNT).max(1),
            parts: [Part::default(); Self::COUNT],
        }
    }

    /// Adds the bytes of a span to a field of the parts in which they lie. Ignores spans that begin
    /// outside of the heap.
    fn add(&mut self, span: Span, field: impl Fn(&mut Part) -> &mut usize) {
        if !self.heap.contains(span.base()) {
            return;
        }
        let offset = |end: *mut u8| end.addr() - self.heap.base().addr();
        let (mut from, to) = (offset(span.base()), offset(span.end()));
        while from < to {
            let index = from / self.part_size;
            let end = to.min((index + 1) * self.part_size);
            if let Some(part) = self.parts.get_mut(index) {
                *field(part) += end - from;
            }
            from = end;
        }
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            let free = part.free + part.holes;
            let used = self.part_size.saturating_sub(free);
            f.write_char(if part.holes > self.part_size / 2 {
                ' '
            } else if free > self.part_size / 2 {
                '.'
            } else if part.slabs > used / 2 {
                's'
            } else {
                '#'
            })?;
        }
        Ok(())
    }
}
