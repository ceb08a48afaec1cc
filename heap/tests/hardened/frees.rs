//! Frees and resizes with pointers and layouts that are not those of an allocation.

use std::alloc::Layout;
use std::ptr::{NonNull, null_mut, without_provenance_mut};

use heap::talc::base::CHUNK_UNIT;
use heap::talc::hardened::Misuse;

use super::{Scene, assert_reported, at, chunk_size, layout, reports};
use crate::common::sizes::FIRST;

#[test]
fn a_double_free_is_reported_with_the_free_range() {
    for (size, neighbour_is_free) in [(1, false), (100, false), (100, true)] {
        let mut scene = Scene::new();
        let block = scene.allocate_at_top(layout(size));
        let above = scene.allocate(layout(40));
        let mut free = chunk_size(size);
        if neighbour_is_free {
            scene.free(above, layout(40));
            free += chunk_size(40);
        }
        scene.free(block, layout(size));
        assert_eq!(reports(), []);
        scene.free(block, layout(size));
        let misuse = Misuse::DoubleFree {
            from: block.addr(),
            to: block.addr() + free,
        };
        assert_reported(block, misuse);
        scene.assert_sound();
        // SAFETY: this misuse is what the test is about; the detector refuses it.
        assert!(!unsafe { scene.talc.try_grow_in_place(block, layout(size), size + 1) });
        assert_reported(block, misuse);
        scene.assert_sound();
    }
}

#[test]
fn a_double_free_inside_a_coalesced_gap_is_reported() {
    let mut scene = Scene::new();
    let blocks = [40, 50, 60].map(|size| (scene.allocate_at_top(layout(size)), layout(size)));
    let top = scene.allocate_at_top(layout(1));
    for (block, layout) in blocks {
        scene.free(block, layout);
    }
    scene.free(blocks[1].0, blocks[1].1);
    let (from, to) = (blocks[0].0.addr(), top.addr());
    assert_reported(blocks[1].0, Misuse::DoubleFree { from, to });
    scene.assert_sound();
}

#[test]
fn a_wrong_layout_is_reported_with_the_right_one() {
    let right = Layout::from_size_align(100, 32).unwrap();
    for (size, align) in [
        (99, 32),
        (101, 32),
        (1, 32),
        (5000, 32),
        (isize::MAX as usize / 2, 32),
        (100, 16),
        (100, 1),
        (100, 64),
    ] {
        let mut scene = Scene::new();
        let block = scene.allocate(right);
        let wrong = Layout::from_size_align(size, align).unwrap();
        let misuse = Misuse::WrongLayout {
            expected: right,
            found: wrong,
        };
        scene.free(block, wrong);
        assert_reported(block, misuse);
        scene.assert_sound();
        // SAFETY: this misuse is what the test is about; the detector refuses it.
        unsafe {
            assert!(!scene.talc.try_grow_in_place(block, wrong, wrong.size() + 1));
            assert_reported(block, misuse);
            scene.talc.shrink(block, wrong, 1);
            assert_reported(block, misuse);
        }
        scene.assert_sound();
        scene.free(block, right);
        scene.assert_sound();
    }
}

#[test]
fn freeing_with_the_layout_before_resizing_is_reported() {
    let mut scene = Scene::new();
    let block = scene.allocate_at_top(layout(100));
    // SAFETY: the block is live.
    unsafe {
        for (from, to) in [(100, 101), (101, 1000), (1000, 999), (999, 30)] {
            assert!(scene.talc.try_realloc_in_place(block, layout(from), to));
            scene.free(block, layout(from));
            let misuse = Misuse::WrongLayout {
                expected: layout(to),
                found: layout(from),
            };
            assert_reported(block, misuse);
            scene.talc.check().unwrap();
        }
    }
    scene.free(block, layout(30));
    scene.assert_sound();
}

#[test]
fn an_interior_pointer_is_reported_with_its_block() {
    let mut scene = Scene::new();
    let block = scene.allocate(layout(1000));
    for offset in [1, 8, CHUNK_UNIT, 512, 999, 1000, chunk_size(1000) - 1] {
        for size in [1, 8, 488, 1000] {
            scene.free(at(block, offset), layout(size));
            let misuse = Misuse::InteriorPointer {
                block: block.addr(),
            };
            assert_reported(at(block, offset), misuse);
        }
    }
    scene.assert_sound();
    scene.free(block, layout(1000));
    scene.assert_sound();
}

#[test]
fn a_pointer_into_no_heap_is_reported() {
    let mut scene = Scene::new();
    let mut other = Scene::new();
    let foreign = other.allocate(layout(100));
    let heads = at(scene.memory.base(), FIRST);
    let mut on_stack = 0_u64;
    for pointer in [
        foreign,
        heads,
        scene.memory.base(),
        scene.memory.end(),
        (&raw mut on_stack).cast(),
        null_mut(),
        // No memory is mapped there.
        without_provenance_mut(CHUNK_UNIT),
        without_provenance_mut(usize::MAX),
        without_provenance_mut(usize::MAX - 15),
    ] {
        for size in [1, 100, 1 << 30] {
            scene.free(pointer, layout(size));
            assert_reported(pointer, Misuse::ForeignPointer);
        }
    }
    scene.assert_sound();
    other.free(foreign, layout(100));
    other.assert_sound();
}

#[test]
fn extending_at_a_wrong_heap_end_is_reported() {
    let mut scene = Scene::new();
    let block = NonNull::new(scene.allocate(layout(100))).unwrap();
    // SAFETY: this misuse is what the test is about; the detector refuses it.
    unsafe {
        assert_eq!(scene.talc.truncate(block, null_mut()), Some(block));
        assert_reported(block.as_ptr(), Misuse::ForeignPointer);
        assert_eq!(scene.talc.extend(block, at(block.as_ptr(), 64)), block);
        assert_reported(block.as_ptr(), Misuse::ForeignPointer);
    }
    scene.assert_sound();
}
