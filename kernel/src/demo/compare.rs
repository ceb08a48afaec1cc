//! The same operations on this heap and on others: instructions, failures, memory.

use core::arch::x86_64::_rdtsc;

use kernel::config::Config;
use kernel::println;
use kernel::trace::Trace;

use super::contender::{Contender, KernelHeap, Region, linked_list, talc};
use super::format::{Bytes, Count};
use super::replayer::Replayer;
use super::workload::{Mix, SLOTS};

/// Operations of the synthetic mix.
const MIX_OPERATIONS: usize = 20_000;
/// Operations of the recorded program; `linked_list_allocator` would need minutes for all of them.
const TRACE_OPERATIONS: usize = 10_000;

/// A sequence of operations that can be played again and again.
enum Workload<'t> {
    Mix(u64),
    Trace(&'t Trace<'t>),
}

impl Workload<'_> {
    fn operations(&self) -> usize {
        match self {
            Workload::Mix(_) => MIX_OPERATIONS,
            Workload::Trace(trace) => trace.len().min(TRACE_OPERATIONS),
        }
    }

    fn slots(&self) -> usize {
        match self {
            Workload::Mix(_) => SLOTS,
            Workload::Trace(trace) => trace.slots(),
        }
    }

    /// Bytes that certainly hold the workload in an allocator that wastes up to half.
    fn room(&self) -> usize {
        match self {
            Workload::Mix(_) => 4 << 20,
            Workload::Trace(trace) => 2 * trace.peak() + (1 << 20),
        }
    }
}

/// What cost is measured in.
struct Unit {
    title: &'static str,
    /// How far the time-stamp counter moves for one.
    ticks: u64,
}

impl Unit {
    fn of(config: &Config<'_>) -> Self {
        match config.ticks_per_instruction {
            Some(ticks) => Unit {
                title: "instructions per operation",
                ticks: ticks.get(),
            },
            None => Unit {
                title: "clock ticks per operation",
                ticks: 1,
            },
        }
    }
}

/// What is measured of one allocator.
#[derive(Clone, Copy, Default)]
struct Measured {
    /// Instructions of all operations, and of the first and the last tenth of them.
    all: u64,
    first: u64,
    last: u64,
    failed: usize,
    /// Bytes that the allocator held at its peak, and when all was freed.
    peak: usize,
    end: usize,
}

/// Plays `workload` on `subject`. `None` when there is no memory for the table of its slots.
fn measure<S: Contender>(subject: &S, workload: &Workload<'_>) -> Option<Measured> {
    let mut measured = Measured::default();
    let mut player = Replayer::<_, false>::new(subject, workload.slots())?;
    subject.start();
    let operations = workload.operations();
    let mut mix = Mix::new(match workload {
        Workload::Mix(seed) => *seed,
        Workload::Trace(_) => 1,
    });
    let mut trace = match workload {
        Workload::Trace(trace) => Some(trace.operations()),
        Workload::Mix(_) => None,
    };
    for done in 0..operations {
        let operation = match &mut trace {
            Some(trace) => trace.next(),
            None => Some(mix.operation(&player)),
        };
        let Some(operation) = operation else { break };
        // SAFETY: every processor of this architecture has a time-stamp counter.
        let start = unsafe { _rdtsc() };
        player.play(operation);
        // SAFETY: as above.
        let taken = unsafe { _rdtsc() } - start;
        measured.all += taken;
        if done < operations / 10 {
            measured.first += taken;
        } else if done >= operations - operations / 10 {
            measured.last += taken;
        }
        if done % 64 == 0 {
            measured.peak = measured.peak.max(subject.footprint());
        }
    }
    measured.failed = player.failed;
    for slot in 0..player.slots() {
        player.free(slot);
    }
    measured.end = subject.footprint();
    Some(measured)
}

/// Prints the tables for the synthetic mix and for the beginning of `trace`. Returns whether every allocator could be
/// measured and this heap refused nothing.
pub fn compare(name: &str, trace: &Trace<'_>, config: &Config<'_>) -> bool {
    let unit = Unit::of(config);
    let seed = config.seed;
    let mix = table(
        format_args!("a random mix, seed {seed:#x}"),
        &Workload::Mix(seed),
        &unit,
    );
    let recorded = table(
        format_args!("the beginning of `{name}`"),
        &Workload::Trace(trace),
        &unit,
    );
    mix && recorded
}

fn table(title: core::fmt::Arguments<'_>, workload: &Workload<'_>, unit: &Unit) -> bool {
    let operations = workload.operations() as u64;
    println!();
    println!(
        "The same {} operations on other allocators: {title}.",
        Count(operations)
    );
    println!("The others start with 64 KiB and are given 64 KiB more whenever they run out.");
    println!();
    let measured = || {
        let this = measure(&KernelHeap::default(), workload)?;
        let mut region = Region::new(workload.room())?;
        let list = measure(&linked_list(&mut region), workload)?;
        drop(region);
        let mut region = Region::new(workload.room())?;
        let talc = measure(&talc(&mut region), workload)?;
        Some((this, list, talc))
    };
    let Some((this, list, talc)) = measured() else {
        println!(
            "  there is not enough memory: {} for each",
            Bytes(workload.room())
        );
        return false;
    };
    let row = |title: &str, value: &dyn Fn(&Measured) -> u64, bytes: bool| {
        let show = |measured| match bytes {
            true => alloc::format!("{}", Bytes(value(measured) as usize)),
            false => alloc::format!("{}", Count(value(measured))),
        };
        println!(
            "  {title:<34} {:>12} {:>23} {:>12}",
            show(&this),
            show(&list),
            show(&talc)
        );
    };
    println!(
        "  {:<34} {:>12} {:>23} {:>12}",
        "", "this heap", "linked_list_allocator", "talc 5.1.1"
    );
    row(unit.title, &|m| m.all / unit.ticks / operations, false);
    row(
        "  in the first tenth",
        &|m| m.first * 10 / unit.ticks / operations,
        false,
    );
    row(
        "  in the last tenth",
        &|m| m.last * 10 / unit.ticks / operations,
        false,
    );
    row("failed allocations", &|m| m.failed as u64, false);
    row("footprint at the peak", &|m| m.peak as u64, true);
    row("footprint when all is freed", &|m| m.end as u64, true);
    this.failed == 0
}
