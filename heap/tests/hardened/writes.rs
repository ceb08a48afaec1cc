//! Writes outside allocations, and the damage that they do.

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT};
use heap::talc::hardened::{Misuse, Report};

use super::{
    FILLING, POISON, Scene, WORD, assert_reported, at, chunk_size, damage, layout, read, reports,
};
use crate::common::sizes::FIRST;

#[test]
fn a_write_beyond_the_end_is_reported() {
    // The fill bytes, the canary, and the other words of the redzone.
    let size = 90;
    let redzone = chunk_size(size) - CHUNK_OVERHEAD;
    for offset in [size, size + 1, redzone - 1] {
        let mut scene = Scene::new();
        let block = scene.allocate(layout(size));
        // SAFETY: only this test uses the memory.
        unsafe { at(block, offset).write(0) };
        let misuse = Misuse::WriteBeyondEnd {
            block: Some(block.addr()),
            expected: FILLING,
            found: 0,
        };
        scene.assert_finds(at(block, offset), misuse);
        scene.free(block, layout(size));
        assert_reported(at(block, offset), misuse);
        // SAFETY: the detector refuses to free the block.
        assert!(!unsafe { scene.talc.try_grow_in_place(block, layout(size), 91) });
        assert_reported(at(block, offset), misuse);
        scene.assert_finds(at(block, offset), misuse);
        // With the original byte, the block is an allocation again.
        // SAFETY: only this test uses the memory.
        unsafe { at(block, offset).write(FILLING as u8) };
        scene.free(block, layout(size));
        scene.assert_sound();
    }
    for word in 0..4 {
        let mut scene = Scene::new();
        let block = scene.allocate(layout(size));
        let place = at(block, redzone + word * WORD);
        let was = damage(place, 0x41);
        scene.free(block, layout(size));
        let misuse = Misuse::WriteBeyondEnd {
            block: Some(block.addr()),
            expected: was,
            found: 0x41,
        };
        assert_reported(place, misuse);
        assert!(scene.talc.check().is_err());
        scene.assert_usable();
        damage(place, was);
        scene.free(block, layout(size));
        scene.assert_sound();
    }
}

#[test]
fn a_long_overflow_is_reported() {
    let mut scene = Scene::new();
    let block = scene.allocate(layout(96));
    scene.allocate_at_top(layout(300));
    // The string overwrites the redzone, the tag, and the memory above.
    let redzone = at(block, chunk_size(96) - CHUNK_OVERHEAD);
    let canary = read(redzone);
    // SAFETY: only this test uses the memory.
    unsafe { at(block, 96).write_bytes(b'A', 80) };
    scene.free(block, layout(96));
    let misuse = Misuse::WriteBeyondEnd {
        block: Some(block.addr()),
        expected: canary,
        found: usize::from_ne_bytes([b'A'; WORD]),
    };
    assert_reported(redzone, misuse);
    scene.assert_usable();
}

#[test]
fn a_write_after_free_is_reported() {
    let misuse = |found| Misuse::WriteAfterFree {
        expected: POISON,
        found,
    };
    // `check` finds the write, and so does allocating the memory again.
    let mut scene = Scene::new();
    let block = scene.allocate(layout(200));
    scene.free(block, layout(200));
    let place = at(block, 104);
    damage(place, 7);
    scene.assert_finds(place, misuse(7));
    assert_eq!(scene.allocate_at_top(layout(200)), block);
    assert_reported(place, misuse(7));
    scene.assert_sound();

    // Freeing the neighbour above or below finds the write.
    for above in [false, true] {
        let mut scene = Scene::new();
        let blocks = [
            scene.allocate_at_top(layout(200)),
            scene.allocate(layout(200)),
        ];
        let (freed, neighbour) = (blocks[usize::from(above)], blocks[usize::from(!above)]);
        scene.free(freed, layout(200));
        damage(at(freed, 96), 8);
        scene.free(neighbour, layout(200));
        assert_reported(at(freed, 96), misuse(8));
        scene.assert_sound();
    }

    // Growing a neighbour finds the write.
    let mut scene = Scene::new();
    let block = scene.allocate_at_top(layout(200));
    let above = scene.allocate(layout(2000));
    scene.free(above, layout(2000));
    damage(at(above, 1504), 9);
    // SAFETY: the block is live.
    assert!(unsafe { scene.talc.try_grow_in_place(block, layout(200), 2000) });
    assert_reported(at(above, 1504), misuse(9));
    scene.free(block, layout(2000));
    scene.assert_sound();
}

#[test]
fn a_write_to_a_gap_header_is_reported() {
    for (offset, found) in [
        (0, 0x41),
        (0, 16 * CHUNK_UNIT),
        (WORD, 0x4141_4141),
        (2 * WORD, 0x4141_4141),
        (2 * WORD, 0),
    ] {
        // Two gaps in one list: the upper one is first.
        let mut scene = Scene::new();
        let lower = scene.allocate(layout(200));
        let upper = scene.allocate(layout(200));
        scene.free(lower, layout(200));
        scene.free(upper, layout(200));
        let was = damage(at(upper, offset), found);
        let misuse = Misuse::DamagedGap {
            expected: Some(was),
            found,
        };
        // The damaged gap is not allocated, but another one is.
        let block = scene.allocate_at_top(layout(200));
        assert_ne!(block, upper);
        assert_reported(at(upper, offset), misuse);
        scene.free(block, layout(200));
        assert_eq!(reports(), [], "what does not touch it is freed");
        assert!(scene.talc.check().is_err());
        scene.assert_usable();
        damage(at(upper, offset), was);
        scene.assert_sound();
    }
}

#[test]
fn freeing_beside_a_damaged_gap_changes_nothing() {
    for offset in [0, WORD, 2 * WORD, chunk_size(200) - WORD] {
        for above in [false, true] {
            let mut scene = Scene::new();
            let other = scene.allocate(layout(200));
            let blocks = [
                scene.allocate_at_top(layout(200)),
                scene.allocate(layout(200)),
            ];
            let (freed, neighbour) = (blocks[usize::from(above)], blocks[usize::from(!above)]);
            scene.free(freed, layout(200));
            scene.free(other, layout(200));
            let place = at(freed, offset);
            let was = damage(place, 0x4142);
            scene.free(neighbour, layout(200));
            let reported = reports();
            let [Report { address, misuse }] = reported[..] else {
                panic!("{reported:?}")
            };
            let Misuse::DamagedGap { expected, found } = misuse else {
                panic!("{misuse:?}")
            };
            // Seen from above, only the last word of a gap describes it.
            let known = offset != chunk_size(200) - WORD || above;
            assert_eq!(
                (address, expected, found),
                (place.addr(), known.then_some(was), 0x4142)
            );
            scene.assert_usable();
            damage(place, was);
            scene.assert_sound();
            scene.free(neighbour, layout(200));
            scene.assert_sound();
        }
    }
}

/// Damages a tag, which is reported when a block of 200 bytes beside it is freed. Returns the old
/// word.
#[track_caller]
fn free_beside_damage(scene: &mut Scene, block: *mut u8, tag: *mut u8, found: usize) -> usize {
    let expected = damage(tag, found);
    scene.free(block, layout(200));
    assert_reported(tag, Misuse::DamagedTag { expected, found });
    expected
}

#[test]
fn a_damaged_tag_is_reported() {
    let tag_of = |block, size| at(block, chunk_size(size) - WORD);
    for found in [0, 1, 5, 0x4141_4141, usize::MAX] {
        let mut scene = Scene::new();
        let lower = scene.allocate_at_top(layout(100));
        let block = scene.allocate(layout(200));
        // The tag of the freed block …
        let was = free_beside_damage(&mut scene, block, tag_of(block, 200), found);
        assert!(scene.talc.check().is_err());
        scene.assert_usable();
        damage(tag_of(block, 200), was);
        // … and the tag of the allocation below.
        let was = free_beside_damage(&mut scene, block, tag_of(lower, 100), found);
        damage(tag_of(lower, 100), was);
        scene.free(block, layout(200));
        scene.free(lower, layout(100));
        scene.assert_sound();
    }
}

#[test]
fn a_tag_copied_from_elsewhere_is_reported() {
    let mut scene = Scene::new();
    let blocks = [(); 2].map(|()| scene.allocate(layout(100)));
    let [from, to] = blocks.map(|block| at(block, chunk_size(100) - WORD));
    let was = damage(to, read(from));
    scene.free(blocks[1], layout(100));
    let misuse = Misuse::DamagedTag {
        expected: was,
        found: read(from),
    };
    assert_reported(to, misuse);
}

#[test]
fn check_finds_damage_in_a_heap_at_rest() {
    let mut scene = Scene::new();
    let block = scene.allocate(layout(100));
    let gap = scene.allocate(layout(300));
    scene.free(gap, layout(300));
    scene.assert_sound();
    let redzone = at(block, chunk_size(100) - CHUNK_OVERHEAD);
    let base_tag = at(scene.memory.base(), FIRST - WORD);
    for (place, found) in [
        (at(block, chunk_size(100) - WORD), 3),
        (at(gap, 40), 1),
        (redzone, 0),
        (base_tag, 0),
    ] {
        let was = damage(place, found);
        let address = place.addr();
        let Err(corruption) = scene.talc.check() else {
            panic!("nothing found at {place:p}")
        };
        assert_eq!(corruption.address, address);
        damage(place, was);
        scene.assert_sound();
    }
}

#[test]
fn a_sliver_extent_that_leads_to_another_is_reported() {
    let mut scene = Scene::new();
    let blocks = [(); 3].map(|()| scene.allocate_at_top(layout(200)));
    // One unit is left below each of the upper two blocks.
    for block in &blocks[..2] {
        let size = 200 - CHUNK_UNIT;
        // SAFETY: the block is live.
        unsafe { scene.talc.shrink(*block, layout(200), size) };
    }
    let place = at(blocks[2], 0).wrapping_sub(WORD);
    let was = damage(place, blocks[2].addr() - blocks[1].addr() + CHUNK_UNIT);
    assert_eq!(was, CHUNK_UNIT);
    assert!(scene.talc.check().is_err());
    scene.free(blocks[2], layout(200));
    let reported = reports();
    let [Report { address, misuse }] = reported[..] else {
        panic!("{reported:?}")
    };
    assert_eq!(address, place.addr());
    assert!(matches!(misuse, Misuse::DamagedGap { .. }), "{misuse}");
    damage(place, was);
    scene.free(blocks[2], layout(200));
    scene.assert_sound();
}
