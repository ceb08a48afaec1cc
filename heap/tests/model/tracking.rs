//! Model test of a source that grants pages and takes them back.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use heap::Span;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Talc};
use heap::talc::source::Source;
use heap::talc::{DefaultBinning, min_first_heap_size};

use super::operations::{assert_counters_agree, free_all, is_growing, step};
use crate::common::memory::Memory;
use crate::common::programs::{Program, for_programs};
use crate::common::shadow::Shadow;
use crate::common::sizes::FIRST;

/// A source that grants pages from a few regions, and extends the latest heap if it can. It takes
/// back free pages and fills them immediately: only the source may write there.
#[derive(Debug)]
struct Pages {
    regions: Vec<Region>,
    returns: usize,
    refusals: usize,
}

struct Region {
    memory: Memory,
    heap_end: Option<NonNull<u8>>,
}

impl Region {
    fn size(&self) -> Option<usize> {
        Some(self.heap_end?.addr().get() - self.memory.base().addr())
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", self.memory.base(), self.heap_end)
    }
}

const PAGE: usize = 4096;

impl Pages {
    fn new(regions: usize, size: usize) -> Self {
        let region = || Region {
            memory: Memory::new(size),
            heap_end: None,
        };
        Self {
            regions: std::iter::repeat_with(region).take(regions).collect(),
            returns: 0,
            refusals: 0,
        }
    }

    fn assert_rest_untouched(&self) {
        for Region { memory, heap_end } in &self.regions {
            let end = heap_end.map_or(memory.base(), NonNull::as_ptr);
            memory.assert_untouched(end, memory.end());
        }
    }
}

// SAFETY: each region belongs to the heap in it, up to the heap's end.
unsafe impl Source for Pages {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let wanted = layout.size() + CHUNK_OVERHEAD + layout.align() + 2 * CHUNK_UNIT + FIRST;
        let first = if talc.is_metadata_established() {
            0
        } else {
            min_first_heap_size::<B>()
        };
        let wanted = (wanted + first).next_multiple_of(PAGE);
        for index in 0..talc.source.regions.len() {
            let region = &talc.source.regions[index];
            let (base, limit) = (region.memory.base(), region.memory.end());
            let new_end = region
                .heap_end
                .map_or(base, NonNull::as_ptr)
                .wrapping_add(wanted);
            if new_end <= limit {
                let heap_end = match region.heap_end {
                    // SAFETY: the region is the source's, and this heap is the only one in it.
                    Some(end) => unsafe { talc.extend(end, new_end) },
                    // SAFETY: the region is the source's, and no heap is in it.
                    None => unsafe { talc.claim(base, wanted) }.ok_or(())?,
                };
                talc.source.regions[index].heap_end = Some(heap_end);
                return Ok(());
            }
        }
        talc.source.refusals += 1;
        Err(())
    }

    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let region = self
            .regions
            .iter_mut()
            .find(|region| region.heap_end == NonNull::new(heap_end))
            .expect("the end is one that was granted or returned");
        assert!(chunk_base < heap_end);
        let (new_end, lowest) = if is_heap_base {
            assert_eq!(chunk_base.addr() - region.memory.base().addr(), FIRST);
            (chunk_base, region.memory.base())
        } else {
            let end = heap_end.with_addr(chunk_base.addr().next_multiple_of(PAGE));
            (end.min(heap_end), end.min(heap_end))
        };
        self.returns += usize::from(lowest < heap_end);
        region.memory.fill(lowest, heap_end);
        region.heap_end = NonNull::new(new_end).filter(|_| !is_heap_base);
        new_end
    }
}

fn run(program: &Program) -> Pages {
    let mut talc = Talc::<_, DefaultBinning>::new(Pages::new(2, 2 * PAGE));
    let mut shadow = Shadow::new();
    for (index, mut random) in program.steps().enumerate() {
        step(&mut talc, &mut shadow, &mut random, is_growing(index));
        talc.check().unwrap();
        assert_counters_agree(&talc, &shadow);
        if index % 50 == 49 {
            talc.source.assert_rest_untouched();
            for Region { memory, heap_end } in &talc.source.regions {
                if let Some(end) = heap_end {
                    // SAFETY: the span is that of a heap of this allocator.
                    unsafe { talc.check_heap(Span::new(memory.base(), end.as_ptr())) }.unwrap();
                }
            }
        }
    }
    free_all(&mut talc, &mut shadow, &mut program.set_up());
    talc.source.assert_rest_untouched();

    // Only the heap with the list heads is left, and only as many pages as they need.
    let left = talc.source.regions.iter().filter_map(Region::size);
    let metadata = min_first_heap_size::<DefaultBinning>().next_multiple_of(PAGE);
    assert!(left.sum::<usize>() <= metadata, "{:?}", talc.source);
    talc.source
}

#[test]
fn a_tracking_source_gets_everything_back_and_nothing_above_the_end_is_touched() {
    let (returns, refusals) = (Cell::new(0), Cell::new(0));
    let programs = for_programs(|program| {
        let source = run(program);
        returns.set(returns.get() + source.returns);
        refusals.set(refusals.get() + source.refusals);
    });
    // So it is with many of them.
    assert!(
        programs < 100 || refusals.get() > programs / 40,
        "{refusals:?}"
    );
    assert!(programs < 100 || returns.get() > programs, "{returns:?}");
}
