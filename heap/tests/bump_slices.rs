//! Bump allocators of any size, for one thread, and as a `LocalAlloc`; slices on the stack.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::rc::Rc;

use heap::bump::leaked::{Alloca, LeakBox};
use heap::bump::{Bump, BumpSlice, Failure, unsync};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[repr(align(32))]
struct HighlyAligned(#[expect(dead_code)] [u8; 64]);

#[test]
fn a_bump_and_its_slice_are_the_same_memory() {
    let mut bump = Bump::<[u8; 37]>::uninit();
    let first = bump.leak(1_u8).unwrap() as *mut u8;
    let slice = bump.as_bump_slice().unwrap();
    assert_eq!((slice.capacity(), slice.data_ptr()), (37, bump.data_ptr()));
    assert_eq!(size_of_val(slice), size_of_val(&bump));
    assert_eq!(slice.level(), bump.level());
    let rest = slice.get_slice::<u8>(36).unwrap();
    assert_eq!(rest.ptr.cast::<u8>().as_ptr(), first.wrapping_add(1));
    assert!(bump.leak(0_u8).is_err());
    bump.as_mut_bump_slice().unwrap().reset();
    assert_eq!(bump.level().byte_offset(), 0);
    assert!(Bump::<[u64; 3]>::uninit().as_bump_slice().is_some());
    let mut high = Bump::<HighlyAligned>::uninit();
    assert!(high.as_bump_slice().is_none() && high.as_mut_bump_slice().is_none());
}

#[test]
fn a_slice_uses_all_words_of_its_memory_and_nothing_else() {
    for start in 0..16 {
        for len in 0..64 {
            let mut memory = [MaybeUninit::new(0xa5_u8); 96];
            let range = start..start + len;
            match BumpSlice::from_memory(&mut memory[range.clone()]) {
                None => assert!(len < 2 * size_of::<usize>(), "{len} bytes from {start}"),
                Some(bump) => {
                    let unused = len - size_of::<usize>() - bump.capacity();
                    assert!(unused < 2 * size_of::<usize>());
                    let all = bump.get_slice::<u8>(bump.capacity()).unwrap();
                    assert!(bump.get::<u8>().is_none());
                    // SAFETY: the allocation has this many bytes, and nothing else uses it.
                    unsafe { all.ptr.cast::<u8>().write_bytes(0, bump.capacity()) };
                }
            }
            // SAFETY: all bytes were initialised.
            let memory = memory.map(|byte| unsafe { byte.assume_init() });
            let outside = memory[..range.start].iter().chain(&memory[range.end..]);
            assert!(
                outside.copied().all(|byte| byte == 0xa5),
                "{len} bytes from {start}"
            );
        }
    }
}

#[test]
fn a_slice_is_shared_by_threads() {
    let mut memory = vec![MaybeUninit::uninit(); 40_008];
    let bump = &*BumpSlice::from_memory(&mut memory).unwrap();
    let mut values: Vec<&mut u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    (0..1000)
                        .map(|n| bump.leak(thread * 1000 + n).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    values.sort();
    assert!(values.into_iter().map(|value| *value).eq(0..4000));
}

#[test]
fn one_thread_allocates_boxes_and_arrays() {
    let mut bump = unsync::Bump::<[usize; 6]>::uninit();
    let counted = Rc::new(());
    {
        let boxed = LeakBox::write(bump.bump_box().unwrap(), counted.clone());
        assert_eq!(Rc::strong_count(&boxed), 2);
        let mut array = bump.bump_array::<usize>(4).unwrap();
        array.iter_mut().enumerate().for_each(|(n, element)| {
            element.write(n);
        });
        assert_eq!(bump.bump_array::<usize>(2).unwrap_err(), Failure::Exhausted);
        assert_eq!(
            bump.bump_array::<usize>(usize::MAX).unwrap_err(),
            Failure::Exhausted
        );
        assert_eq!(bump.bump_array::<()>(usize::MAX).unwrap().len(), usize::MAX);
        assert!(bump.get::<usize>().is_some() && bump.alloc(layout(1, 1)).is_none());
        // SAFETY: all elements were written.
        let numbers = array.iter().map(|n| unsafe { n.assume_init() });
        assert_eq!(numbers.sum::<usize>(), 6);
    }
    assert_eq!(Rc::strong_count(&counted), 1, "the box dropped its value");
    bump.reset();
    assert_eq!(
        (bump.level().byte_offset(), bump.capacity()),
        (0, 6 * size_of::<usize>())
    );
}

#[test]
fn one_thread_allocates_at_levels() {
    let bump = unsync::Bump::<[u32; 4]>::zeroed();
    let start = bump.level();
    let first = bump.get_at::<u32>(start).unwrap();
    assert_eq!(first.level_start(), start);
    let observed = bump.level();
    assert_eq!(
        bump.get_at::<u32>(start).unwrap_err(),
        Failure::Mismatch { observed }
    );
    assert_eq!(
        bump.alloc_at(layout(4, 4), start),
        Err(Failure::Mismatch { observed })
    );
    assert!(bump.alloc_at(layout(4, 4), observed).is_ok());
    // SAFETY: the first allocation begins at `start`, and its pointer is not used.
    let again = unsafe { bump.get_unchecked::<u32>(start) };
    assert_eq!(again, first);
    // SAFETY: the memory was zero, and nothing else uses it.
    assert_eq!(unsafe { again.ptr.read() }, 0);
}

#[test]
#[should_panic = "zero bytes"]
fn an_unshared_bump_refuses_zero_bytes() {
    unsync::Bump::<u64>::uninit().alloc(layout(0, 1));
}

#[test]
fn memory_is_lent_to_an_allocator_and_returned() {
    let mut memory = [MaybeUninit::uninit(); 100];
    let bump = unsync::BumpSlice::from_mem(&mut memory[1..]).unwrap();
    let start = bump.level();
    // SAFETY: the allocation fits a `u32`, and nothing else uses it.
    unsafe { bump.get::<u32>().unwrap().leak(77) };
    let capacity = bump.capacity();
    let lent = unsync::BumpSlice::into_mem(bump);
    assert_eq!(lent.len(), capacity + size_of::<usize>());
    // SAFETY: `into_mem` returned the memory, and nothing has changed it.
    let bump = unsafe { unsync::BumpSlice::from_mem_unchecked(lent) };
    assert_eq!((bump.capacity(), bump.level().byte_offset()), (capacity, 4));
    // SAFETY: the value lies at the level `start`.
    assert_eq!(unsafe { bump.get_unchecked::<u32>(start).ptr.read() }, 77);

    let error = unsync::BumpSlice::from_mem(&mut []).map(drop).unwrap_err();
    assert!(error.to_string().contains("no room"));
}

#[test]
fn a_slice_on_the_stack_has_the_requested_length() {
    fn fill<T: Copy + PartialEq + std::fmt::Debug>(len: usize, value: T) {
        let alloca = Alloca::<T>::new(len).unwrap();
        let count = alloca.run(|slice| {
            assert!(slice.as_ptr().is_aligned());
            for slot in &mut *slice {
                slot.write(value);
            }
            // SAFETY: all elements were written.
            slice
                .iter()
                .filter(|slot| unsafe { slot.assume_init() } == value)
                .count()
        });
        assert_eq!(count, len);
    }
    for len in [
        0, 1, 2, 7, 63, 64, 65, 100, 4095, 4096, 4097, 65_535, 65_536,
    ] {
        fill(len, 7_u8);
    }
    for len in [0, 1, 100, 1000, 4096] {
        fill(len, 7_u128);
    }
    for len in [0, 1, 1000] {
        fill(len, ());
    }
    // A loop over all of these elements would end only if the compiler removed it.
    let all = Alloca::<()>::new(usize::MAX).unwrap();
    assert_eq!(all.run(|slice| slice.len()), usize::MAX);
    assert!(Alloca::<u8>::new(65_537).is_none());
    assert!(Alloca::<u128>::new(usize::MAX).is_none());
}

#[cfg(feature = "local-alloc")]
mod local {
    use super::*;
    use alloc_traits::{LocalAlloc, NonZeroLayout};

    fn non_zero(size: usize, align: usize) -> NonZeroLayout {
        NonZeroLayout::from_layout(layout(size, align).into()).unwrap()
    }

    #[test]
    fn blocks_grow_in_place_or_move_and_keep_their_contents() {
        let bump = Bump::<[u128; 8]>::uninit();
        // SAFETY: blocks are live.
        unsafe {
            let block = LocalAlloc::alloc(&bump, non_zero(8, 8)).unwrap();
            block.ptr.write_bytes(7, 8);
            let grown = bump.realloc(block, non_zero(24, 16)).unwrap();
            assert_eq!(grown.ptr, block.ptr, "the last block grows in place");
            let shrunk = bump.realloc(grown, non_zero(10, 1)).unwrap();
            assert_eq!(shrunk.ptr, block.ptr);
            let wall = bump.alloc_zeroed(non_zero(1, 1)).unwrap();
            assert_eq!(wall.ptr.read(), 0);
            let moved = bump.realloc(shrunk, non_zero(20, 4)).unwrap();
            assert!(moved.ptr > wall.ptr);
            assert_eq!(std::slice::from_raw_parts(moved.ptr.as_ptr(), 8), [7; 8]);
            bump.dealloc(moved);
            assert!(LocalAlloc::alloc(&bump, non_zero(128, 1)).is_none());
        }
    }
}
