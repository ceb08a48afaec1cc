//! Claiming, extending, truncating and deleting heaps.

mod common;

use std::alloc::Layout;
use std::ptr::{NonNull, null_mut, without_provenance_mut};

use common::memory::Memory;
use common::sizes::{FIRST, SMALLEST, units};
use heap::Span;
use heap::talc::base::{CHUNK_UNIT, Talc};
use heap::talc::source::Manual;
use heap::talc::{DefaultBinning, Region, min_first_heap_layout, min_first_heap_size};

type ManualTalc = Talc<Manual, DefaultBinning>;

const MIN: usize = min_first_heap_size::<DefaultBinning>();

/// Returns an allocator whose list heads lie in the returned memory, so that other heaps may be
/// small.
fn established() -> (ManualTalc, Memory) {
    let memory = Memory::new(MIN);
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the memory outlives the allocator.
    unsafe { talc.claim(memory.base(), MIN) }.expect("the documented size suffices");
    (talc, memory)
}

fn allocate(talc: &mut ManualTalc, size: usize) -> Option<NonNull<u8>> {
    // SAFETY: the tests request no zero-sized blocks.
    unsafe { talc.try_allocate(Layout::from_size_align(size, 1).unwrap()) }
}

fn deallocate(talc: &mut ManualTalc, ptr: NonNull<u8>, size: usize) {
    // SAFETY: the tests free each block once, with its layout.
    unsafe { talc.deallocate(ptr.as_ptr(), Layout::from_size_align(size, 1).unwrap()) }
}

#[test]
fn the_minimal_first_layout_suffices_for_an_allocation() {
    let layout = min_first_heap_layout::<DefaultBinning>();
    let memory = Memory::new(layout.size() + layout.align());
    // The range is aligned to the unit, but to no more.
    let base = memory.base().wrapping_add(layout.align());
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the range is in the memory.
    assert!(unsafe { talc.claim(base, layout.size()) }.is_some());
    assert!(allocate(&mut talc, 1).is_some());
}

/// Regression: the claim required 32 bytes more than that of `talc`.
#[test]
fn a_claim_of_exactly_the_list_heads_makes_a_full_heap() {
    let exactly = min_first_heap_layout::<DefaultBinning>().size() - SMALLEST;
    let memory = Memory::new(exactly + 4096);
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the range is in the memory, and each end is current.
    unsafe {
        assert_eq!(talc.claim(memory.base(), exactly - 1), None);
        memory.assert_untouched(memory.base(), memory.end());
        let end = talc.claim(memory.base(), exactly).expect("heads fit");
        assert_eq!(end.as_ptr(), memory.base().wrapping_add(exactly));
        assert_eq!(talc.gaps().count(), 0);
        assert_eq!(allocate(&mut talc, 1), None);
        assert_eq!(talc.truncate(end, null_mut()), Some(end));
        talc.check_heap(Span::new(memory.base(), end.as_ptr()))
            .unwrap();
        memory.assert_untouched(end.as_ptr(), memory.end());
        let end = talc.extend(end, memory.end());
        talc.check_heap(Span::new(memory.base(), end.as_ptr()))
            .unwrap();
        assert!(allocate(&mut talc, units(4096 / CHUNK_UNIT)).is_some());
    }
}

/// Regression: truncating left a heap of one unit, which is too small for any allocation.
#[test]
fn truncating_an_empty_heap_below_a_chunk_deletes_it() {
    let (mut talc, _first) = established();
    let memory = Memory::new(64 * CHUNK_UNIT);
    for size in 0..FIRST + 2 * SMALLEST {
        // SAFETY: only this test uses the memory, and no heap is in it.
        unsafe {
            let end = talc.claim(memory.base(), memory.size()).unwrap();
            let left = talc.truncate(end, memory.base().wrapping_add(size));
            assert_eq!(left.is_some(), size >= FIRST + SMALLEST, "{size}");
            talc.check().unwrap();
            if let Some(end) = left {
                let block = allocate(&mut talc, 1).expect("what stays can be used");
                deallocate(&mut talc, block, 1);
                assert_eq!(talc.truncate(end, null_mut()), None);
            }
        }
    }
}

#[test]
fn claim_refuses_null_and_wrapping_ranges() {
    let (mut talc, _first) = established();
    let refused = |base, size, talc: &mut ManualTalc| {
        // SAFETY: the range is impossible, so the claim fails and accesses nothing.
        let end = unsafe { talc.claim(base, size) };
        assert_eq!(end, None, "{size:#x} bytes from {base:?}");
    };
    for size in [0, 1, 4096, isize::MAX as usize, usize::MAX] {
        refused(null_mut(), size, &mut talc);
    }
    for below_top in [1, 2, 8, CHUNK_UNIT, 4096] {
        let base = without_provenance_mut(usize::MAX - below_top + 1);
        for size in [
            below_top,
            below_top + 1,
            1 << 20,
            isize::MAX as usize,
            usize::MAX,
        ] {
            refused(base, size, &mut talc);
        }
    }
    talc.check().unwrap();
}

#[test]
fn extending_enlarges_the_gap_at_the_top() {
    let (mut talc, _first) = established();
    let memory = Memory::new(64 * CHUNK_UNIT);
    let at = |units: usize| memory.base().wrapping_add(units * CHUNK_UNIT);
    let first = at(0).wrapping_add(FIRST);
    // SAFETY: the memory is ours, and each end is passed on.
    unsafe {
        let end = talc.claim(at(0), 10 * CHUNK_UNIT).unwrap();
        assert_eq!(end.as_ptr(), at(10));
        // The heap is exactly as large as the memory.
        assert_eq!(talc.extend(end, at(11).wrapping_sub(1)), end);
        assert_eq!(talc.extend(end, null_mut()), end);
        let end = talc.extend(end, at(20).wrapping_add(5));
        assert_eq!(end.as_ptr(), at(20));
        memory.assert_untouched(at(20), memory.end());

        // One allocation fills the heap.
        let all_units = 20 - FIRST / CHUNK_UNIT;
        let all = allocate(&mut talc, units(all_units)).unwrap();
        assert_eq!(talc.reserved(end).up_to, end);
        // The memory that is added then is a gap of its own.
        let end = talc.extend(end, at(22));
        let heap = Span::new(at(0), end.as_ptr());
        talc.check_heap(heap).unwrap();
        assert_eq!(
            talc.regions(heap).collect::<Vec<_>>(),
            [
                Region::Run(Span::new(first, at(20))),
                Region::Gap(Span::new(at(20), at(22)))
            ]
        );
        deallocate(&mut talc, all, units(all_units));
        assert_eq!(
            talc.gaps_in(heap).collect::<Vec<_>>(),
            [Span::new(first, at(22))]
        );
        talc.check_heap(heap).unwrap();
    }
}

#[test]
fn truncating_stops_at_the_reserved_part() {
    let (mut talc, _first) = established();
    let memory = Memory::new(64 * CHUNK_UNIT);
    let at = |units: usize| memory.base().wrapping_add(units * CHUNK_UNIT);
    // SAFETY: the memory is ours, and each end is passed on.
    unsafe {
        let end = talc.claim(at(0), 64 * CHUNK_UNIT).unwrap();
        let low = talc
            .try_allocate(Layout::from_size_align(1, 1).unwrap())
            .unwrap();
        let high = allocate(&mut talc, 10 * CHUNK_UNIT).unwrap();
        let heap_of = |end: NonNull<u8>| Span::new(at(0), end.as_ptr());
        assert_eq!(talc.truncate(end, end.as_ptr()), Some(end));
        assert_eq!(
            talc.truncate(end, end.as_ptr().wrapping_add(1000)),
            Some(end)
        );

        let end = talc
            .truncate(end, at(40).wrapping_add(CHUNK_UNIT - 1))
            .unwrap();
        assert_eq!(end.as_ptr(), at(40), "rounded down");
        memory.fill(at(40), memory.end());
        talc.check_heap(heap_of(end)).unwrap();

        let reserved = talc.reserved(end);
        assert!(reserved.any);
        assert!(reserved.up_to.as_ptr() > high.as_ptr());
        let end = talc.truncate(end, null_mut()).unwrap();
        assert_eq!(end, reserved.up_to);
        memory.fill(end.as_ptr(), memory.end());
        talc.check_heap(heap_of(end)).unwrap();
        assert_eq!(talc.truncate(end, null_mut()), Some(end), "no further");

        // A gap below the highest allocation makes no difference.
        deallocate(&mut talc, low, 1);
        assert_eq!(talc.reserved(end).up_to, end);
        deallocate(&mut talc, high, 10 * CHUNK_UNIT);
        talc.check_heap(heap_of(end)).unwrap();
        let reserved = talc.reserved(end);
        let first = at(0).wrapping_add(FIRST);
        assert_eq!((reserved.up_to.as_ptr(), reserved.any), (first, false));
        memory.assert_untouched(end.as_ptr(), memory.end());
    }
}

#[test]
fn an_empty_heap_is_deleted_and_can_be_claimed_again() {
    let (mut talc, _first) = established();
    let memory = Memory::new(64 * CHUNK_UNIT);
    for _ in 0..3 {
        // SAFETY: the memory is ours, and no heap is in it.
        unsafe {
            let end = talc.claim(memory.base(), memory.size()).unwrap();
            let block = allocate(&mut talc, 20 * CHUNK_UNIT).unwrap();
            assert!(Span::new(memory.base(), end.as_ptr()).contains(block.as_ptr()));
            deallocate(&mut talc, block, 20 * CHUNK_UNIT);
            assert_eq!(talc.truncate(end, talc.reserved(end).up_to.as_ptr()), None);
        }
        memory.fill(memory.base(), memory.end());
        talc.check().unwrap();
        assert_eq!(
            allocate(&mut talc, 20 * CHUNK_UNIT),
            None,
            "the heap is gone"
        );
        memory.assert_untouched(memory.base(), memory.end());
    }
}

#[test]
fn the_first_heap_is_never_deleted() {
    let memory = Memory::new(MIN + 4096);
    let mut talc = ManualTalc::new(Manual);
    // SAFETY: the memory is ours, and each end is passed on.
    unsafe {
        let end = talc.claim(memory.base(), memory.size()).unwrap();
        assert!(talc.reserved(end).any, "by the list heads");
        let end = talc.truncate(end, null_mut()).expect("it is not deleted");
        memory.fill(end.as_ptr(), memory.end());
        assert_eq!(talc.gaps().count(), 0);
        assert_eq!(allocate(&mut talc, 1), None);
        memory.assert_untouched(end.as_ptr(), memory.end());
        let end = talc.resize(end, memory.end()).unwrap();
        talc.check_heap(Span::new(memory.base(), end.as_ptr()))
            .unwrap();
        assert!(allocate(&mut talc, 4000).is_some());
    }
}

#[test]
fn adjacent_heaps_never_coalesce() {
    let (mut talc, _first) = established();
    let memory = Memory::new(32 * CHUNK_UNIT);
    let middle = memory.base().wrapping_add(16 * CHUNK_UNIT);
    // SAFETY: only this test uses the two halves.
    let (low, high) = unsafe {
        let low = talc.claim(memory.base(), 16 * CHUNK_UNIT).unwrap();
        (low, talc.claim(middle, 16 * CHUNK_UNIT).unwrap())
    };
    assert_eq!(low.as_ptr(), middle);
    let size = units(16 - FIRST / CHUNK_UNIT);
    let blocks = [
        allocate(&mut talc, size).unwrap(),
        allocate(&mut talc, size).unwrap(),
    ];
    for block in blocks {
        deallocate(&mut talc, block, size);
    }
    assert_eq!(allocate(&mut talc, 16 * CHUNK_UNIT), None);
    for (base, end) in [(memory.base(), low), (middle, high)] {
        // SAFETY: the span is that of a heap of this allocator.
        unsafe { talc.check_heap(Span::new(base, end.as_ptr())) }.unwrap();
    }
}
