//! The number of gaps that allocations probe: a cost that, unlike time, is the same on every
//! machine.

use core::alloc::Layout;
use core::cell::Cell;
use std::vec;
use std::vec::Vec;

use super::base::Talc;
use super::source::Manual;
use super::{DefaultBinning, min_first_heap_size};
use crate::test_random::Random;

std::thread_local! {
    static MAX_PROBES: Cell<usize> = const { Cell::new(0) };
}

/// Counts a probe of a gap.
pub(super) fn count_probe() {
    MAX_PROBES.set(MAX_PROBES.get() + 1);
}

/// Returns two numbers of probes: those of `count` allocations, and those of `count` pairs of a
/// free and an allocation, after every other block was freed.
fn probes(count: usize, layout: Layout) -> [usize; 2] {
    let room = count * layout.size().max(layout.align()) * 3 / 2 + (count << 7);
    let mut memory = vec![0_u64; (min_first_heap_size::<DefaultBinning>() + room) / 8];
    let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    // SAFETY: the memory outlives the allocator, sizes are not zero, and each block is freed once.
    unsafe {
        talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory[..]))
            .unwrap();
        let allocate = |talc: &mut Talc<_, _>| talc.allocate(layout).expect("there is room");
        MAX_PROBES.set(0);
        let mut blocks: Vec<_> = (0..count).map(|_| allocate(&mut talc)).collect();
        let first = MAX_PROBES.get();
        let mut random = Random::new(count as u64);
        for _ in 0..count / 2 {
            let block = blocks.swap_remove(random.below(blocks.len()));
            talc.deallocate(block.as_ptr(), layout);
        }
        MAX_PROBES.set(0);
        for _ in 0..count {
            let index = random.below(blocks.len());
            talc.deallocate(blocks[index].as_ptr(), layout);
            blocks[index] = allocate(&mut talc);
        }
        [first, MAX_PROBES.get()]
    }
}

/// Regression: `talc` 44, hermit 1968.
#[test]
fn page_aligned_blocks_need_at_most_five_times_the_probes() {
    const COUNT: usize = 0x4000;
    let aligned = probes(COUNT, Layout::from_size_align(1, 4096).unwrap());
    let plain = probes(COUNT, Layout::from_size_align(4096, 1).unwrap());
    for (aligned, plain) in aligned.into_iter().zip(plain) {
        assert!(plain >= COUNT, "{plain}");
        assert!(aligned <= 5 * plain, "{aligned} probes, {plain} for pages");
    }
}

#[test]
fn probes_do_not_depend_on_the_number_of_blocks() {
    for layout in [(100, 64), (1, 4096), (100, 8)] {
        let layout = Layout::from_size_align(layout.0, layout.1).unwrap();
        let (few, many) = (probes(1 << 9, layout), probes(1 << 13, layout));
        for (few, many) in few.into_iter().zip(many) {
            assert!(
                many <= 2 * 16 * few,
                "{layout:?}: {few} for few, {many} for many"
            );
        }
    }
}
