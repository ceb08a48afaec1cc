//! Overwritten metadata: heap records, list heads, base tags.

use std::ptr::NonNull;

use heap::talc::base::{CHUNK_UNIT, HEAP_OVERHEAD};
use heap::talc::hardened::{Misuse, Report};
use heap::talc::{Corruption, Rule};

use super::{Scene, WORD, at, damage, damage_bytes, layout, reports};
use crate::common::memory::Memory;
use crate::common::sizes::FIRST;

/// The number of words of a heap record, which lies directly below the base tag.
const RECORD_WORDS: usize = HEAP_OVERHEAD / WORD - 1;
const LISTS: usize =
    <heap::talc::DefaultBinning as heap::talc::base::binning::Binning>::BIN_COUNT as usize;

/// Several heaps, each with a block at its base, except the first, which has the list heads there.
struct Heaps {
    scene: Scene,
    memory: Vec<Memory>,
    blocks: Vec<*mut u8>,
}

impl Heaps {
    fn new(count: usize) -> Self {
        let mut scene = Scene::new();
        let (mut memory, mut blocks) = (vec![], vec![]);
        for _ in 1..count {
            // The block fills the rest of the earlier heaps.
            // SAFETY: the size is not zero.
            while unsafe { scene.talc.try_allocate(layout(1000)) }.is_some() {}
            let range = Memory::new(1 << 12);
            // SAFETY: the memory outlives the allocator.
            unsafe { scene.talc.claim(range.base(), range.size()) }.unwrap();
            let block = scene.allocate_at_top(layout(1000));
            assert_eq!(block, at(range.base(), FIRST));
            memory.push(range);
            blocks.push(block);
        }
        assert_eq!(scene.talc.check(), Ok(()));
        Self {
            scene,
            memory,
            blocks,
        }
    }

    /// Returns where the records lie: that of the first heap, then the others.
    fn records(&self) -> Vec<*mut u8> {
        let bases = std::iter::once(&self.scene.memory).chain(&self.memory);
        bases
            .map(|memory| at(memory.base(), FIRST - HEAP_OVERHEAD))
            .collect()
    }

    fn free_all(&mut self) {
        for block in std::mem::take(&mut self.blocks) {
            self.scene.free(block, layout(1000));
        }
    }
}

fn record_damage(result: Result<(), Corruption>) -> Option<(usize, Option<usize>, usize)> {
    match result {
        Err(Corruption {
            address,
            rule: Rule::Misuse(Misuse::DamagedHeapRecord { expected, found }),
        }) => Some((address, expected, found)),
        _ => None,
    }
}

#[test]
fn an_underflow_over_a_heap_record_is_reported() {
    for length in 1..=HEAP_OVERHEAD {
        let mut heaps = Heaps::new(2);
        let block = heaps.blocks[0];
        // SAFETY: the bytes are below the block, in its heap.
        unsafe { damage_bytes(block.wrapping_sub(length), length) };
        let found = heaps.scene.talc.check().unwrap_err();
        let is_record = matches!(found.rule, Rule::Misuse(Misuse::DamagedHeapRecord { .. }));
        assert_eq!(is_record, length > WORD, "{length}: {found}");
        heaps.free_all();
        let reported = reports();
        assert!(
            matches!(
                reported[..],
                [Report {
                    misuse: Misuse::DamagedTag { .. },
                    ..
                }]
            ),
            "{length}: {reported:?}"
        );
    }
}

#[test]
fn an_underflow_that_spares_the_tag_is_reported() {
    for length in WORD + 1..=HEAP_OVERHEAD {
        let mut heaps = Heaps::new(2);
        let block = heaps.blocks[0];
        // SAFETY: the bytes are below the block, in its heap.
        unsafe { damage_bytes(block.wrapping_sub(length), length - WORD) };
        assert!(
            record_damage(heaps.scene.talc.check()).is_some(),
            "{length}"
        );
        heaps.scene.free(block, layout(1000));
        let reported = reports();
        assert!(
            matches!(
                reported[..],
                [Report {
                    misuse: Misuse::DamagedHeapRecord { .. },
                    ..
                }]
            ),
            "{length}: {reported:?}"
        );
        // The record is restored, and the block can be freed.
        assert_eq!(heaps.scene.talc.check(), Ok(()));
        heaps.free_all();
        assert_eq!(reports(), []);
        assert_eq!(heaps.scene.talc.check(), Ok(()));
    }
}

#[test]
fn damage_to_each_word_of_a_heap_record_is_reported() {
    for count in [1, 2, 3, 5] {
        for (number, word) in
            (0..count).flat_map(|it| (0..RECORD_WORDS).map(move |word| (it, word)))
        {
            for found in [0, 1, CHUNK_UNIT, 0x4141_4141, usize::MAX] {
                let mut heaps = Heaps::new(count);
                let place = at(heaps.records()[number], word * WORD);
                let was = damage(place, found);
                if was == found {
                    continue;
                }
                let expected = (place.addr(), Some(was), found);
                assert_eq!(record_damage(heaps.scene.talc.check()), Some(expected));
                // All heaps are still known, and claiming another one restores the record.
                let range = Memory::new(1 << 12);
                // SAFETY: the memory lives as long as the allocator.
                unsafe { heaps.scene.talc.claim(range.base(), range.size()) }.unwrap();
                heaps.memory.push(range);
                let block = heaps.scene.allocate_at_top(layout(40));
                heaps.scene.free(block, layout(40));
                heaps.free_all();
                assert!(matches!(
                    reports()[..],
                    [Report {
                        misuse: Misuse::DamagedHeapRecord { .. },
                        ..
                    }]
                ));
                assert_eq!(heaps.scene.talc.check(), Ok(()));
            }
        }
    }
}

#[test]
fn a_damaged_record_does_not_affect_other_heaps() {
    for damaged in 0..5 {
        let mut heaps = Heaps::new(5);
        damage(heaps.records()[damaged], 0x4141_4141);
        let own = damaged
            .checked_sub(1)
            .map(|index| heaps.blocks.remove(index));
        heaps.free_all();
        assert_eq!(reports(), []);
        if let Some(block) = own {
            heaps.scene.free(block, layout(1000));
            assert_eq!(reports().len(), 1);
            heaps.scene.free(block, layout(1000));
            assert_eq!(heaps.scene.talc.check(), Ok(()));
        }
    }
}

#[test]
fn heaps_between_two_damaged_records_are_not_used() {
    let mut heaps = Heaps::new(6);
    for number in [1, 4] {
        damage(heaps.records()[number], 0x4141_4141);
    }
    assert!(record_damage(heaps.scene.talc.check()).is_some());
    // The heaps of these blocks are unknown now.
    for index in [1, 2] {
        heaps.scene.free(heaps.blocks[index], layout(1000));
        let reported = reports();
        let [Report { misuse, .. }] = reported[..] else {
            panic!("{reported:?}")
        };
        let expected = if index == 1 {
            matches!(misuse, Misuse::DamagedHeapRecord { expected: None, .. })
        } else {
            misuse == Misuse::ForeignPointer
        };
        assert!(expected, "{misuse:?}");
    }
    for index in [0, 3, 4] {
        heaps.scene.free(heaps.blocks[index], layout(1000));
        assert_eq!(reports(), []);
    }
}

/// Returns a heap with gaps in several lists, and the address and list of two of them.
fn scene_with_gaps() -> (Scene, [(*mut u8, usize); 2]) {
    let mut scene = Scene::new();
    let blocks = [200, 200, 700].map(|size| (scene.allocate(layout(size)), size));
    for (block, size) in blocks {
        scene.free(block, layout(size));
    }
    (scene, [blocks[1], blocks[2]])
}

#[test]
fn damage_to_each_list_head_is_reported() {
    for bin in 0..LISTS {
        for found in [0, 1, CHUNK_UNIT, 0x4141_4141, usize::MAX] {
            let (scene, _) = scene_with_gaps();
            let place = at(scene.memory.base(), FIRST + bin * WORD);
            let was = damage(place, found);
            if was == found {
                continue;
            }
            let misuse = Misuse::DamagedListHead {
                bin: bin as u32,
                expected: Some(was),
                found,
            };
            let address = place.addr();
            let rule = Rule::Misuse(misuse);
            assert_eq!(scene.talc.check(), Err(Corruption { address, rule }));
        }
    }
}

#[test]
fn a_list_head_that_leads_to_another_list_is_reported() {
    let (mut scene, gaps) = scene_with_gaps();
    let heads = at(scene.memory.base(), FIRST);
    let list_of = |gap: *mut u8| {
        (0..LISTS)
            .map(|bin| at(heads, bin * WORD))
            .find(|&head| super::read(head) == gap.addr())
            .unwrap()
    };
    let place = list_of(gaps[0].0);
    damage(place, gaps[1].0.addr());
    let found = scene.talc.check().unwrap_err();
    assert_eq!(found.address, place.addr(), "{found}");
    // An allocation that would use this list finds the damage too, and takes another gap.
    scene.allocate_at_top(layout(200));
    let reported = reports();
    assert!(
        matches!(
            reported[..],
            [Report {
                misuse: Misuse::DamagedListHead { .. },
                ..
            }]
        ),
        "{reported:?}"
    );
    scene.assert_sound();
}

#[test]
fn a_freed_block_is_not_lost_when_its_list_head_is_damaged() {
    for found in [0, 0x4141_4141, CHUNK_UNIT] {
        let (mut scene, gaps) = scene_with_gaps();
        let heads = at(scene.memory.base(), FIRST);
        let block = scene.allocate_at_top(layout(200));
        let other = scene.allocate_at_top(layout(200));
        assert!(block == gaps[0].0 || other == gaps[0].0);
        scene.free(other, layout(200));
        let place = (0..LISTS)
            .map(|bin| at(heads, bin * WORD))
            .find(|&head| super::read(head) == other.addr())
            .unwrap();
        damage(place, found);
        scene.free(block, layout(200));
        let [Report { address, misuse }] = reports()[..] else {
            panic!("it is reported once")
        };
        assert_eq!(address, place.addr());
        assert!(matches!(misuse, Misuse::DamagedListHead { .. }), "{misuse}");
        scene.assert_sound();
        // Both gaps are in their lists again.
        let again = [(); 2].map(|()| scene.allocate_at_top(layout(200)));
        assert!(again.contains(&block) && again.contains(&other));
    }
}

#[test]
fn freeing_beside_a_gap_with_a_damaged_head_is_reported() {
    let mut scene = Scene::new();
    let lower = scene.allocate_at_top(layout(200));
    let upper = scene.allocate(layout(300));
    scene.free(lower, layout(200));
    let heads = at(scene.memory.base(), FIRST);
    let place = (0..LISTS)
        .map(|bin| at(heads, bin * WORD))
        .find(|&head| super::read(head) == lower.addr())
        .unwrap();
    damage(place, 0x4141_4141);
    scene.free(upper, layout(300));
    let misuse = Misuse::DamagedListHead {
        bin: ((place.addr() - heads.addr()) / WORD) as u32,
        expected: Some(lower.addr()),
        found: 0x4141_4141,
    };
    super::assert_reported(place, misuse);
    scene.free(upper, layout(300));
    scene.assert_sound();
}

#[test]
fn a_damaged_owner_flag_is_reported() {
    let scene = Scene::new();
    let flag = at(scene.memory.base(), FIRST + LISTS * WORD);
    // SAFETY: the flag lies above the list heads, and only `check` reads it.
    unsafe { flag.write(7) };
    let misuse = Misuse::DamagedOwnerFlag { found: 7 };
    let (address, rule) = (flag.addr(), Rule::Misuse(misuse));
    assert_eq!(scene.talc.check(), Err(Corruption { address, rule }));
}

#[test]
fn a_heap_with_a_damaged_top_keeps_its_end() {
    for word in 0..4 {
        let memory = Memory::new(1 << 16);
        let mut talc = heap::talc::base::Talc::<_, heap::talc::DefaultBinning>::new(
            heap::talc::source::Manual,
        );
        talc.set_hook(super::note);
        // SAFETY: the memory outlives the allocator, and the upper half is claimed later.
        unsafe {
            let half = memory.size() / 2;
            let end = talc.claim(memory.base(), half).unwrap();
            let top = talc.reserved(end).up_to.as_ptr();
            let place = [
                at(top, 0),
                at(top, WORD),
                at(top, 2 * WORD),
                end.as_ptr().sub(WORD),
            ];
            let was = damage(place[word], 0x4142);
            assert_eq!(talc.reserved(end).up_to, end);
            assert_eq!(talc.extend(end, memory.end()), end);
            assert_eq!(talc.truncate(end, std::ptr::null_mut()), Some(end));
            assert_eq!(reports().len(), 2);
            damage(place[word], was);
            assert_eq!(talc.check(), Ok(()));
            let end = talc.extend(end, memory.end());
            assert_eq!(NonNull::new(memory.end()), Some(end));
        }
        assert_eq!(reports(), []);
    }
}
