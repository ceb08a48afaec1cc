//! Binnings that break every promise: memory safety does not depend on them.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::base::bitfield::TwoLevelBitField;
use heap::talc::source::Manual;
use heap::talc::{Corruption, Rule};

use super::operations::{assert_counters_agree, is_growing, step};
use crate::common::manual_heap::ManualHeap;
use crate::common::memory::Memory;
use crate::common::programs::{Program, for_programs};
use crate::common::random::Random;
use crate::common::shadow::Shadow;

std::thread_local! {
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(0));
}

/// Returns any number, mostly a small one, and another with each call.
fn anything() -> u32 {
    RANDOM.with_borrow_mut(|random| match random.below(8) {
        0 => random.word() as u32,
        1 => u32::MAX - random.below(3) as u32,
        _ => random.below(72) as u32,
    })
}

/// A binning that returns another bin with each call.
struct Erratic;

impl Binning for Erratic {
    type AvailabilityBitField = [u8; 9];
    const BIN_COUNT: u32 = 67;
    fn size_to_bin(_: usize) -> u32 {
        anything()
    }
    fn size_to_bin_ceil(_: usize) -> u32 {
        anything()
    }
}

/// A binning that always returns the same bin for a size, but one unrelated to the size.
struct Scattered;

impl Binning for Scattered {
    type AvailabilityBitField = TwoLevelBitField<u8, u16, 5>;
    const BIN_COUNT: u32 = 71;
    fn size_to_bin(size: usize) -> u32 {
        (size as u32).wrapping_mul(0x9e37_79b9) >> (size % 29)
    }
}

/// A binning that returns lower bins for larger sizes, so that gaps which should be large enough
/// never are.
struct Backwards;

impl Binning for Backwards {
    type AvailabilityBitField = u64;
    const BIN_COUNT: u32 = 63;
    fn size_to_bin(size: usize) -> u32 {
        63 - size.ilog2()
    }
    fn size_to_bin_ceil(_: usize) -> u32 {
        0
    }
}

/// A binning with one bin for all sizes.
struct One;

impl Binning for One {
    type AvailabilityBitField = u8;
    const BIN_COUNT: u32 = 1;
    fn size_to_bin(size: usize) -> u32 {
        size as u32
    }
}

/// Asserts that `check` reports nothing, or at worst a gap in the wrong list.
fn at_worst_in_the_wrong_list<B: Binning>(talc: &Talc<Manual, B>) {
    match talc.check() {
        Ok(()) => {}
        Err(Corruption {
            rule: Rule::Bin { .. },
            ..
        }) => {}
        Err(corruption) => panic!("{corruption:?}"),
    }
}

/// Runs a random program. The binning determines whether a gap that fits is found; blocks must keep
/// their contents and heaps must stay intact with any.
fn manual_heaps<B: Binning>(program: &Program) {
    let mut heaps = [(); 3].map(|()| ManualHeap::new(24 << 10));
    let mut talc = Talc::<_, B>::new(Manual);
    let mut shadow = Shadow::new();
    let mut random = program.set_up();
    RANDOM.set(Random::new(random.word()));
    for heap in &mut heaps {
        heap.change(&mut talc, &mut random);
    }
    for (index, mut random) in program.steps().enumerate() {
        if random.below(20) == 0 {
            let heap = random.below(heaps.len());
            heaps[heap].change(&mut talc, &mut random);
        } else {
            step(&mut talc, &mut shadow, &mut random, is_growing(index));
        }
        at_worst_in_the_wrong_list(&talc);
        assert_counters_agree(&talc, &shadow);
        if index % 50 == 0 {
            heaps.iter().for_each(|heap| heap.check(&talc));
            shadow.assert_all_intact();
        }
    }
    while let Some(block) = shadow.take(&mut random) {
        // SAFETY: the block is live.
        unsafe { talc.deallocate(block.ptr, block.layout) };
    }
    at_worst_in_the_wrong_list(&talc);
    for heap in &heaps {
        heap.check(&talc);
        let gaps = heap.span().map_or(0, |span| talc.gaps_in(span).count());
        assert!(gaps <= 1, "{gaps} gaps did not merge");
    }
}

#[test]
fn binnings_that_return_anything_lose_no_contents() {
    for_programs(manual_heaps::<Erratic>);
}

#[test]
fn binnings_without_order_lose_no_contents() {
    for_programs(manual_heaps::<Scattered>);
    for_programs(manual_heaps::<Backwards>);
    for_programs(manual_heaps::<One>);
}

std::thread_local! {
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

/// A binning that panics when the test says so.
struct Panicking;

impl Binning for Panicking {
    type AvailabilityBitField = u64;
    fn size_to_bin(size: usize) -> u32 {
        assert!(!PANICS.get(), "no bin for {size} bytes");
        1
    }
}

#[test]
fn a_binning_that_panics_aborts_the_program() {
    const NAME: &str = "binnings::a_binning_that_panics_aborts_the_program";
    if env::var_os("HEAP_BINNING_PANICS").is_none() {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("HEAP_BINNING_PANICS", "yes")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("no bin for"), "{said}");
        assert!(output.status.signal().is_some(), "it went on: {said}");
        return;
    }
    let memory = Memory::new(4096);
    let mut talc = Talc::<_, Panicking>::new(Manual);
    let layout = Layout::from_size_align(600, 1).unwrap();
    // SAFETY: the memory is ours, and the block is freed once.
    unsafe {
        talc.claim(memory.base(), memory.size()).unwrap();
        let block = talc.allocate(layout).unwrap();
        // The gap above has left its list when the bin of the coalesced gap is computed.
        PANICS.set(true);
        talc.deallocate(block.as_ptr(), layout);
    }
}
