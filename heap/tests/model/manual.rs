//! Model tests of heaps that are claimed, extended, truncated and deleted by hand, with several
//! binnings.

use std::alloc::Layout;

use heap::talc::DefaultBinning;
use heap::talc::base::binning::{Binning, linear_extent_then_linearly_divided_exponential_binning};
use heap::talc::base::bitfield::TwoLevelBitField;
use heap::talc::base::{CHUNK_OVERHEAD, Talc};
use heap::talc::source::Manual;

use super::operations::{assert_counters_agree, free_all, is_growing, step};
use crate::common::manual_heap::ManualHeap;
use crate::common::programs::{Program, for_programs};
use crate::common::shadow::Shadow;
use crate::common::sizes::SMALLEST;

/// A binning with few bins, the last of which is a catch-all.
struct Coarse;

impl Binning for Coarse {
    type AvailabilityBitField = u8;
    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<2, 1>(size)
    }
}

/// A binning with many bins, in a bit field of two levels.
struct Fine;

impl Binning for Fine {
    type AvailabilityBitField = TwoLevelBitField<u8, u64, 6>;
    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<16, 2>(size)
    }
}

fn manual_heaps<B: Binning>(program: &Program) {
    let mut heaps = [(); 3].map(|()| ManualHeap::new(24 << 10));
    let mut talc = Talc::<_, B>::new(Manual);
    let mut shadow = Shadow::new();
    let mut random = program.set_up();
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
        talc.check().unwrap();
        assert_counters_agree(&talc, &shadow);
        if index % 50 == 0 {
            heaps.iter().for_each(|heap| heap.check(&talc));
            let spans = heaps.iter().filter_map(ManualHeap::span);
            let ranges: Vec<_> = spans
                .map(|span| (span.base().addr(), span.end().addr()))
                .collect();
            shadow.assert_within(&ranges);
        }
    }
    free_all(&mut talc, &mut shadow, &mut random);
    heaps.iter().for_each(|heap| heap.check(&talc));

    // Each heap is one gap again, which can be allocated whole.
    for heap in heaps.iter().filter(|heap| heap.span().is_some()) {
        let gaps: Vec<_> = talc.gaps_in(heap.span().unwrap()).collect();
        assert!(gaps.len() <= 1, "{gaps:?} did not merge");
        for gap in gaps.into_iter().filter(|gap| gap.size() >= SMALLEST) {
            let layout = Layout::from_size_align(gap.size() - CHUNK_OVERHEAD, 1).unwrap();
            // SAFETY: the size is not zero.
            let all = unsafe { talc.allocate(layout) }.expect("a gap can be allocated whole");
            shadow.insert(all.as_ptr(), layout);
        }
    }
    free_all(&mut talc, &mut shadow, &mut random);
}

#[test]
fn heaps_managed_by_hand() {
    for_programs(manual_heaps::<DefaultBinning>);
}

#[test]
fn heaps_managed_by_hand_with_few_bins_and_a_catch_all() {
    for_programs(manual_heaps::<Coarse>);
}

#[test]
fn heaps_managed_by_hand_with_many_bins_of_two_levels() {
    for_programs(manual_heaps::<Fine>);
}
