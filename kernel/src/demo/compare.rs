//! The comparison: the same operations on this heap and on other allocators. Counts instructions,
//! failures and memory. What an allocator that does nothing would cost is subtracted.

use alloc::format;
use alloc::string::{String, ToString};

use kernel::config::Config;
use kernel::trace::Trace;
use kernel::{println, time_stamp};

use super::contender::{Contender, KernelHeap, Nothing, linked_list, talc};
use super::format::{Bytes, Count, Ratio};
use super::region::Region;
use super::replayer::Replayer;
use super::workload::{RandomMix, Workload};

/// The unit of cost.
struct Unit {
    title: &'static str,
    /// The ticks of the time-stamp counter per unit.
    ticks: u64,
}

impl Unit {
    /// Returns the unit that the machine can count.
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

/// The measurements of one allocator.
#[derive(Clone, Copy, Default)]
struct Measured {
    /// The ticks of all operations.
    all: u64,
    /// The ticks of the first tenth of the operations.
    first: u64,
    /// The ticks of the last tenth of the operations.
    last: u64,
    /// The number of failed allocations.
    failed: usize,
    /// The largest footprint in bytes.
    peak: usize,
    /// The memory after all operations.
    end: Memory,
    /// The memory when [`FREED`] percent of the bytes that were live at the end are freed.
    late: Memory,
    /// The footprint in bytes after all blocks are freed.
    empty: usize,
}

/// The percentage of the live bytes that is freed before the memory is measured again.
const FREED: usize = 98;

/// The memory of one allocator at one time, in bytes.
#[derive(Clone, Copy, Default)]
struct Memory {
    /// The number of live bytes.
    live: usize,
    /// The footprint.
    mapped: usize,
}

impl Memory {
    /// Lets `contender` settle, and returns its memory.
    fn of<C: Contender>(contender: &C, replayer: &Replayer<'_, C, false>) -> Self {
        contender.settle();
        Memory {
            live: replayer.live,
            mapped: contender.footprint(),
        }
    }
}

impl Measured {
    /// Returns the ticks beyond those of the measurement itself.
    fn net_of(self, measurement: &Measured) -> Self {
        Measured {
            all: self.all.saturating_sub(measurement.all),
            first: self.first.saturating_sub(measurement.first),
            last: self.last.saturating_sub(measurement.last),
            ..self
        }
    }
}

/// Replays `workload` on `contender`. Returns `None` if no memory is left for the table of slots.
fn measure<C: Contender>(contender: &C, workload: &Workload<'_>) -> Option<Measured> {
    let mut measured = Measured::default();
    let mut replayer = Replayer::<_, false>::new(contender, workload.slots())?;
    contender.start();
    let operations = workload.operations();
    let mut mix = RandomMix::new(match workload {
        Workload::RandomMix(seed) => *seed,
        Workload::Trace(_) => 1,
    });
    let mut trace = match workload {
        Workload::Trace(trace) => Some(trace.operations()),
        Workload::RandomMix(_) => None,
    };
    for done in 0..operations {
        let operation = match &mut trace {
            Some(trace) => trace.next(),
            None => Some(mix.operation(&replayer)),
        };
        let Some(operation) = operation else { break };
        let start = time_stamp();
        replayer.replay(operation);
        let taken = time_stamp() - start;
        measured.all += taken;
        if done < operations / 10 {
            measured.first += taken;
        } else if done >= operations - operations / 10 {
            measured.last += taken;
        }
        if done % 64 == 0 {
            measured.peak = measured.peak.max(contender.footprint());
        }
    }
    measured.failed = replayer.failed;
    measured.end = Memory::of(contender, &replayer);
    replayer.free_down_to(measured.end.live * (100 - FREED) / 100);
    measured.late = Memory::of(contender, &replayer);
    replayer.free_down_to(0);
    measured.empty = Memory::of(contender, &replayer).mapped;
    Some(measured)
}

/// Prints the tables for the random mix and for the beginning of `trace`. Returns whether all
/// allocators could be measured and no allocation on this heap failed.
pub(crate) fn compare(name: &str, trace: &Trace<'_>, config: &Config<'_>) -> bool {
    let unit = Unit::of(config);
    let seed = config.seed;
    let mix = table(
        format_args!("a random mix, seed {seed:#x}"),
        &Workload::RandomMix(seed),
        &unit,
    );
    let recorded = table(
        format_args!("the beginning of `{name}`"),
        &Workload::Trace(trace),
        &unit,
    );
    mix && recorded
}

/// Prints the table for one workload. Returns whether it succeeded, as [`compare`] does.
fn table(title: core::fmt::Arguments<'_>, workload: &Workload<'_>, unit: &Unit) -> bool {
    let operations = workload.operations() as u64;
    println!();
    println!(
        "The same {} operations on other allocators: {title}.",
        Count(operations)
    );
    println!("The others get 64 KiB at a time, as they need it, and give none back.");
    println!();
    let measured = || {
        let nothing = measure(&Nothing::default(), workload)?;
        let this = measure(&KernelHeap::default(), workload)?;
        let mut region = Region::new(workload.memory())?;
        let list = measure(&linked_list(&mut region), workload)?;
        drop(region);
        let mut region = Region::new(workload.memory())?;
        let talc = measure(&talc(&mut region), workload)?;
        Some([this, list, talc].map(|measured| measured.net_of(&nothing)))
    };
    let Some([this, list, talc]) = measured() else {
        println!(
            "  not enough memory: each allocator needs {}",
            Bytes(workload.memory())
        );
        return false;
    };
    let row = |title: &str, value: &dyn Fn(&Measured) -> String| {
        println!(
            "  {title:<27} {:>11} {:>23} {:>12}",
            value(&this),
            value(&list),
            value(&talc)
        );
    };
    let count = |title: &str, value: &dyn Fn(&Measured) -> u64| {
        row(title, &|measured| Count(value(measured)).to_string());
    };
    let bytes = |title: &str, value: &dyn Fn(&Measured) -> usize| {
        row(title, &|measured| Bytes(value(measured)).to_string());
    };
    let memory = |title: &str, value: &dyn Fn(&Measured) -> Memory| {
        bytes(title, &|measured| value(measured).live);
        bytes("  mapped", &|measured| value(measured).mapped);
        row("  mapped/live", &|measured| {
            let Memory { live, mapped } = value(measured);
            Ratio::of(mapped, live).to_string()
        });
    };
    println!(
        "  {:<27} {:>11} {:>23} {:>12}",
        "", "this heap", "linked_list_allocator", "talc 5.1.1"
    );
    count(unit.title, &|m| m.all / unit.ticks / operations);
    count("  in the first tenth", &|m| {
        m.first * 10 / unit.ticks / operations
    });
    count("  in the last tenth", &|m| {
        m.last * 10 / unit.ticks / operations
    });
    count("failed allocations", &|m| m.failed as u64);
    bytes("mapped at the peak", &|m| m.peak);
    memory("live at the end", &|m| m.end);
    memory(&format!("live when {FREED} % is freed"), &|m| m.late);
    bytes("mapped when all is freed", &|m| m.empty);
    this.failed == 0
}
