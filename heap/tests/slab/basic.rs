//! Sizes, alignments, contents, reallocation, statistics.

use std::alloc::GlobalAlloc;

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec as VecIn;
use heap::slab::{MAX_BLOCK_SIZE, MAX_HELD_BACK, OneThread, SLAB_SIZE, SlabAllocator, SlabRule};
use heap::source::GlobalAllocSource;
use heap::talc::TalcCell;

use crate::support::{Block, assert_all_is_back, layout, slabs};

#[test]
fn blocks_of_every_size_and_alignment_are_apart() {
    let heap = slabs(4 << 20);
    let mut blocks = Vec::new();
    for align in [1, 8, 16, 32, 64, 128, 256, 512, 4096] {
        for size in (1..600).step_by(7).chain([1000, 4096, 10_000]) {
            blocks.extend(Block::new(&heap, layout(size, align)));
        }
    }
    assert_eq!(blocks.len(), 9 * 89);
    blocks.iter().for_each(Block::verify);
    blocks.into_iter().for_each(|block| block.free(&heap));
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn slabs_tile_talc_page_by_page() {
    let heap = slabs(1 << 20);
    let blocks: Vec<_> = (0..8 * 63)
        .map(|_| Block::new(&heap, layout(64, 1)).expect("there is room"))
        .collect();
    let mut pages: Vec<_> = blocks
        .iter()
        .map(|block| block.ptr.addr() / SLAB_SIZE)
        .collect();
    pages.dedup();
    assert_eq!(pages.len(), 8);
    assert!(
        pages.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{pages:?}"
    );
    blocks.into_iter().for_each(|block| block.free(&heap));
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_freed_block_is_the_next_of_its_size() {
    let heap = slabs(1 << 20);
    let first = Block::new(&heap, layout(40, 8)).expect("there is room");
    let ptr = first.ptr;
    first.free(&heap);
    let second = Block::new(&heap, layout(48, 16)).expect("there is room");
    assert_eq!(second.ptr, ptr, "48 is the block size of both");
    second.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(
    any(feature = "hardened", feature = "disable-realloc-in-place"),
    ignore = "blocks move"
)]
fn resizing_within_a_block_size_stays_in_place() {
    let heap = slabs(1 << 20);
    let mut block = Block::new(&heap, layout(400, 8)).expect("there is room");
    let ptr = block.ptr;
    assert!(block.resize(&heap, 340));
    assert_eq!(block.ptr, ptr);
    assert!(block.resize(&heap, 336));
    assert_ne!(block.ptr, ptr, "336 has smaller blocks");
    block.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
fn resizing_between_slabs_and_talc_keeps_the_contents() {
    let heap = slabs(1 << 20);
    let mut block = Block::new(&heap, layout(10, 4)).expect("there is room");
    for size in [30, 496, 497, 5000, 20_000, 600, 496, 100, 1] {
        assert!(block.resize(&heap, size), "{size}");
    }
    block.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
fn zeroed_blocks_are_zero_wherever_they_come_from() {
    let heap = slabs(1 << 20);
    for size in [1, 16, 100, 496, 497, 9000] {
        for _ in 0..3 {
            // SAFETY: the size is not zero.
            let block = unsafe { heap.alloc_zeroed(layout(size, 8)) };
            assert!(!block.is_null());
            // SAFETY: the block has this size and is initialised.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
            assert!(bytes.iter().all(|&byte| byte == 0), "{size}");
            bytes.fill(0xaa);
            // SAFETY: the block is in use with this layout.
            unsafe { heap.dealloc(block, layout(size, 8)) };
        }
    }
    assert_all_is_back(&heap);
}

#[test]
fn collections_live_in_slabs_through_a_reference() {
    let heap = slabs(1 << 20);
    let mut vectors = VecIn::new_in(&heap);
    for n in 0..100_usize {
        let mut vector = VecIn::new_in(&heap);
        vector.extend(0..n);
        vectors.push(vector);
    }
    for (n, vector) in vectors.iter().enumerate() {
        assert!(vector.iter().copied().eq(0..n));
    }
    drop(vectors);
    assert_all_is_back(&heap);
}

#[test]
fn an_alignment_that_changes_moves_the_block() {
    let heap = slabs(1 << 20);
    let old = layout(24, 8);
    let new = layout(40, 64);
    let block = heap.allocate(old).expect("there is room").cast::<u8>();
    // SAFETY: the block has this size.
    unsafe { block.write_bytes(7, 24) };
    // SAFETY: the block is in use with this layout.
    let block = unsafe { heap.grow(block, old, new) }.expect("there is room");
    let block = block.cast::<u8>();
    assert_eq!(block.addr().get() % 64, 0);
    // SAFETY: the block has this size and is initialised so far.
    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), 24) };
    assert_eq!(bytes, [7; 24]);
    // SAFETY: the block is in use with this layout.
    unsafe { heap.deallocate(block, new) };
    assert_all_is_back(&heap);
}

#[test]
fn zero_sized_requests_take_no_memory() {
    let heap = slabs(1 << 20);
    let block = heap
        .allocate(layout(0, 64))
        .expect("always succeeds")
        .cast::<u8>();
    // SAFETY: the block is in use with this layout.
    let grown = unsafe { heap.grow(block, layout(0, 64), layout(10, 64)) }.expect("room");
    // SAFETY: the block is in use with this layout.
    let shrunk = unsafe { heap.shrink(grown.cast(), layout(10, 64), layout(0, 64)) };
    // SAFETY: the block is in use with this layout.
    unsafe { heap.deallocate(shrunk.expect("always succeeds").cast(), layout(0, 64)) };
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn statistics_count_slabs_and_blocks() {
    let heap = slabs(1 << 20);
    let blocks: Vec<_> = (0..100)
        .map(|_| Block::new(&heap, layout(64, 8)).expect("there is room"))
        .collect();
    let large = Block::new(&heap, layout(MAX_BLOCK_SIZE, 8)).expect("there is room");
    let stats = heap.stats();
    let of = |size| {
        *stats
            .classes()
            .iter()
            .find(|it| it.block_size == size)
            .expect("a class")
    };
    assert_eq!((of(64).slabs, of(64).used, of(64).blocks), (2, 100, 126));
    assert_eq!((of(496).slabs, of(496).used, of(496).blocks), (1, 1, 8));
    assert_eq!(stats.slabs(), 3);
    assert_eq!(stats.used_bytes(), 100 * 64 + 496);
    assert_eq!(stats.held_back(), 0);
    assert!(
        stats
            .to_string()
            .contains("\n        64      2      100      126"),
        "{stats}"
    );
    large.free(&heap);
    blocks.into_iter().for_each(|block| block.free(&heap));
    assert_eq!(heap.stats().used_bytes(), 0);
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn free_slabs_are_held_back_up_to_the_stated_bound() {
    let heap = slabs(4 << 20);
    let mut most = 0;
    for round in 0..3 {
        // Some blocks of all sizes, more than one slab of each.
        let blocks: Vec<_> = (1..=MAX_BLOCK_SIZE)
            .chain(1..=MAX_BLOCK_SIZE)
            .map(|size| Block::new(&heap, layout(size, 1)).expect("there is room"))
            .collect();
        for block in blocks {
            block.free(&heap);
            most = most.max(heap.stats().held_back());
        }
        let stats = heap.stats();
        assert_eq!(stats.used_bytes(), 0, "round {round}");
        assert_eq!(stats.bytes(), stats.held_back(), "round {round}: {stats}");
    }
    assert!(most <= MAX_HELD_BACK, "{most}");
    assert!(most > 0, "nothing is held back for the next allocation");
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn the_lowest_free_slabs_are_kept() {
    let heap = slabs(1 << 20);
    let sizes = [496, 16, 256, 64, 128, 32];
    let blocks = sizes.map(|size| Block::new(&heap, layout(size, 1)).expect("there is room"));
    let mut pages = blocks.each_ref().map(|block| block.ptr.addr() / SLAB_SIZE);
    let mut blocks = blocks.map(Some);
    for index in [3, 0, 5, 1, 4, 2] {
        blocks[index].take().expect("it was not freed").free(&heap);
    }
    let mut kept = Vec::new();
    heap.visit(|slab| kept.push(slab.base / SLAB_SIZE));
    kept.sort_unstable();
    pages.sort_unstable();
    assert_eq!(kept, pages[..3]);
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_block_that_comes_and_goes_keeps_its_slab() {
    let heap = slabs(1 << 20);
    Block::new(&heap, layout(64, 1))
        .expect("there is room")
        .free(&heap);
    heap.backing().refuse_after(0);
    for _ in 0..100 {
        Block::new(&heap, layout(64, 1))
            .expect("the slab is kept")
            .free(&heap);
    }
    assert_all_is_back(&heap);
}

#[test]
fn an_allocator_that_is_moved_keeps_its_blocks() {
    let heap = slabs(1 << 20);
    let blocks: Vec<_> = (1..300)
        .map(|size| Block::new(&heap, layout(size, 1)).expect("there is room"))
        .collect();
    let heap = Box::new(heap);
    let more: Vec<_> = (1..300)
        .map(|size| Block::new(&*heap, layout(size, 1)).expect("there is room"))
        .collect();
    blocks
        .into_iter()
        .chain(more)
        .for_each(|block| block.free(&*heap));
    assert_all_is_back(&heap);
}

#[test]
fn slabs_can_be_the_source_of_another_allocator() {
    let inner = TalcCell::new(GlobalAllocSource::new(slabs(4 << 20)));
    let outer = SlabAllocator::<_, _, 1>::new(inner, OneThread::new());
    let mut numbers = VecIn::new_in(&outer);
    numbers.extend(0..10_000_u32);
    assert!(numbers.iter().copied().eq(0..10_000));
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_damaged_list_of_free_blocks_is_found() {
    let heap = slabs(1 << 20);
    let kept = Block::new(&heap, layout(496, 8)).expect("there is room");
    let freed = Block::new(&heap, layout(496, 8)).expect("there is room");
    let slab = freed.ptr.wrapping_sub(freed.ptr.addr() % SLAB_SIZE);
    let link = freed.ptr.cast::<*mut u8>();
    freed.free(&heap);
    let rule = |next: *mut u8| {
        // SAFETY: the freed block begins with the address of the next.
        let saved = unsafe { link.replace(next) };
        let corruption = heap.check().expect_err("the list is damaged");
        // SAFETY: as before.
        unsafe { link.write(saved) };
        heap.check().expect("the list is intact again");
        assert_eq!(corruption.slab, slab.addr());
        corruption.rule
    };
    // The slab has eight blocks.
    assert_eq!(rule(slab.wrapping_add(8 * 496)), SlabRule::FreeBlockInSlab);
    assert_eq!(rule(slab.wrapping_add(8)), SlabRule::FreeBlockInSlab);
    assert_eq!(rule(slab.wrapping_sub(496)), SlabRule::FreeBlockInSlab);
    assert_eq!(rule(std::ptr::null_mut()), SlabRule::BlocksAddUp);
    assert_eq!(rule(link.cast()), SlabRule::BlocksAddUp);
    kept.free(&heap);
    assert_all_is_back(&heap);
}
