//! The bump allocators for many threads and for one.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;

use heap::bump::{Bump, BumpSlice, Failure, unsync};

use crate::common::programs::for_programs;
use crate::common::random::Random;
use crate::common::shadow::Shadow;

fn random_layout(random: &mut Random) -> Layout {
    Layout::from_size_align(random.size(8), 1 << random.below(8)).unwrap()
}

/// One step of a program, on either kind of allocator.
macro_rules! step {
    ($bump:expr, $shadow:expr, $random:expr) => {{
        let (bump, shadow, random) = ($bump, $shadow, $random);
        let layout = random_layout(random);
        let (base, level) = (bump.data_ptr().addr().get(), bump.level());
        let aligned = (base + level.byte_offset()).next_multiple_of(layout.align());
        match random.below(40) {
            0 => {
                shadow.assert_all_intact();
                *shadow = Shadow::new();
                bump.reset();
                assert_eq!(bump.level().byte_offset(), 0);
            }
            1..5 => {
                let before = bump.level();
                if bump.alloc(layout).is_some_and(|block| {
                    shadow.insert(block.as_ptr(), layout);
                    true
                }) {
                    let late = bump.alloc_at(layout, before).map(|_| ());
                    assert!(matches!(late, Err(Failure::Mismatch { .. })), "{late:?}");
                }
            }
            _ => match bump.alloc(layout) {
                Some(block) => {
                    assert_eq!(
                        block.addr().get(),
                        aligned,
                        "a lower address is free and aligned"
                    );
                    assert_eq!(bump.level().byte_offset(), aligned - base + layout.size());
                    shadow.insert(block.as_ptr(), layout);
                }
                None => {
                    assert!(aligned + layout.size() > base + bump.capacity());
                    assert_eq!(bump.level(), level, "a failure changes nothing");
                }
            },
        }
    }};
}

#[test]
fn shared_and_unshared_slices_of_any_size_and_address() {
    for_programs(|program| {
        let mut random = program.set_up();
        let mut memory = [MaybeUninit::uninit(); 8192];
        let from = random.below(64);
        let (one, other) = memory[from..][..64 + random.below(8000)].split_at_mut(random.below(64));
        for memory in [one, other] {
            if let Some(bump) = BumpSlice::from_memory(memory) {
                let mut shadow = Shadow::new();
                for mut random in program.steps() {
                    step!(&mut *bump, &mut shadow, &mut random);
                }
                shadow.assert_all_intact();
            }
            if let Ok(mut bump) = unsync::BumpSlice::from_mem(memory) {
                let mut shadow = Shadow::new();
                for mut random in program.steps() {
                    step!(&mut *bump, &mut shadow, &mut random);
                }
                shadow.assert_all_intact();
            }
        }
    });
}

#[test]
fn a_bump_as_a_global_allocator_reallocates() {
    for_programs(|program| {
        let bump = Bump::<[u64; 1024]>::zeroed();
        let mut shadow = Shadow::new();
        for mut random in program.steps() {
            super::global::step(&bump, &mut shadow, &mut random, true);
            assert!(bump.level().byte_offset() <= bump.capacity());
        }
        shadow.assert_all_intact();
        while let Some(block) = shadow.take(&mut program.set_up()) {
            // SAFETY: the block is live.
            unsafe { bump.dealloc(block.ptr, block.layout) };
        }
    });
}
