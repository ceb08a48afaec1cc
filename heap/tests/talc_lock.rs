//! The allocator behind a lock: as `GlobalAlloc`, and with several threads.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::thread;

use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use heap::talc::source::{Claim, Manual};
use heap::talc::{TalcLock, sync};

type Lock = TalcLock<spin::Mutex<()>, Claim>;

fn lock_over(memory: &Memory) -> Lock {
    // SAFETY: in each test the memory outlives the lock.
    TalcLock::new(unsafe { Claim::new(memory.base(), memory.size()) })
}

fn random_step(lock: &Lock, shadow: &mut Shadow, random: &mut Random) {
    // SAFETY: sizes are not zero, and blocks are live.
    unsafe {
        match random.below(8) {
            0..3 => {
                let align = 1 << random.below(9);
                let layout = Layout::from_size_align(random.size(11), align).unwrap();
                let zeroed = random.below(2) == 0;
                let ptr = if zeroed {
                    lock.alloc_zeroed(layout)
                } else {
                    lock.alloc(layout)
                };
                if !ptr.is_null() {
                    let bytes = std::slice::from_raw_parts(ptr, layout.size());
                    assert!(!zeroed || bytes.iter().all(|&byte| byte == 0));
                    shadow.insert(ptr, layout);
                }
            }
            3..5 => {
                if let Some(block) = shadow.take(random) {
                    lock.dealloc(block.ptr, block.layout);
                }
            }
            _ => {
                if let Some(block) = shadow.take(random) {
                    let new_size = random.size(12);
                    let ptr = lock.realloc(block.ptr, block.layout, new_size);
                    if ptr.is_null() {
                        let may_move = cfg!(feature = "disable-realloc-in-place");
                        assert!(
                            may_move || new_size > block.layout.size(),
                            "shrinking failed"
                        );
                        shadow.put_back(block, block.ptr, block.layout.size());
                    } else {
                        shadow.put_back(block, ptr, new_size);
                    }
                }
            }
        }
    }
}

fn free_all(lock: &Lock, shadow: &mut Shadow, random: &mut Random) {
    while let Some(block) = shadow.take(random) {
        // SAFETY: the block is live.
        unsafe { lock.dealloc(block.ptr, block.layout) };
    }
}

#[test]
fn contents_and_alignment_survive_reallocation() {
    let memory = Memory::new(1 << 18);
    let lock = lock_over(&memory);
    let mut shadow = Shadow::new();
    let mut random = Random::new(11);
    for _ in 0..100_000 {
        random_step(&lock, &mut shadow, &mut random);
    }
    lock.lock().check().unwrap();
    free_all(&lock, &mut shadow, &mut random);
    assert_eq!(lock.lock().gaps().count(), 1);
}

#[test]
fn reallocation_works_between_all_sizes_of_a_grid() {
    let memory = Memory::new(1 << 20);
    let lock = lock_over(&memory);
    let sizes = [
        1, 7, 8, 23, 24, 25, 31, 32, 33, 56, 63, 64, 100, 127, 128, 500, 4096, 5000,
    ];
    for align in [1, 8, 64, 4096] {
        for (from, to) in sizes
            .into_iter()
            .flat_map(|from| sizes.map(|to| (from, to)))
        {
            for blocked in [false, true] {
                let mut shadow = Shadow::new();
                let layout = Layout::from_size_align(from, align).unwrap();
                // SAFETY: sizes are not zero, and blocks are live.
                unsafe {
                    let block = lock.alloc(layout);
                    shadow.insert(block, layout);
                    let wall = blocked.then(|| lock.alloc(Layout::new::<u8>()));
                    let before = shadow.take_at(0);
                    let moved = lock.realloc(block, layout, to);
                    assert!(!moved.is_null());
                    shadow.put_back(before, moved, to);
                    lock.dealloc(moved, shadow.take_at(0).layout);
                    if let Some(wall) = wall {
                        lock.dealloc(wall, Layout::new::<u8>());
                    }
                }
                assert_eq!(lock.lock().gaps().count(), 1);
            }
        }
    }
    lock.lock().check().unwrap();
}

#[test]
fn a_failed_reallocation_leaves_the_block_unchanged() {
    let memory = Memory::new(1 << 14);
    let lock = lock_over(&memory);
    let layout = Layout::from_size_align(1000, 16).unwrap();
    let mut shadow = Shadow::new();
    // SAFETY: sizes are not zero, and the block is live.
    unsafe {
        shadow.insert(lock.alloc(layout), layout);
        let block = shadow.take_at(0);
        assert!(lock.realloc(block.ptr, layout, 1 << 15).is_null());
        block.assert_intact(1000);
        lock.dealloc(block.ptr, layout);
    }
    assert_eq!(lock.lock().gaps().count(), 1);
}

#[test]
fn threads_get_disjoint_blocks() {
    let memory = Memory::new(1 << 20);
    let lock = lock_over(&memory);
    thread::scope(|scope| {
        for seed in 0..4 {
            let lock = &lock;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut shadow = Shadow::new();
                for _ in 0..20_000 {
                    random_step(lock, &mut shadow, &mut random);
                }
                free_all(lock, &mut shadow, &mut random);
            });
        }
    });
    let talc = lock.into_inner();
    talc.check().unwrap();
    assert_eq!(talc.gaps().count(), 1);
}

#[test]
fn try_lock_returns_none_while_the_lock_is_held() {
    let mut lock = sync::TalcLock::<spin::Mutex<()>, Manual>::new(Manual);
    {
        let _guard = lock.lock();
        assert!(lock.try_lock().is_none());
        assert_eq!(format!("{lock:?}"), "TalcLock(<locked>)");
    }
    assert!(lock.try_lock().is_some());
    assert!(!lock.get_mut().is_metadata_established());
}

#[test]
fn a_static_allocator_works_without_initialisation() {
    static HEAP: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new({
        static mut MEMORY: [u8; 20_000] = [0; 20_000];
        // SAFETY: only the heap uses `MEMORY`.
        unsafe { Claim::array(&raw mut MEMORY) }
    });
    // SAFETY: the size is not zero, and the block is freed once.
    unsafe {
        let layout = Layout::new::<[u64; 100]>();
        let block = HEAP.alloc(layout);
        assert!(!block.is_null());
        HEAP.dealloc(block, layout);
    }
}
