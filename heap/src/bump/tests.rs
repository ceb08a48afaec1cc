#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a test calls the unsafe methods of one allocator many times"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::boxed::Box;
use std::rc::Rc;
use std::string::ToString;
use std::thread;
use std::vec::Vec;

use super::leaked::LeakBox;
use super::region::{Count, Region};
use super::{Bump, Failure};
use crate::test_random::Random;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn random_allocations_are_aligned_disjoint_and_within() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let bump = Bump::<[u64; 2048]>::zeroed();
        let base = bump.data_ptr().addr().get();
        let mut end = base;
        loop {
            let layout = layout(random.size(8), 1 << random.below(10));
            let level = bump.level();
            let Some(block) = bump.alloc(layout) else {
                // The rest is too small for the request, and is still unused.
                let padding = end.wrapping_neg() & (layout.align() - 1);
                assert!(
                    end + padding + layout.size() > base + bump.capacity(),
                    "seed {seed}"
                );
                assert_eq!(bump.level(), level);
                break;
            };
            let block = block.addr().get();
            assert_eq!(block % layout.align(), 0, "seed {seed}");
            assert!(block >= end && block - end < layout.align(), "seed {seed}");
            end = block + layout.size();
            assert_eq!(bump.level().byte_offset(), end - base);
        }
        assert!(
            bump.alloc(layout(bump.capacity() - (end - base) + 1, 1))
                .is_none()
        );
        if end < base + bump.capacity() {
            assert!(
                bump.alloc(layout(bump.capacity() - (end - base), 1))
                    .is_some()
            );
        }
    }
}

#[test]
fn threads_never_get_the_same_memory() {
    let bump = Bump::<[u64; 1 << 14]>::uninit();
    let mut ranges: Vec<(usize, usize)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let bump = &bump;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut ranges = Vec::new();
                    while let Some(allocation) =
                        bump.get_layout(layout(random.size(5), 1 << random.below(4)))
                    {
                        let start = allocation.ptr.addr().get();
                        let base = bump.data_ptr().addr().get();
                        ranges.push((start, base + allocation.level.byte_offset()));
                    }
                    ranges
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    ranges.sort_unstable();
    assert!(ranges.len() > 1000);
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "ranges overlap"
    );
}

/// A count that loses races: before each of the first `turns` changes, another thread adds 8.
struct Contended {
    used: Cell<usize>,
    turns: Cell<usize>,
}

impl Count for Contended {
    fn get(&self) -> usize {
        self.used.get()
    }

    fn advance(&self, from: usize, to: usize) -> Result<(), usize> {
        if let Some(turns) = self.turns.get().checked_sub(1) {
            self.turns.set(turns);
            self.used.set(self.used.get() + 8);
        }
        self.used.advance(from, to)
    }
}

#[test]
fn a_range_is_taken_after_any_number_of_lost_races() {
    let mut memory = [0_u64; 8];
    let count = Contended {
        used: Cell::new(0),
        turns: Cell::new(7),
    };
    // SAFETY: the memory has 64 bytes, and this is its only count.
    let region = unsafe { Region::new(NonNull::from(&mut memory).cast(), 64, &count) };
    let last = region
        .take(layout(8, 8))
        .expect("the last 8 bytes are unused");
    assert_eq!(
        last.ptr.as_ptr(),
        memory.as_mut_ptr().wrapping_add(7).cast()
    );
    assert!(matches!(region.take(layout(8, 8)), Err(Failure::Exhausted)));
}

#[test]
fn layouts_that_would_overflow_are_refused() {
    let bump = Bump::<[u64; 4]>::uninit();
    bump.leak(1_u8).unwrap();
    let level = bump.level();
    for align in [1, 8, 1 << (usize::BITS - 8), 1 << (usize::BITS - 2)] {
        let largest = isize::MAX as usize - (align - 1);
        for size in [33, largest / 2, largest] {
            assert!(bump.alloc(layout(size, align)).is_none());
            assert_eq!(
                bump.alloc_at(layout(size, align), level),
                Err(Failure::Exhausted)
            );
        }
    }
    assert!(bump.get_slice::<u64>(usize::MAX).is_none());
    assert_eq!(bump.level(), level);
}

#[test]
#[should_panic(expected = "zero bytes")]
fn zero_bytes_are_refused_by_alloc() {
    Bump::<u64>::uninit().alloc(layout(0, 1));
}

#[test]
fn zero_sized_values_always_fit_and_keep_the_level() {
    let bump = Bump::<[u8; 3]>::uninit();
    bump.leak([0_u8; 3]).unwrap();
    let level = bump.level();
    bump.leak(()).unwrap();
    let (_, after) = bump.leak_at([0_u64; 0], level).unwrap();
    assert_eq!(after, level);
    assert_eq!(
        bump.get_slice::<()>(usize::MAX).unwrap().ptr.len(),
        usize::MAX
    );
    assert_eq!(bump.get_slice::<u64>(0).unwrap().level_start(), level);
    assert_eq!(bump.level(), level);

    // They are dropped nevertheless.
    struct Counted;
    static DROPS: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
    drop(bump.leak_box(Counted).unwrap());
    assert_eq!(DROPS.load(core::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_slice_is_built_piece_by_piece() {
    let bump = Bump::<[u64; 8]>::uninit();
    let first = bump.get_at::<u64>(bump.level()).unwrap();
    let start = first.level_start();
    let mut level = first.level;
    for value in 1..8_u64 {
        (_, level) = bump.leak_at(value, level).unwrap();
    }
    // SAFETY: the range fits a `u64`, and nothing else uses it.
    unsafe { first.leak(0) };
    let error = bump.leak_at(8_u64, level).unwrap_err();
    assert_eq!((error.kind(), error.into_inner()), (Failure::Exhausted, 8));
    // SAFETY: `start` is the level of the first value.
    let first = unsafe { bump.get_unchecked::<u64>(start) };
    // SAFETY: eight values lie side by side from `start`, and no reference to any of them is alive.
    let all = unsafe { core::slice::from_raw_parts(first.ptr.as_ptr(), 8) };
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_allocation_at_an_outdated_level_is_refused() {
    let bump = Bump::<[u64; 8]>::uninit();
    let level = bump.level();
    bump.leak(1_u32).unwrap();
    let observed = bump.level();
    let mismatch = Failure::Mismatch { observed };
    assert_eq!(bump.alloc_at(layout(8, 8), level), Err(mismatch));
    assert_eq!(bump.leak_at(5, level).unwrap_err().kind(), mismatch);
    assert_eq!(bump.leak_box_at(5, level).unwrap_err(), mismatch);
    assert!(mismatch.to_string().contains("byte 4"));
    assert_eq!(bump.level(), observed);
    assert!(bump.leak_box_at(5, observed).is_ok());
}

#[test]
fn a_value_that_does_not_fit_is_returned() {
    let bump = Bump::<[u8; 1]>::uninit();
    let value = Rc::new(5);
    let error = bump.leak(value.clone()).unwrap_err();
    assert_eq!(error.kind(), Failure::Exhausted);
    assert!(Rc::ptr_eq(&error.into_inner(), &value));
    assert!(bump.leak_box(value.clone()).is_none());
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
fn a_leak_box_drops_its_value_once_or_hands_it_over() {
    let bump = Bump::<[usize; 16]>::uninit();
    let value = Rc::new(0);
    let count = || Rc::strong_count(&value) - 1;

    let dropped = bump.leak_box(value.clone()).unwrap();
    assert_eq!(count(), 1);
    drop(dropped);
    assert_eq!(count(), 0);

    let taken = LeakBox::take(bump.leak_box(value.clone()).unwrap());
    assert_eq!(count(), 1);
    drop(taken);

    let raw = LeakBox::into_raw(bump.leak_box(value.clone()).unwrap());
    assert_eq!(count(), 1);
    // SAFETY: `into_raw` returned the pointer.
    drop(unsafe { LeakBox::from_raw(raw) });
    assert_eq!(count(), 0);

    let written = LeakBox::write(bump.leak_box(MaybeUninit::uninit()).unwrap(), value.clone());
    assert_eq!(count(), 1);
    drop(written);
    assert_eq!(count(), 0);

    LeakBox::leak(bump.leak_box(value.clone()).unwrap());
    assert_eq!(count(), 1, "a leaked value is never dropped");
    assert_eq!(size_of::<LeakBox<u8>>(), size_of::<Option<LeakBox<u8>>>());
}

#[test]
fn growing_the_last_block_stays_in_place() {
    let bump = Bump::<[u128; 4]>::uninit();
    // SAFETY: sizes are not zero, and blocks are live.
    unsafe {
        let block = GlobalAlloc::alloc(&bump, layout(8, 8));
        block.write_bytes(7, 8);
        assert_eq!(bump.realloc(block, layout(8, 8), 4), block);
        assert_eq!(bump.level().byte_offset(), 8, "shrinking frees nothing");
        assert_eq!(bump.realloc(block, layout(8, 8), 24), block);
        assert_eq!(bump.level().byte_offset(), 24);
        assert!(
            bump.realloc(block, layout(24, 8), 65).is_null(),
            "too large"
        );
        assert!(bump.realloc(block, layout(24, 8), usize::MAX - 8).is_null());
        assert_eq!(
            bump.realloc(block, layout(24, 8), 32),
            block,
            "to exactly half"
        );

        let wall = GlobalAlloc::alloc(&bump, layout(1, 1));
        let moved = bump.realloc(block, layout(8, 8), 16);
        assert!(moved > wall && moved.addr() % 8 == 0);
        assert_eq!(core::slice::from_raw_parts(moved, 8), [7; 8]);
        assert!(
            bump.realloc(wall, layout(1, 1), 9).is_null(),
            "the block fits nowhere"
        );
        assert!(GlobalAlloc::alloc(&bump, layout(9, 1)).is_null());
        let zeroed = bump.alloc_zeroed(layout(8, 1));
        assert_eq!(core::slice::from_raw_parts(zeroed, 8), [0; 8]);
    }
}

#[test]
fn a_reset_frees_all_memory() {
    let mut bump = Bump::<[u64; 2]>::new([1, 2]);
    let first = bump.leak([0_u64; 2]).unwrap().as_ptr();
    assert!(bump.leak(0_u8).is_err());
    bump.reset();
    assert_eq!(bump.leak([0_u64; 2]).unwrap().as_ptr(), first);
}

#[test]
fn a_bump_is_created_in_existing_memory() {
    let mut place = Box::new(MaybeUninit::<Bump<[u64; 4]>>::uninit());
    let bump = Bump::from_maybe_uninit(&mut place);
    assert_eq!(*bump.leak(5).unwrap(), 5);

    let mut memory = [MaybeUninit::<u8>::uninit(); 64];
    for start in 0..8 {
        let bump = Bump::<[u8; 40]>::from_memory(&mut memory[start..]).unwrap();
        assert_eq!((bump.capacity(), bump.level().byte_offset()), (40, 0));
        assert!(bump.get_slice::<u8>(40).is_some());
    }
    let too_small = size_of::<Bump<[u8; 40]>>() - 1;
    assert!(Bump::<[u8; 40]>::from_memory(&mut memory[..too_small]).is_none());
    assert!(Bump::<[u8; 40]>::from_memory(&mut memory[..0]).is_none());
}
