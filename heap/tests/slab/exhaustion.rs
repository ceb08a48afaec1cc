//! What happens when the allocator behind the slabs has no more memory.

use std::alloc::GlobalAlloc;

use heap::slab::{MAX_BLOCK_SIZE, SLAB_SIZE};

use crate::support::{Block, Slabs, assert_all_is_back, layout, slabs};

/// Allocates blocks until that fails.
fn exhaust(heap: &Slabs, size: usize) -> Vec<Block> {
    std::iter::from_fn(|| Block::new(heap, layout(size, 1))).collect()
}

#[test]
fn each_refusal_of_a_page_leaves_the_state_as_before() {
    for refused_after in 0..40 {
        let heap = slabs(1 << 20);
        heap.backing().refuse_after(refused_after);
        let mut blocks: Vec<_> = (1..=MAX_BLOCK_SIZE)
            .filter_map(|size| Block::new(&heap, layout(size, 1)))
            .collect();
        heap.check().expect("the slabs are intact");
        let grown = blocks.iter_mut().map(|block| block.resize(&heap, 700));
        let grown = grown.filter(|&it| it).count();
        assert!(grown <= refused_after, "{grown} of {refused_after}");
        blocks.into_iter().for_each(|block| block.free(&heap));
        heap.backing().refuse_after(usize::MAX);
        assert_all_is_back(&heap);
    }
}

#[test]
fn a_large_request_gets_the_memory_of_free_slabs() {
    let heap = slabs(64 << 10);
    let small = [16, 64, 128].map(|size| Block::new(&heap, layout(size, 1)));
    small
        .into_iter()
        .flatten()
        .for_each(|block| block.free(&heap));
    let large = Block::new(&heap, layout(56 << 10, 1)).expect("slabs are reaped first");
    large.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
fn a_zeroed_and_a_resized_block_get_the_memory_of_free_slabs() {
    let fill = |heap: &Slabs| {
        // As many as are kept when they are free.
        let small = [16, 64, 128].map(|size| Block::new(heap, layout(size, 1)));
        small
            .into_iter()
            .flatten()
            .for_each(|block| block.free(heap));
    };
    let heap = slabs(64 << 10);
    fill(&heap);
    let large = layout(56 << 10, 1);
    // SAFETY: the size is not zero.
    let block = unsafe { heap.alloc_zeroed(large) };
    assert!(!block.is_null(), "slabs are reaped first");
    // SAFETY: the block is in use with this layout.
    unsafe { heap.dealloc(block, large) };
    fill(&heap);
    let mut block = Block::new(&heap, layout(1000, 1)).expect("there is room");
    assert!(block.resize(&heap, 54 << 10), "slabs are reaped first");
    block.free(&heap);
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn a_small_request_gets_the_memory_of_free_slabs() {
    let heap = slabs(64 << 10);
    // As many as are kept when they are free.
    let small: Vec<_> = [16, 64, 128]
        .iter()
        .map(|&size| Block::new(&heap, layout(size, 1)).expect("there is room"))
        .collect();
    let large: Vec<_> = exhaust(&heap, 1000);
    small.into_iter().for_each(|block| block.free(&heap));
    // No larger block could serve.
    Block::new(&heap, layout(MAX_BLOCK_SIZE, 1))
        .expect("slabs are reaped first")
        .free(&heap);
    large.into_iter().for_each(|block| block.free(&heap));
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(feature = "hardened", ignore = "slabs serve nothing")]
fn without_a_page_a_larger_block_serves() {
    let heap = slabs(64 << 10);
    let larger = Block::new(&heap, layout(128, 1)).expect("there is room");
    let large: Vec<_> = exhaust(&heap, 1000);
    let small: Vec<_> = exhaust(&heap, 20);
    assert_eq!(
        small.len(),
        SLAB_SIZE / 128 - 2,
        "the other blocks of 128 bytes"
    );
    // A block of 32 bytes may not be aligned to 32 if it comes from another class.
    assert!(Block::new(&heap, layout(20, 32)).is_none());
    small.into_iter().for_each(|block| block.free(&heap));
    larger.free(&heap);
    large.into_iter().for_each(|block| block.free(&heap));
    assert_all_is_back(&heap);
}

#[test]
fn a_full_heap_can_be_filled_again_with_another_size() {
    let heap = slabs(256 << 10);
    let mut counts = Vec::new();
    for size in [16, 496, 64, 700, 256, 16] {
        let blocks = exhaust(&heap, size);
        counts.push(blocks.len() * size);
        // Freed in the order of allocation, then in the opposite order.
        if counts.len() % 2 == 0 {
            blocks.into_iter().for_each(|block| block.free(&heap));
        } else {
            blocks.into_iter().rev().for_each(|block| block.free(&heap));
        }
    }
    if cfg!(not(feature = "hardened")) {
        assert!(counts.iter().all(|&bytes| bytes > 230 << 10), "{counts:?}");
    }
    assert_all_is_back(&heap);
}

#[test]
#[cfg_attr(
    any(feature = "hardened", feature = "disable-realloc-in-place"),
    ignore = "blocks move"
)]
fn without_memory_a_block_of_a_slab_still_shrinks() {
    let heap = slabs(64 << 10);
    let mut block = Block::new(&heap, layout(496, 32)).expect("there is room");
    let mut block_of_slab = Block::new(&heap, layout(256, 32)).expect("there is room");
    let others: Vec<_> = (1..=MAX_BLOCK_SIZE).rev().collect();
    let others: Vec<_> = others
        .iter()
        .flat_map(|&size| exhaust(&heap, size))
        .collect();
    let ptr = block_of_slab.ptr;
    assert!(block_of_slab.resize(&heap, 24));
    assert_eq!(block_of_slab.ptr, ptr);
    assert!(!block.resize(&heap, 24), "Talc's block would have to move");
    block_of_slab.free(&heap);
    block.free(&heap);
    others.into_iter().for_each(|block| block.free(&heap));
    assert_all_is_back(&heap);
}
