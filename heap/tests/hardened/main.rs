//! The detection of misuse: each test misuses the allocator, expects exactly one report of that,
//! and continues to use the heap.
#![cfg(feature = "hardened")]

#[path = "../common/mod.rs"]
mod common;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod corruption;
mod frees;
mod metadata;
mod reports;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod source_record;
mod writes;

use std::alloc::Layout;
use std::cell::RefCell;

use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Talc};
use heap::talc::hardened::{Misuse, Report};
use heap::talc::source::Manual;
use heap::talc::{Corruption, DefaultBinning, Rule};

const WORD: usize = size_of::<usize>();
const FILLING: usize = 0xbb;
const POISON: usize = 0xdead_beef_dead_beef_u64 as usize;

thread_local! {
    static REPORTS: RefCell<Vec<Report>> = const { RefCell::new(Vec::new()) };
}

fn note(report: &Report) {
    assert!(!report.to_string().contains('\n'));
    REPORTS.with_borrow_mut(|reports| reports.push(*report));
}

fn reports() -> Vec<Report> {
    REPORTS.take()
}

/// Asserts that exactly this was reported since the last call.
#[track_caller]
fn assert_reported(address: *mut u8, misuse: Misuse) {
    let address = address.addr();
    assert_eq!(reports(), [Report { address, misuse }]);
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// A heap in which the tested blocks do not touch each other.
struct Scene {
    talc: Talc<Manual, DefaultBinning>,
    memory: Memory,
}

impl Scene {
    fn new() -> Self {
        let memory = Memory::new(1 << 16);
        let mut talc = Talc::new(Manual);
        // SAFETY: the memory outlives the allocator.
        unsafe { talc.claim(memory.base(), memory.size()) }.unwrap();
        talc.set_hook(note);
        Self { talc, memory }
    }

    /// Allocates a block with another one above it, so that it touches no gap.
    fn allocate(&mut self, layout: Layout) -> *mut u8 {
        let block = self.allocate_at_top(layout);
        self.allocate_at_top(self::layout(1));
        block
    }

    fn allocate_at_top(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is not zero.
        unsafe { self.talc.allocate(layout) }.unwrap().as_ptr()
    }

    fn free(&mut self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is live, or the detector refuses it.
        unsafe { self.talc.deallocate(block, layout) }
    }

    /// Asserts that `check` finds no damage, and that the allocator is usable.
    #[track_caller]
    fn assert_sound(&mut self) {
        assert_eq!(self.talc.check(), Ok(()));
        self.assert_usable();
    }

    /// Asserts that `check` finds this, and that the allocator is usable all the same.
    #[track_caller]
    fn assert_finds(&mut self, address: *mut u8, misuse: Misuse) {
        let address = address.addr();
        let rule = Rule::Misuse(misuse);
        assert_eq!(self.talc.check(), Err(Corruption { address, rule }));
        self.assert_usable();
    }

    #[track_caller]
    fn assert_usable(&mut self) {
        // More blocks than any test frees.
        let blocks = [500, 700, 900].map(|size| self.allocate_at_top(layout(size)));
        for (block, size) in blocks.into_iter().zip([500, 700, 900]) {
            self.free(block, layout(size));
        }
        assert_eq!(reports(), []);
    }
}

/// Returns the address `offset` bytes above `block`.
fn at(block: *mut u8, offset: usize) -> *mut u8 {
    block.wrapping_add(offset)
}

/// Changes bytes, each to another value. (A fixed value could be that of a checksum by chance.)
///
/// # Safety
/// The bytes lie in one of the test's heaps.
unsafe fn damage_bytes(base: *mut u8, length: usize) {
    for offset in 0..length {
        let byte = base.wrapping_add(offset);
        // SAFETY: the caller guarantees that the byte is in a heap.
        unsafe { byte.write(byte.read() ^ b'A') };
    }
}

fn read(at: *mut u8) -> usize {
    // SAFETY: the tests pass addresses of words in their heaps.
    unsafe { at.cast::<usize>().read() }
}

/// Overwrites a word. Returns the old one.
fn damage(at: *mut u8, word: usize) -> usize {
    // SAFETY: the tests pass addresses of words in their heaps.
    unsafe { at.cast::<usize>().replace(word) }
}

fn chunk_size(size: usize) -> usize {
    (size + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT)
}

#[test]
fn random_misuse_among_random_operations_is_reported() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut scene = Scene::new();
        let mut shadow = Shadow::new();
        let mut misuses = 0;
        for _ in 0..2000 {
            match random.below(8) {
                0..4 => {
                    let align = 1 << random.below(8);
                    let layout = Layout::from_size_align(random.size(10), align).unwrap();
                    // SAFETY: the size is not zero.
                    if let Some(block) = unsafe { scene.talc.allocate(layout) } {
                        shadow.insert(block.as_ptr(), layout);
                    }
                }
                4..7 => {
                    if let Some(block) = shadow.take(&mut random) {
                        scene.free(block.ptr, block.layout);
                    }
                }
                _ => {
                    let Some(block) = shadow.take(&mut random) else {
                        continue;
                    };
                    let size = block.layout.size();
                    let wrong = layout(size + 1 + random.below(100));
                    let offset = 1 + random.below(size);
                    match random.below(4) {
                        0 => {
                            scene.free(block.ptr, wrong);
                            let misuse = Misuse::WrongLayout {
                                expected: block.layout,
                                found: wrong,
                            };
                            assert_reported(block.ptr, misuse);
                            shadow.put_back(block, block.ptr, size);
                        }
                        1 => {
                            scene.free(at(block.ptr, offset), wrong);
                            let misuse = Misuse::InteriorPointer {
                                block: block.ptr.addr(),
                            };
                            assert_reported(at(block.ptr, offset), misuse);
                            shadow.put_back(block, block.ptr, size);
                        }
                        2 => {
                            // SAFETY: the byte is in a heap that only this test uses.
                            let was = unsafe { at(block.ptr, size).read() };
                            // SAFETY: the byte is in a heap that only this test uses.
                            unsafe { at(block.ptr, size).write(!was) };
                            scene.free(block.ptr, block.layout);
                            let reported = reports();
                            let [Report { misuse, .. }] = reported[..] else {
                                panic!("{reported:?}")
                            };
                            assert!(
                                matches!(misuse, Misuse::WriteBeyondEnd { .. }),
                                "{misuse:?}"
                            );
                            // SAFETY: as above.
                            unsafe { at(block.ptr, size).write(was) };
                            shadow.put_back(block, block.ptr, size);
                        }
                        _ => {
                            scene.free(block.ptr, block.layout);
                            scene.free(block.ptr, block.layout);
                            assert!(matches!(
                                reports()[..],
                                [Report {
                                    misuse: Misuse::DoubleFree { .. },
                                    ..
                                }]
                            ));
                        }
                    }
                    misuses += 1;
                }
            }
            assert_eq!(reports(), [], "seed {seed}");
            scene.talc.check().unwrap();
        }
        assert!(misuses > 100);
        shadow.assert_all_intact();
    }
}
