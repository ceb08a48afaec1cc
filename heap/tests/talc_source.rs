//! Talc with sources that grant memory, refuse it, grant too little, or falsely report success.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{NonNull, null_mut};

use common::memory::Memory;
use heap::source::Claim;
use heap::talc::base::binning::Binning;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Talc};
use heap::talc::source::Source;
use heap::talc::{DefaultBinning, TalcLock, min_first_heap_size};

const MIN: usize = min_first_heap_size::<DefaultBinning>();

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

/// Reports success and grants nothing.
#[derive(Debug)]
struct Liar {
    calls: usize,
}

// SAFETY: `acquire` grants nothing.
unsafe impl Source for Liar {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        talc.source.calls += 1;
        Ok(())
    }
}

#[test]
fn a_source_that_lies_is_asked_a_bounded_number_of_times() {
    let mut talc = Talc::<_, DefaultBinning>::new(Liar { calls: 0 });
    for failures in 1..4 {
        // SAFETY: the size is not zero.
        assert_eq!(unsafe { talc.allocate(layout(100)) }, None);
        assert!(
            talc.source.calls <= failures * 8,
            "asked {} times",
            talc.source.calls
        );
    }
    // SAFETY: the size is not zero.
    assert_eq!(unsafe { talc.try_allocate(layout(100)) }, None);
    assert!(
        talc.source.calls <= 24,
        "`try_allocate` does not call the source"
    );
}

/// Grants the next `grant` bytes of its memory as a heap at each call, except call `fails_at`.
#[derive(Debug)]
struct Slices {
    rest: heap::Span,
    grant: usize,
    calls: usize,
    fails_at: usize,
}

impl Slices {
    fn new(memory: &Memory, grant: usize) -> Self {
        let rest = heap::Span::new(memory.base(), memory.end());
        Self {
            rest,
            grant,
            calls: 0,
            fails_at: usize::MAX,
        }
    }
}

// SAFETY: `acquire` grants each byte once.
unsafe impl Source for Slices {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let source = &mut talc.source;
        source.calls += 1;
        if source.calls == source.fails_at || source.rest.size() < source.grant {
            return Err(());
        }
        let (base, grant) = (source.rest.base(), source.grant);
        source.rest = source.rest.truncate(grant, 0);
        // SAFETY: the bytes were not granted before.
        unsafe { talc.claim(base, grant) }.map(|_| ()).ok_or(())
    }
}

#[test]
fn grants_that_are_too_small_stay_when_an_allocation_fails() {
    for page in [512, 4096] {
        for less in (0..64).step_by(3) {
            let memory = Memory::new(1 << 18);
            let mut talc = Talc::<_, DefaultBinning>::new(Slices::new(&memory, page.max(MIN)));
            let wanted = 2 * page.max(MIN) - less;
            // SAFETY: the size is not zero.
            assert_eq!(unsafe { talc.allocate(layout(wanted)) }, None);
            let grants = memory.size() / page.max(MIN);
            assert_eq!(talc.source.calls, grants + 1, "until it fails");
            let calls = talc.source.calls;
            // SAFETY: the size is not zero.
            assert!(unsafe { talc.allocate(layout(256)) }.is_some());
            assert_eq!(talc.source.calls, calls, "granted memory is used");
            talc.check().unwrap();
        }
    }
}

/// Grants page after page: the first as a heap, the others at its end. Without a page left, it
/// reports success and grants nothing.
#[derive(Debug)]
struct Adjacent {
    slices: Slices,
    end: Option<NonNull<u8>>,
}

// SAFETY: `acquire` grants each byte once.
unsafe impl Source for Adjacent {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let Slices {
            rest, grant, calls, ..
        } = &mut talc.source.slices;
        *calls += 1;
        if rest.size() < *grant {
            return Ok(());
        }
        let (base, grant) = (rest.base(), *grant);
        *rest = rest.truncate(grant, 0);
        // SAFETY: the bytes were not granted before, and lie at the heap's end.
        talc.source.end = unsafe {
            match talc.source.end {
                None => talc.claim(base, grant),
                Some(end) => Some(talc.extend(end, base.wrapping_add(grant))),
            }
        };
        Ok(())
    }
}

/// Regression: eight calls that each granted memory counted as eight useless ones.
#[test]
fn adjacent_small_grants_serve_a_large_request() {
    let memory = Memory::new(64 << 12);
    let mut talc = Talc::<_, DefaultBinning>::new(Adjacent {
        slices: Slices::new(&memory, 1 << 12),
        end: None,
    });
    // SAFETY: the sizes are not zero.
    unsafe {
        assert!(talc.allocate(layout(40_000)).is_some());
        assert!((10..=11).contains(&talc.source.slices.calls));
        assert_eq!(talc.allocate(layout(64 << 12)), None);
        assert_eq!(
            talc.source.slices.calls,
            64 + 8,
            "eight calls without growth are the limit"
        );
    }
    talc.check().unwrap();
}

#[test]
fn behind_a_lock_a_source_is_asked_as_often() {
    let memory = Memory::new(64 << 12);
    let talc = TalcLock::<spin::Mutex<()>, _>::new(Adjacent {
        slices: Slices::new(&memory, 1 << 12),
        end: None,
    });
    // SAFETY: the sizes are not zero.
    unsafe {
        assert!(!talc.alloc(layout(40_000)).is_null());
        assert!((10..=11).contains(&talc.lock().source.slices.calls));
        assert!(talc.alloc(layout(64 << 12)).is_null());
        assert_eq!(talc.lock().source.slices.calls, 64 + 8);
    }
    talc.lock().check().unwrap();
}

/// A source may refuse because the request fits in a gap. Others may take that gap before it is
/// found.
#[test]
fn behind_a_lock_a_source_that_refuses_is_asked_once_more() {
    let memory = Memory::new(1 << 16);
    for fails_at in [1, 2] {
        let mut source = Slices::new(&memory, 1 << 16);
        source.fails_at = fails_at;
        let talc = TalcLock::<spin::Mutex<()>, _>::new(source);
        // SAFETY: the sizes are not zero.
        unsafe {
            assert!(!talc.alloc(layout(1000)).is_null());
            assert_eq!(talc.lock().source.calls, 2 / fails_at);
            // All of the memory was granted, so it refuses twice.
            let calls = talc.lock().source.calls;
            assert!(talc.alloc(layout(1 << 16)).is_null());
            assert_eq!(talc.lock().source.calls, calls + 2);
        }
        talc.lock().check().unwrap();
    }
}

/// Reports success, and alternately grants a heap and takes it back.
#[derive(Debug)]
struct Fickle {
    heap: heap::Span,
    end: Option<NonNull<u8>>,
    calls: usize,
}

// SAFETY: the heap is claimed only while it is not, and nothing else uses the memory.
unsafe impl Source for Fickle {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        talc.source.calls += 1;
        let heap = talc.source.heap;
        // SAFETY: `end` is the current end of the heap.
        talc.source.end = unsafe {
            match talc.source.end {
                None => talc.claim(heap.base(), heap.size()),
                Some(end) => talc.truncate(end, null_mut()),
            }
        };
        Ok(())
    }
}

#[test]
fn granting_and_taking_back_by_turns_does_not_count_as_growth() {
    let (first, memory) = (Memory::new(MIN), Memory::new(1 << 12));
    let mut talc = Talc::<_, DefaultBinning>::new(Fickle {
        heap: heap::Span::new(memory.base(), memory.end()),
        end: None,
        calls: 0,
    });
    // SAFETY: the memory lives as long as the allocator, and the size is not zero.
    unsafe {
        talc.claim(first.base(), first.size()).unwrap();
        assert_eq!(talc.allocate(layout(10_000)), None);
    }
    assert_eq!(talc.source.calls, 1 + 8);
    talc.check().unwrap();
}

#[test]
fn a_source_that_fails_at_any_call_leaves_the_heap_unchanged() {
    for fails_at in 1.. {
        let memory = Memory::new(16 * (MIN + 2048));
        let mut source = Slices::new(&memory, MIN + 2048);
        source.fails_at = fails_at;
        let mut talc = Talc::<_, DefaultBinning>::new(source);
        let mut blocks = Vec::new();
        let mut failed = false;
        for size in [100, 1000, 1800, 1500, 30, 1700, 1200, 1900, 1100] {
            let before = memory.bytes();
            // SAFETY: the size is not zero.
            let block = unsafe { talc.allocate(layout(size)) };
            let block = block.unwrap_or_else(|| {
                failed = true;
                assert!(memory.bytes() == before, "a failure changed the heap");
                talc.check().unwrap();
                // SAFETY: the size is not zero.
                unsafe { talc.allocate(layout(size)) }.expect("the source fails once")
            });
            blocks.push((block, size));
        }
        let heaps = talc.source.calls - usize::from(failed);
        for (block, size) in blocks {
            // SAFETY: the block is live.
            unsafe { talc.deallocate(block.as_ptr(), layout(size)) };
        }
        talc.check().unwrap();
        assert_eq!(talc.gaps().count(), heaps, "nothing leaked");
        if !failed {
            assert!(fails_at > 2, "the program needed no source");
            return;
        }
    }
}

#[test]
fn claim_claims_once_when_needed_and_hands_out_the_heap_end() {
    let memory = Memory::new((MIN + 4096).next_multiple_of(CHUNK_UNIT));
    // SAFETY: the memory is ours.
    let source = unsafe { Claim::new(memory.base(), memory.size()) };
    let mut talc = Talc::<_, DefaultBinning>::new(source);
    assert!(talc.source.is_ready());
    assert_eq!(talc.source.take_claim(), None);
    memory.assert_untouched(memory.base(), memory.end());
    // SAFETY: the sizes are not zero.
    unsafe {
        assert!(talc.allocate(layout(1000)).is_some());
        assert!(!talc.source.is_ready());
        assert_eq!(talc.allocate(layout(10_000)), None);
    }
    let end = talc.source.take_claim().expect("a heap was claimed");
    assert_eq!(end.as_ptr(), memory.end());
    assert_eq!(talc.source.take_claim(), None, "only once");
}

#[test]
fn claim_of_too_little_fails_and_touches_nothing() {
    let memory = Memory::new(CHUNK_UNIT);
    // SAFETY: the memory is ours.
    let source = unsafe { Claim::new(memory.base(), memory.size()) };
    let mut talc = Talc::<_, DefaultBinning>::new(source);
    // SAFETY: the size is not zero.
    assert_eq!(unsafe { talc.allocate(layout(1)) }, None);
    memory.assert_untouched(memory.base(), memory.end());
    assert!(!Claim::standby().is_ready());
}

#[test]
fn a_gap_that_fits_is_found_before_an_allocation_fails() {
    // One bin holds many gaps that are too small, and behind them one that fits.
    let memory = Memory::new(1 << 20);
    let mut talc = Talc::<_, DefaultBinning>::new(Slices::new(&memory, 1 << 19));
    let (smaller, larger) = (layout(65 * CHUNK_UNIT - 8), layout(68 * CHUNK_UNIT - 8));
    assert_eq!(
        DefaultBinning::size_to_bin(65 * CHUNK_UNIT),
        DefaultBinning::size_to_bin(68 * CHUNK_UNIT)
    );
    // SAFETY: sizes are not zero, and blocks are freed once.
    unsafe {
        let mut gaps = Vec::new();
        let mut pair = |talc: &mut Talc<Slices, DefaultBinning>, layout| {
            gaps.push((talc.allocate(layout).unwrap(), layout));
            talc.allocate(self::layout(1)).unwrap()
        };
        pair(&mut talc, larger);
        for _ in 0..100 {
            pair(&mut talc, smaller);
        }
        while talc.try_allocate(layout(1)).is_some() {}
        let [(expected, _), ..] = gaps[..] else {
            unreachable!()
        };
        for (block, layout) in gaps {
            talc.deallocate(block.as_ptr(), layout);
        }
        talc.source.grant = usize::MAX;
        assert_eq!(talc.allocate(larger), Some(expected));
        assert_eq!(talc.allocate(larger), None);
    }
}

/// Leaves heaps as they are, and records the last call of `resize`.
#[derive(Debug)]
struct Witness {
    last: Option<(*mut u8, *mut u8)>,
}

// SAFETY: `acquire` grants nothing, and `resize` returns `heap_end`.
unsafe impl Source for Witness {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(_: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        Err(())
    }

    unsafe fn resize(&mut self, base: *mut u8, heap_end: *mut u8, _: bool) -> *mut u8 {
        self.last = Some((base, heap_end));
        heap_end
    }
}

#[test]
fn freeing_and_shrinking_at_the_top_call_a_tracking_source() {
    let memory = Memory::new(1 << 16);
    let mut talc = Talc::<_, DefaultBinning>::new(Witness { last: None });
    // SAFETY: the memory is ours; blocks are live, and their sizes not zero.
    unsafe {
        let end = talc.claim(memory.base(), memory.size()).unwrap().as_ptr();
        let below = talc.allocate(layout(1000)).unwrap().as_ptr();
        let top = talc.allocate(layout(1000)).unwrap().as_ptr();
        talc.shrink(below, layout(1000), 500);
        talc.deallocate(below, layout(500));
        assert_eq!(talc.source.last, None, "the free memory is not at the top");
        talc.shrink(top, layout(1000), 1000 - CHUNK_UNIT);
        let chunk = (1000 - CHUNK_UNIT + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT);
        let shrunk = top.wrapping_add(chunk);
        assert_eq!(talc.source.last, Some((shrunk, end)));
        talc.deallocate(top, layout(1000 - CHUNK_UNIT));
        assert_eq!(talc.source.last, Some((below, end)));
    }
    talc.check().unwrap();
}
