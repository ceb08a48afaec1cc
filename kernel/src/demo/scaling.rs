//! How allocators scale: the random mix on several CPUs at once.

use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kernel::{cpus, println, time_stamp};

use super::contender::{Contender, KernelHeap, linked_list, talc};
use super::format::{Bytes, Count, Ratio};
use super::region::Region;
use super::replayer::Replayer;
use super::workload::{RandomMix, Workload};

/// How often each number of CPUs is measured. The shortest time counts: the host runs other
/// programs, too.
const REPETITIONS: usize = 3;

/// Runs the mix on the first `count` CPUs at once, all with the same allocator. Returns the ticks
/// of the time-stamp counter from the first operation to the last. `None` if no memory is left for
/// the tables of slots, or an allocation failed.
fn time<C: Contender + Sync>(contender: &C, count: usize, mix: &Workload<'_>) -> Option<u64> {
    let (began, ended) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let (ready, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    cpus::on_each(|number| {
        if number >= count {
            return;
        }
        let replayer = Replayer::<_, false>::new(contender, mix.slots());
        ready.fetch_add(1, Ordering::Release);
        while ready.load(Ordering::Acquire) < count {
            spin_loop();
        }
        let Some(mut replayer) = replayer else {
            has_failed.store(true, Ordering::Relaxed);
            return;
        };
        let mut random = RandomMix::new(number as u64 + 1);
        began.fetch_min(time_stamp(), Ordering::Relaxed);
        for _ in 0..mix.operations() {
            let operation = random.operation(&replayer);
            replayer.replay(operation);
        }
        ended.fetch_max(time_stamp(), Ordering::Relaxed);
        if replayer.failed > 0 {
            has_failed.store(true, Ordering::Relaxed);
        }
    });
    let taken = ended.into_inner().saturating_sub(began.into_inner());
    (!has_failed.into_inner()).then_some(taken.max(1))
}

/// Returns the operations per time on each of `counts` CPUs, in relation to one CPU.
fn scale<C: Contender + Sync>(
    contender: &C,
    counts: &[usize],
    mix: &Workload<'_>,
) -> Option<Vec<Ratio>> {
    let best = |count| {
        let mut times = Vec::with_capacity(REPETITIONS);
        for _ in 0..REPETITIONS {
            times.push(time(contender, count, mix)?);
        }
        times.into_iter().min()
    };
    let one = best(1)?;
    let ratio = |&count: &usize| {
        let several = if count == 1 { one } else { best(count)? };
        Some(Ratio::of(one as usize * count, several as usize))
    };
    counts.iter().map(ratio).collect()
}

/// Prints the table. Returns whether all allocators could be measured.
pub(crate) fn compare(seed: u64) -> bool {
    let all = cpus::count();
    let mut counts: Vec<usize> = (0..).map(|log| 1 << log).take_while(|&n| n < all).collect();
    counts.push(all);
    let mix = Workload::RandomMix(seed);
    println!();
    println!(
        "{} operations of a random mix on each of some CPUs at once: operations per",
        Count(mix.operations() as u64)
    );
    println!("second of all together, in relation to the same allocator on one CPU. (With fewer");
    println!("processors than CPUs, this computer limits them all.)");
    println!();
    let measured = || {
        let this = scale(&KernelHeap::default(), &counts, &mix)?;
        let mut region = Region::new(all * mix.memory())?;
        let list = scale(&linked_list(&mut region), &counts, &mix)?;
        drop(region);
        let mut region = Region::new(all * mix.memory())?;
        let talc = scale(&talc(&mut region), &counts, &mix)?;
        Some([this, list, talc])
    };
    let Some([this, list, talc]) = measured() else {
        println!(
            "  not enough memory: each allocator needs {}",
            Bytes(all * mix.memory())
        );
        return false;
    };
    println!(
        "  {:<27} {:>11} {:>23} {:>12}",
        "CPUs", "this heap", "linked_list_allocator", "talc 5.1.1"
    );
    for (row, count) in counts.iter().enumerate() {
        println!(
            "  {count:<27} {:>11} {:>23} {:>12}",
            this[row], list[row], talc[row]
        );
    }
    true
}
