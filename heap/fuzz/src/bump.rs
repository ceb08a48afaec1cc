//! Programs on a [`Bump`].

use std::alloc::GlobalAlloc;

use heap::bump::{Bump, Failure};

use crate::common::shadow::Shadow;
use crate::input::Input;

/// Runs a program.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bump = Bump::<[u64; 64]>::uninit();
    let mut shadow = Shadow::new();
    let mut stale = bump.level();
    while !input.is_over() {
        let before = bump.level();
        match input.below(8) {
            0..=2 => {
                let layout = input.layout(6, 7);
                if let Some(block) = bump.alloc(layout) {
                    shadow.insert(block.as_ptr(), layout);
                }
            }
            3 => {
                let layout = input.layout(5, 4);
                let at = if input.below(2) == 0 { before } else { stale };
                match bump.alloc_at(layout, at) {
                    Ok(allocation) => {
                        assert_eq!(at, before);
                        assert_eq!(allocation.level, bump.level());
                        shadow.insert(allocation.ptr.as_ptr(), layout);
                    }
                    Err(Failure::Mismatch { observed }) => {
                        assert_eq!(observed, before);
                        assert_ne!(at, before);
                    }
                    Err(failure) => assert_eq!(failure, Failure::Exhausted),
                }
            }
            4 | 5 if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                let new_size = input.size(7);
                // SAFETY: the block is live, and the size neither zero nor large.
                let moved = unsafe { bump.realloc(block.ptr, block.layout, new_size) };
                if moved.is_null() {
                    assert!(new_size > block.layout.size(), "a block can always shrink");
                    shadow.put_back(block, block.ptr, block.layout.size());
                } else {
                    shadow.put_back(block, moved, new_size);
                }
            }
            6 if !shadow.is_empty() => {
                let block = shadow.take_at(input.below(shadow.len()));
                // SAFETY: the block is live.
                unsafe { bump.dealloc(block.ptr, block.layout) };
                assert_eq!(bump.level(), before);
            }
            7 if input.below(8) == 0 => {
                shadow.assert_all_intact();
                shadow = Shadow::new();
                bump.reset();
                assert_eq!(bump.level().byte_offset(), 0);
                stale = bump.level();
                continue;
            }
            _ => stale = before,
        }
        assert!(bump.level() >= before);
        let base = bump.data_ptr().addr().get();
        shadow.assert_within(&[(base, base + bump.level().byte_offset())]);
    }
    shadow.assert_all_intact();

    // Exactly the rest of the capacity can still be allocated.
    let left = bump.capacity() - bump.level().byte_offset();
    assert!(bump.get_slice::<u8>(left + 1).is_none());
    assert!(bump.get_slice::<u8>(left).is_some());
    assert_eq!(bump.level().byte_offset(), bump.capacity());
}
