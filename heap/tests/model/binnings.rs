//! Binnings that break every promise: memory safety does not rest on them.

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

/// Any number, most of them small, from one call to the next.
fn anything() -> u32 {
    RANDOM.with_borrow_mut(|random| match random.below(8) {
        0 => random.word() as u32,
        1 => u32::MAX - random.below(3) as u32,
        _ => random.below(72) as u32,
    })
}

/// Another bin with each call, and an odd number of them.
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

/// The same bin for the same size, which has nothing to do with the size.
struct Scattered;

impl Binning for Scattered {
    type AvailabilityBitField = TwoLevelBitField<u8, u16, 5>;
    const BIN_COUNT: u32 = 71;
    fn size_to_bin(size: usize) -> u32 {
        (size as u32).wrapping_mul(0x9e37_79b9) >> (size % 29)
    }
}

/// The larger the size, the lower the bin: those that should be large enough never are.
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

/// One bin for all.
struct One;

impl Binning for One {
    type AvailabilityBitField = u8;
    const BIN_COUNT: u32 = 1;
    fn size_to_bin(size: usize) -> u32 {
        size as u32
    }
}

/// All that the walker may say is that a gap is in the wrong list.
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

/// Random programs. Whether what fits is found depends on the binning; that blocks keep their
/// contents, and that heaps are sound, does not.
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

/// Panics when it is told to.
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
        // What is above has left its list when the bin of both together is asked for.
        PANICS.set(true);
        talc.deallocate(block.as_ptr(), layout);
    }
}
