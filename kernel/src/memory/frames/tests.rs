use std::collections::BTreeSet;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size2MiB};

use super::{FRAME_SIZE, FrameError, Frames, GROUP_FRAMES, GROUP_SIZE, Group, Purpose, Usage};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Makes a table for memory that ends at `end`.
fn table(end: u64) -> Vec<Group> {
    vec![Group::EMPTY; Frames::groups_below(end).unwrap()]
}

fn frame(address: u64) -> PhysFrame {
    PhysFrame::from_start_address(PhysAddr::new(address)).unwrap()
}

fn address(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64()
}

/// Allocates all free frames.
fn take_all(frames: &mut Frames) -> Vec<PhysFrame> {
    std::iter::from_fn(|| frames.allocate(Purpose::Other)).collect()
}

#[test]
fn every_frame_is_allocated_once() {
    let mut table = table(16 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(4 * MIB..16 * MIB);
    let taken = take_all(&mut frames);
    let addresses: BTreeSet<u64> = taken.iter().copied().map(address).collect();
    let expected = (4 * MIB..16 * MIB).step_by(FRAME_SIZE as usize);
    assert_eq!(addresses, expected.collect());
    assert_eq!(taken.len(), addresses.len());
    assert_eq!(frames.allocate_2mib(Purpose::Other), None);
}

#[test]
fn frames_partly_in_a_region_are_not_added() {
    let mut table = table(4 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB + 1..2 * MIB + 3 * FRAME_SIZE - 1);
    let taken = take_all(&mut frames);
    assert_eq!(taken, [frame(2 * MIB + FRAME_SIZE)]);
    frames.add(3 * MIB + 5..3 * MIB + FRAME_SIZE);
    assert_eq!(frames.usage().total, 1);
}

#[test]
fn memory_below_one_mebibyte_is_not_added() {
    let mut table = table(2 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(0..2 * MIB);
    assert_eq!(frames.usage().total as u64, MIB / FRAME_SIZE);
    assert!(
        take_all(&mut frames)
            .into_iter()
            .all(|frame| address(frame) >= MIB)
    );
}

#[test]
fn reserved_regions_override_overlapping_usable_ones() {
    let mut table = table(8 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..6 * MIB);
    frames.add(4 * MIB..8 * MIB);
    assert_eq!(frames.usage().total as u64, 6 * MIB / FRAME_SIZE);
    frames.remove(3 * MIB - 1..5 * MIB + 1);
    frames.remove(100 * MIB..200 * MIB);
    frames.check().unwrap();
    let taken = take_all(&mut frames);
    let reserved = 3 * MIB - FRAME_SIZE..5 * MIB + FRAME_SIZE;
    assert!(
        taken
            .iter()
            .all(|&frame| !reserved.contains(&address(frame)))
    );
    assert_eq!(taken.len() as u64, 4 * MIB / FRAME_SIZE - 2);
}

#[test]
fn memory_beyond_the_table_is_not_added() {
    let mut table = table(4 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..64 * GIB);
    assert_eq!(frames.usage().total as u64, 2 * MIB / FRAME_SIZE);
}

#[test]
fn memory_of_64_gib_with_holes_is_managed() {
    let mut table = table(66 * GIB);
    let mut frames = Frames::new(&mut table);
    // As on a PC: low memory, a hole below 4 GiB, the rest above it.
    for range in [0..0x9_fc00, MIB..3 * GIB, 4 * GIB..65 * GIB + 12345] {
        frames.add(range);
    }
    let usable = 3 * GIB - MIB + 61 * GIB + 12345 / FRAME_SIZE * FRAME_SIZE;
    assert_eq!(frames.usage().total as u64, usable / FRAME_SIZE);
    frames.check().unwrap();
    let mut large = Vec::new();
    while let Some(frame) = frames.allocate_2mib(Purpose::Heap) {
        large.push(frame);
    }
    assert_eq!(
        large.len() as u64,
        (3 * GIB - 2 * MIB + 61 * GIB) / GROUP_SIZE
    );
    assert!(
        large
            .iter()
            .any(|frame| frame.start_address().as_u64() >= 64 * GIB)
    );
    // The rest is the second mebibyte, and three frames at the end.
    assert_eq!(take_all(&mut frames).len() as u64, MIB / FRAME_SIZE + 3);
    for frame in large {
        frames.free_2mib(frame, Purpose::Heap).unwrap();
    }
    frames.check().unwrap();
}

#[test]
fn partial_groups_are_used_before_whole_groups() {
    let mut table = table(16 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..16 * MIB);
    let first = frames.allocate(Purpose::Heap).unwrap();
    let group = address(first) / GROUP_SIZE;
    for _ in 1..GROUP_FRAMES {
        let next = frames.allocate(Purpose::Heap).unwrap();
        assert_eq!(address(next) / GROUP_SIZE, group);
    }
    let next = frames.allocate(Purpose::Heap).unwrap();
    assert_ne!(address(next) / GROUP_SIZE, group);
    // A freed frame makes a full group partial, and the next frame comes from it.
    frames.free(first, Purpose::Heap).unwrap();
    assert_eq!(frames.allocate(Purpose::Heap), Some(first));
}

#[test]
fn a_large_frame_is_free_when_all_its_parts_are() {
    let mut table = table(4 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..4 * MIB);
    let large = frames.allocate_2mib(Purpose::Heap).unwrap();
    let parts = (2 * MIB..4 * MIB).step_by(FRAME_SIZE as usize);
    for part in parts {
        assert_eq!(frames.allocate_2mib(Purpose::Heap), None);
        frames.free(frame(part), Purpose::Heap).unwrap();
    }
    assert_eq!(frames.allocate_2mib(Purpose::Heap), Some(large));
}

#[test]
fn a_double_free_is_an_error_and_changes_nothing() {
    let mut table = table(4 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..4 * MIB);
    let other = frames.allocate(Purpose::Heap).unwrap();
    let freed = frames.allocate(Purpose::Heap).unwrap();
    frames.free(freed, Purpose::Heap).unwrap();
    let before = frames.usage();
    let address = freed.start_address();
    let error = FrameError::DoubleFree { address };
    assert_eq!(frames.free(freed, Purpose::Heap), Err(error));
    assert_eq!(frames.usage(), before);
    frames.free(other, Purpose::Heap).unwrap();
    frames.check().unwrap();
}

#[test]
fn a_partly_free_large_frame_cannot_be_freed_whole() {
    let mut table = table(6 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..6 * MIB);
    let large = frames.allocate_2mib(Purpose::Heap).unwrap();
    let other = frames.allocate_2mib(Purpose::Heap).unwrap();
    let address = large.start_address();
    frames
        .free(frame(address.as_u64() + 7 * FRAME_SIZE), Purpose::Heap)
        .unwrap();
    let error = FrameError::DoubleFree { address };
    assert_eq!(frames.free_2mib(large, Purpose::Heap), Err(error));
    frames.free_2mib(other, Purpose::Heap).unwrap();
    frames.check().unwrap();
}

#[test]
fn frames_never_allocated_cannot_be_freed() {
    let mut table = table(8 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..7 * MIB);
    take_all(&mut frames);
    for foreign in [0, MIB, 7 * MIB, 8 * MIB, 1 << 50] {
        let address = PhysAddr::new(foreign);
        let error = FrameError::Foreign { address };
        assert_eq!(frames.free(frame(foreign), Purpose::Other), Err(error));
    }
    let partly_ours: PhysFrame<Size2MiB> = PhysFrame::containing_address(PhysAddr::new(6 * MIB));
    let address = partly_ours.start_address();
    let error = FrameError::Foreign { address };
    assert_eq!(frames.free_2mib(partly_ours, Purpose::Other), Err(error));
    frames.check().unwrap();
}

#[test]
fn frames_are_counted_by_purpose() {
    let mut table = table(8 * MIB);
    let mut frames = Frames::new(&mut table);
    frames.add(2 * MIB..8 * MIB);
    let page_table = frames.allocate(Purpose::PageTables).unwrap();
    let tags = frames.allocate(Purpose::Tags).unwrap();
    frames.allocate(Purpose::Other).unwrap();
    frames.allocate_2mib(Purpose::Heap).unwrap();
    let usage = Usage {
        total: 3 * GROUP_FRAMES,
        free: 2 * GROUP_FRAMES - 3,
        heap: GROUP_FRAMES,
        page_tables: 1,
        tags: 1,
        other: 1,
    };
    assert_eq!(frames.usage(), usage);
    assert_eq!(usage.used(), GROUP_FRAMES + 3);
    frames.free(tags, Purpose::Tags).unwrap();
    let error = FrameError::WrongPurpose {
        address: page_table.start_address(),
        purpose: Purpose::Tags,
    };
    assert_eq!(frames.free(page_table, Purpose::Tags), Err(error));
}

#[test]
fn an_allocator_without_frames_allocates_none() {
    let mut frames = Frames::new(&mut []);
    frames.add(0..GIB);
    assert_eq!(frames.allocate(Purpose::Other), None);
    assert_eq!(frames.allocate_2mib(Purpose::Other), None);
    assert_eq!(frames.usage(), Usage::default());
}

#[test]
fn the_number_of_groups_is_bounded() {
    assert_eq!(Frames::groups_below(64 * GIB), Some(32768));
    assert_eq!(Frames::groups_below(u64::MAX), None);
}

/// A linear congruential generator (Knuth, The Art of Computer Programming, 3.3.4).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn random_programs_agree_with_a_set_of_frames() {
    for seed in 0..20 {
        random_program(seed);
    }
}

/// Allocates and frees at random, sometimes wrongly, and compares with a set of the free frames.
fn random_program(seed: u64) {
    let mut random = Random(seed);
    let mut table = table(20 * MIB);
    let mut frames = Frames::new(&mut table);
    let mut free = BTreeSet::new();
    for _ in 0..4 {
        let start = MIB + random.below(18 << 20) as u64;
        let end = start + random.below(6 << 20) as u64;
        frames.add(start..end);
        let first = start.next_multiple_of(FRAME_SIZE);
        let last = end.min(20 * MIB) / FRAME_SIZE * FRAME_SIZE;
        free.extend((first..last.max(first)).step_by(FRAME_SIZE as usize));
    }
    let all = free.clone();
    let parts = |base: u64| (base..base + GROUP_SIZE).step_by(FRAME_SIZE as usize);
    let mut used = BTreeSet::new();
    for step in 0..6000 {
        match random.below(16) {
            0 => match frames.allocate_2mib(Purpose::Heap) {
                Some(large) => {
                    for part in parts(large.start_address().as_u64()) {
                        assert!(free.remove(&part), "seed {seed}, step {step}");
                        used.insert(part);
                    }
                }
                None => {
                    let whole = (0..20 * MIB)
                        .step_by(GROUP_SIZE as usize)
                        .find(|&base| parts(base).all(|part| free.contains(&part)));
                    assert_eq!(whole, None, "seed {seed}, step {step}");
                }
            },
            1..9 => match frames.allocate(Purpose::Heap).map(address) {
                Some(taken) => {
                    assert!(free.remove(&taken), "seed {seed}, step {step}");
                    used.insert(taken);
                }
                None => assert!(free.is_empty(), "seed {seed}, step {step}"),
            },
            _ => {
                let any = (random.below(21 << 20) as u64) / FRAME_SIZE * FRAME_SIZE;
                // The next frame in use above a random address, or any frame if none is in use
                // above.
                let chosen = used.range(any..).next().copied().unwrap_or(any);
                let freed = frames.free(frame(chosen), Purpose::Heap);
                assert_eq!(
                    freed.is_ok(),
                    used.remove(&chosen),
                    "seed {seed}, step {step}"
                );
                if freed.is_ok() {
                    free.insert(chosen);
                }
            }
        }
        let usage = frames.usage();
        assert_eq!(
            (usage.free, usage.heap),
            (free.len(), used.len()),
            "seed {seed}, step {step}"
        );
        if step % 500 == 0 {
            frames
                .check()
                .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
        }
    }
    for &address in &used {
        frames.free(frame(address), Purpose::Heap).unwrap();
    }
    frames.check().unwrap();
    let rest: BTreeSet<u64> = take_all(&mut frames).into_iter().map(address).collect();
    assert_eq!(rest, all, "seed {seed}");
}
