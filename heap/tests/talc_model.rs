//! Random programs on the allocator, beside a model that knows what every block must contain.

mod common;

use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{NonNull, null_mut};

use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use heap::Span;
use heap::talc::base::binning::{Binning, linear_extent_then_linearly_divided_exponential_binning};
use heap::talc::base::{CHUNK_UNIT, Talc};
use heap::talc::source::{Manual, Source};
use heap::talc::{DefaultBinning, min_first_heap_size};

/// Few bins, the last of which is a catch-all.
struct Coarse;

impl Binning for Coarse {
    type AvailabilityBitField = u8;
    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<2, 1>(size)
    }
}

/// Runs a program for each of several seeds, and says which seed failed.
fn for_seeds(seeds: u64, program: impl Fn(&mut Random)) {
    for seed in 0..seeds {
        let result = catch_unwind(AssertUnwindSafe(|| program(&mut Random::new(seed))));
        if let Err(panic) = result {
            eprintln!("failed with seed {seed}");
            resume_unwind(panic);
        }
    }
}

fn random_layout(random: &mut Random) -> Layout {
    let size = random.size(13);
    let align = if random.below(4) == 0 {
        1 << random.below(13)
    } else {
        1 << random.below(5)
    };
    Layout::from_size_align(size, align).unwrap()
}

/// Allocates, frees, resizes; returns whether memory was short.
fn step<S: Source, B: Binning>(
    talc: &mut Talc<S, B>,
    shadow: &mut Shadow,
    random: &mut Random,
    growing: bool,
) -> bool {
    let choice = random.below(16);
    if choice < if growing { 7 } else { 3 } {
        let layout = random_layout(random);
        // SAFETY: the size is not zero.
        let Some(ptr) = (unsafe { talc.allocate(layout) }) else {
            return true;
        };
        shadow.insert(ptr.as_ptr(), layout);
    } else if choice < 10 {
        let Some(block) = shadow.take(random) else {
            return false;
        };
        // SAFETY: the block is live.
        unsafe { talc.deallocate(block.ptr, block.layout) };
    } else if let Some(block) = shadow.take(random) {
        let old_size = block.layout.size();
        let new_size = match choice {
            10 | 11 => old_size + random.size(12),
            12 | 13 => 1 + random.below(old_size),
            _ => random.size(13),
        };
        // SAFETY: the block is live, and the sizes are as each operation wants them.
        let done = unsafe {
            match choice {
                10 | 11 => talc.try_grow_in_place(block.ptr, block.layout, new_size),
                12 | 13 => {
                    talc.shrink(block.ptr, block.layout, new_size);
                    true
                }
                _ => talc.try_realloc_in_place(block.ptr, block.layout, new_size),
            }
        };
        assert!(done || new_size > old_size, "shrinking failed");
        shadow.put_back(block, block.ptr, if done { new_size } else { old_size });
    }
    false
}

fn free_all<S: Source, B: Binning>(
    talc: &mut Talc<S, B>,
    shadow: &mut Shadow,
    random: &mut Random,
) {
    shadow.assert_all_intact();
    while let Some(block) = shadow.take(random) {
        // SAFETY: the block is live.
        unsafe { talc.deallocate(block.ptr, block.layout) };
    }
    talc.check().unwrap();
}

#[cfg(feature = "counters")]
fn assert_counters_agree<S: Source, B: Binning>(talc: &Talc<S, B>, shadow: &Shadow) {
    let counters = talc.counters();
    assert_eq!(counters.allocation_count, shadow.len());
    assert_eq!(counters.allocated_bytes, shadow.bytes());
    assert!(counters.total_allocation_count >= shadow.len() as u64);
    assert!(counters.claimed_bytes >= counters.available_bytes + counters.allocated_bytes);
}

#[cfg(not(feature = "counters"))]
fn assert_counters_agree<S: Source, B: Binning>(_: &Talc<S, B>, _: &Shadow) {}

/// A heap that the test manages by hand. What lies outside must stay untouched.
struct Heap {
    memory: Memory,
    base: *mut u8,
    /// `None` while it is deleted.
    end: Option<NonNull<u8>>,
}

impl Heap {
    fn span(&self) -> Option<Span> {
        Some(Span::new(self.base, self.end?.as_ptr()))
    }

    fn check<S: Source, B: Binning>(&self, talc: &Talc<S, B>) {
        self.memory.assert_untouched(self.memory.base(), self.base);
        if let Some(span) = self.span() {
            // SAFETY: it is a heap of this allocator.
            unsafe { talc.check_heap(span) }.unwrap();
            self.memory.assert_untouched(span.end(), self.memory.end());
        }
    }

    /// Claims, extends, truncates or resizes.
    fn change<B: Binning>(&mut self, talc: &mut Talc<Manual, B>, random: &mut Random) {
        let memory = &self.memory;
        let Some(end) = self.end else {
            memory.fill(memory.base(), memory.end());
            self.base = memory.base().wrapping_add(1 + random.below(200));
            let size = random.below(memory.end().addr() - self.base.addr() + 1);
            // SAFETY: the memory is ours, and nothing else uses it.
            self.end = unsafe { talc.claim(self.base, size) };
            if self.end.is_none() {
                memory.assert_untouched(memory.base(), memory.end());
                self.base = memory.end();
            }
            return;
        };
        let target = self.base.wrapping_add(random.below(memory.size() - 200));
        // SAFETY: the end is current, and the memory up to the target is ours.
        unsafe {
            let reserved = talc.reserved(end);
            assert!(reserved.up_to <= end);
            self.end = match random.below(4) {
                0 => Some(talc.extend(end, target)),
                1 => talc.truncate(end, target),
                2 => talc.truncate(end, null_mut()),
                _ => talc.resize(end, target),
            };
            match self.end {
                Some(new_end) => {
                    assert!(new_end >= reserved.up_to);
                    assert!(new_end.addr().get().is_multiple_of(CHUNK_UNIT));
                    if new_end < end {
                        memory.fill(new_end.as_ptr(), end.as_ptr());
                    }
                }
                None => assert!(!reserved.any, "a heap in use was deleted"),
            }
        }
    }
}

fn manual_heaps<B: Binning>(random: &mut Random) {
    let mut heaps: Vec<Heap> = (0..4)
        .map(|_| {
            let memory = Memory::new(96 << 10);
            Heap {
                base: memory.end(),
                memory,
                end: None,
            }
        })
        .collect();
    let mut talc = Talc::<_, B>::new(Manual);
    let mut shadow = Shadow::new();
    for index in 0..6_000 {
        if random.below(20) == 0 {
            let heap = random.below(heaps.len());
            heaps[heap].change(&mut talc, random);
        } else {
            step(&mut talc, &mut shadow, random, index / 1_500 % 2 == 0);
        }
        talc.check().unwrap();
        assert_counters_agree(&talc, &shadow);
        if index % 50 == 0 {
            heaps.iter().for_each(|heap| heap.check(&talc));
            let ranges: Vec<_> = heaps
                .iter()
                .filter_map(Heap::span)
                .map(|span| (span.base().addr(), span.end().addr()))
                .collect();
            shadow.assert_within(&ranges);
        }
    }
    free_all(&mut talc, &mut shadow, random);
    assert_counters_agree(&talc, &shadow);
    heaps.iter().for_each(|heap| heap.check(&talc));

    // Each heap is one gap again, and all of it can be allocated.
    for heap in heaps.iter().filter(|heap| heap.end.is_some()) {
        let gaps: Vec<_> = talc.gaps_in(heap.span().unwrap()).collect();
        assert!(gaps.len() <= 1, "{gaps:?} did not merge");
        for gap in gaps {
            let layout = Layout::from_size_align(gap.size() - size_of::<usize>(), 1).unwrap();
            // SAFETY: the size is not zero.
            let all = unsafe { talc.allocate(layout) }.expect("a gap can be allocated whole");
            shadow.insert(all.as_ptr(), layout);
        }
    }
    free_all(&mut talc, &mut shadow, random);
}

#[test]
fn random_programs_on_manual_heaps() {
    for_seeds(30, manual_heaps::<DefaultBinning>);
}

#[test]
fn random_programs_with_few_bins_and_a_catch_all() {
    for_seeds(30, manual_heaps::<Coarse>);
}

/// Grants pages from a few regions, extends the latest heap if it can, and takes back what is free,
/// which it fills at once: nobody else may write there.
#[derive(Debug)]
struct Pages {
    regions: Vec<Region>,
    grants: usize,
}

struct Region {
    memory: Memory,
    heap_end: Option<NonNull<u8>>,
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
            grants: 0,
        }
    }

    fn assert_rest_untouched(&self) {
        for Region { memory, heap_end } in &self.regions {
            let end = heap_end.map_or(memory.base(), NonNull::as_ptr);
            memory.assert_untouched(end, memory.end());
        }
    }
}

// SAFETY: every region belongs to the heap in it, up to its end.
unsafe impl Source for Pages {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let wanted = layout.size() + layout.align() + 2 * CHUNK_UNIT;
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
                    // SAFETY: the region is ours, and this heap is the only one in it.
                    Some(end) => unsafe { talc.extend(end, new_end) },
                    // SAFETY: the region is ours, and there is no heap in it.
                    None => unsafe { talc.claim(base, wanted) }.ok_or(())?,
                };
                talc.source.regions[index].heap_end = Some(heap_end);
                talc.source.grants += 1;
                return Ok(());
            }
        }
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
            assert_eq!(chunk_base.addr() - region.memory.base().addr(), CHUNK_UNIT);
            (chunk_base, region.memory.base())
        } else {
            let end = heap_end.with_addr(chunk_base.addr().next_multiple_of(PAGE));
            (end.min(heap_end), end.min(heap_end))
        };
        region.memory.fill(lowest, heap_end);
        region.heap_end = NonNull::new(new_end).filter(|_| !is_heap_base);
        new_end
    }
}

#[test]
fn a_tracking_source_gets_everything_back_and_nothing_above_the_end_is_touched() {
    for_seeds(20, |random| {
        let mut talc = Talc::<_, DefaultBinning>::new(Pages::new(3, 12 * PAGE));
        let mut shadow = Shadow::new();
        let mut failures = 0;
        for index in 0..6_000 {
            failures += usize::from(step(&mut talc, &mut shadow, random, index / 1_500 % 2 == 0));
            talc.check().unwrap();
            assert_counters_agree(&talc, &shadow);
            if index % 20 == 0 {
                talc.source.assert_rest_untouched();
                for Region { memory, heap_end } in &talc.source.regions {
                    if let Some(end) = heap_end {
                        // SAFETY: it is a heap of this allocator.
                        unsafe { talc.check_heap(Span::new(memory.base(), end.as_ptr())) }.unwrap();
                    }
                }
            }
        }
        assert!(failures > 0, "the source was never exhausted");
        assert!(talc.source.grants > 20, "the source got little back");
        free_all(&mut talc, &mut shadow, random);
        talc.source.assert_rest_untouched();

        // Only the heap with the list heads is left, and no more of it than they need.
        let left: Vec<_> = talc
            .source
            .regions
            .iter()
            .filter(|region| region.heap_end.is_some())
            .collect();
        let [
            Region {
                memory,
                heap_end: Some(end),
            },
        ] = left[..]
        else {
            panic!("{left:?}")
        };
        let size = end.addr().get() - memory.base().addr();
        assert!(size <= min_first_heap_size::<DefaultBinning>().next_multiple_of(PAGE));
    });
}
