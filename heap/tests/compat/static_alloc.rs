// Included by `compat.rs`, where `static_alloc` is either crate.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::mem::MaybeUninit;

use static_alloc::Bump;
use static_alloc::bump::{Allocation, BumpSlice, Failure, LeakError, Level};
use static_alloc::leaked::{Alloca, LeakBox};
use static_alloc::unsync;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn a_static_gives_static_references() {
    static BUMP: Bump<[u64; 8]> = Bump::uninit();
    let first: &'static mut u64 = BUMP.leak(1).unwrap();
    *first += 1;
    assert_eq!(*first, 2);
    let error: LeakError<[u64; 8]> = BUMP.leak([0; 8]).unwrap_err();
    assert_eq!(
        (error.kind(), error.into_inner()),
        (Failure::Exhausted, [0; 8])
    );
}

#[test]
fn allocations_at_levels_are_adjacent() {
    let bump: Bump<[u32; 5]> = Bump::uninit();
    let start: Level = bump.level();
    let mut level = start;
    for n in 0..4_u32 {
        level = bump.leak_at(n, level).unwrap().1;
    }
    let all: Allocation<'_, [u32; 4]> = unsafe { bump.get_unchecked(start) };
    assert_eq!(unsafe { all.ptr.read() }, [0, 1, 2, 3]);
    assert_eq!(level.byte_offset(), 16);
    let refused = bump.leak_box_at(5_u32, start);
    assert!(matches!(refused, Err(Failure::Mismatch { observed }) if observed == level));
    assert!(bump.get_layout_at(layout(4, 4), level).is_ok());
    assert_eq!(
        bump.get_at::<u32>(bump.level()).unwrap_err(),
        Failure::Exhausted
    );
}

#[test]
fn allocations_are_filled() {
    let bump: Bump<[usize; 6]> = Bump::new([0; 6]);
    assert_eq!(bump.capacity(), size_of::<[usize; 6]>());
    let allocation = bump.get::<usize>().unwrap();
    assert_eq!(allocation.ptr.cast(), bump.data_ptr());
    unsafe { assert_eq!(*allocation.leak(5), 5) };
    let slice = bump.get_slice::<usize>(2).unwrap();
    assert_eq!(
        (slice.ptr.len(), slice.level_start().byte_offset()),
        (2, size_of::<usize>())
    );
    let cell = RefCell::new(1);
    drop(unsafe { bump.get().unwrap().boxed(cell.borrow_mut()) });
    assert!(cell.try_borrow().is_ok(), "the box drops its value");
    assert!(bump.get_layout(layout(1 << 20, 1)).is_none());
    assert!(bump.get::<usize>().is_some() && bump.alloc(layout(1, 1)).is_none());
    assert_eq!(
        bump.get_slice::<()>(usize::MAX).unwrap().ptr.len(),
        usize::MAX
    );
}

#[test]
fn boxes_own_values() {
    let bump: Bump<[usize; 128]> = Bump::zeroed();
    let cell = RefCell::new(0);
    let mut boxed = bump.leak_box(cell.borrow_mut()).unwrap();
    **boxed = 1;
    let guard = LeakBox::take(boxed);
    assert!(cell.try_borrow().is_err());
    drop(guard);
    let memory = bump.leak_box(MaybeUninit::uninit()).unwrap();
    let text: LeakBox<'_, String> = LeakBox::write(memory, String::from("Hello"));
    assert_eq!(
        (text.as_ref().as_str(), format!("{text} {text:?}").as_str()),
        ("Hello", "Hello \"Hello\"")
    );
    let raw = LeakBox::into_raw(text);
    drop(unsafe { LeakBox::from_raw(raw) });
    assert_eq!(*LeakBox::leak(bump.leak_box(7).unwrap()), 7);
    let mut number = 5;
    assert_eq!(*LeakBox::from_mut(&mut number), 5);
    assert_eq!(
        size_of::<LeakBox<'static, u8>>(),
        size_of::<Option<LeakBox<'static, u8>>>()
    );

    static POOL: Bump<[usize; 4]> = Bump::uninit();
    let pinned = LeakBox::into_pin(POOL.leak_box(5).unwrap());
    assert_eq!(*pinned, 5);
}

#[test]
fn a_global_allocator_grows_and_copies() {
    let bump: Bump<[u64; 32]> = Bump::uninit();
    unsafe {
        let block = GlobalAlloc::alloc(&bump, layout(8, 8));
        block.write_bytes(3, 8);
        let wall = GlobalAlloc::alloc(&bump, layout(8, 8));
        let moved = bump.realloc(block, layout(8, 8), 16);
        assert!(moved > wall);
        assert_eq!(core::slice::from_raw_parts(moved, 8), [3; 8]);
        bump.dealloc(moved, layout(16, 8));
        assert!(GlobalAlloc::alloc(&bump, layout(1000, 8)).is_null());
    }
}

#[test]
fn memory_is_reset_and_reused() {
    let mut bump: Bump<usize> = Bump::uninit();
    bump.leak(0_usize.to_be_bytes()).unwrap();
    assert!(bump.leak(0_u8).is_err());
    bump.reset();
    assert!(bump.leak(0_u8).is_ok());

    let mut memory = MaybeUninit::uninit();
    let bump = Bump::<[u32; 4]>::from_maybe_uninit(&mut memory);
    assert_eq!(*bump.leak_box(5_u8).unwrap(), 5);
    let mut memory = [MaybeUninit::<u8>::uninit(); 256];
    let bump = Bump::<[u8; 200]>::from_memory(&mut memory).unwrap();
    assert_eq!(bump.get_slice::<u16>(50).unwrap().ptr.len(), 50);
}

#[test]
fn bump_slices_have_no_storage_type() {
    let mut bump: Bump<[usize; 4]> = Bump::uninit();
    let slice: &BumpSlice = bump.as_bump_slice().unwrap();
    assert_eq!(slice.leak(5_usize).map(|n| *n), Ok(5));
    assert_eq!(slice.level().byte_offset(), size_of::<usize>());
    bump.as_mut_bump_slice().unwrap().reset();
    let mut memory = [MaybeUninit::<u8>::uninit(); 256];
    let slice = BumpSlice::from_memory(&mut memory).unwrap();
    assert!(slice.capacity() < 256 && slice.get_slice::<u32>(50).is_some());
    assert!(slice.leak_box([0_u8; 60]).is_none());

    #[repr(align(32))]
    struct HighlyAligned;
    assert!(Bump::<HighlyAligned>::uninit().as_bump_slice().is_none());
}

#[test]
fn one_thread_needs_no_atomics() {
    let mut bump: unsync::Bump<[usize; 4]> = unsync::Bump::uninit();
    let level = bump.level();
    let allocation = bump.get_at::<usize>(level).unwrap();
    assert_eq!(unsafe { bump.get_unchecked::<usize>(level) }.ptr, allocation.ptr);
    let cell = RefCell::new(1);
    drop(LeakBox::write(bump.bump_box().unwrap(), cell.borrow_mut()));
    assert!(cell.try_borrow().is_ok());
    assert_eq!(bump.bump_array::<u8>(3).unwrap().len(), 3);
    assert!(bump.bump_array::<u64>(100).is_err());
    assert!(bump.alloc_at(layout(1, 1), level).is_err());
    assert_eq!(bump.capacity(), size_of::<[usize; 4]>());
    bump.reset();
    assert!(bump.alloc(layout(4 * size_of::<usize>(), 1)).is_some());

    let mut memory = [MaybeUninit::uninit(); 128];
    let bump = unsync::BumpSlice::from_mem(&mut memory).unwrap();
    assert!(bump.get::<u64>().is_some());
    let memory = unsync::BumpSlice::into_mem(bump);
    let bump = unsafe { unsync::BumpSlice::from_mem_unchecked(memory) };
    assert_eq!(bump.level().byte_offset(), 8);
}

#[test]
fn slices_lie_on_the_stack() {
    let alloca = Alloca::<u32>::new(100).unwrap();
    assert_eq!(alloca.run(|slice: &mut [MaybeUninit<u32>]| slice.len()), 100);
}
