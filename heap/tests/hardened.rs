//! The detector: each test commits a crime, expects exactly the report of it, and goes on using the heap.
#![cfg(feature = "hardened")]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, RefCell};
use std::ptr::{NonNull, null_mut, without_provenance_mut};

use allocator_api2::alloc::Allocator;
use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use common::sizes::FIRST;
use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, Talc};
use heap::talc::hardened::{Misuse, Report};
use heap::talc::source::{Claim, Manual};
use heap::talc::{Corruption, DefaultBinning, Rule, TalcCell, TalcLock, min_first_heap_size};

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

/// Exactly this was reported since the last time.
#[track_caller]
fn assert_reported(address: *mut u8, misuse: Misuse) {
    let address = address.addr();
    assert_eq!(reports(), [Report { address, misuse }]);
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// A heap in which allocations do not touch.
struct Scene {
    talc: Talc<Manual, DefaultBinning>,
    memory: Memory,
}

impl Scene {
    fn new() -> Self {
        let memory = Memory::new(1 << 16);
        let mut talc = Talc::new(Manual);
        // SAFETY: the memory lives as long as the allocator.
        unsafe { talc.claim(memory.base(), memory.size()) }.unwrap();
        talc.set_hook(note);
        Self { talc, memory }
    }

    /// With another above it, so that it touches nothing that is free.
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
        // SAFETY: the detector is there for those that are not.
        unsafe { self.talc.deallocate(block, layout) }
    }

    /// Nothing is wrong, as far as the walker sees, and memory comes and goes.
    #[track_caller]
    fn assert_sound(&mut self) {
        assert_eq!(self.talc.check(), Ok(()));
        self.assert_usable();
    }

    /// The walker finds this; memory comes and goes all the same.
    #[track_caller]
    fn assert_finds(&mut self, address: *mut u8, misuse: Misuse) {
        let address = address.addr();
        let rule = Rule::Misuse(misuse);
        assert_eq!(self.talc.check(), Err(Corruption { address, rule }));
        self.assert_usable();
    }

    #[track_caller]
    fn assert_usable(&mut self) {
        // More than tests free.
        let blocks = [500, 700, 900].map(|size| self.allocate_at_top(layout(size)));
        for (block, size) in blocks.into_iter().zip([500, 700, 900]) {
            self.free(block, layout(size));
        }
        assert_eq!(reports(), []);
    }
}

/// Where a word or a byte of a heap is.
fn at(block: *mut u8, offset: usize) -> *mut u8 {
    block.wrapping_add(offset)
}

fn read(at: *mut u8) -> usize {
    // SAFETY: the tests name words in their heaps.
    unsafe { at.cast::<usize>().read() }
}

/// Writes a word where nobody should.
fn damage(at: *mut u8, word: usize) -> usize {
    // SAFETY: the tests name words in their heaps.
    unsafe { at.cast::<usize>().replace(word) }
}

fn chunk_size(size: usize) -> usize {
    (size + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT)
}

#[test]
fn a_double_free() {
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
        // SAFETY: the detector is there for this.
        assert!(!unsafe { scene.talc.try_grow_in_place(block, layout(size), size + 1) });
        assert_reported(block, misuse);
        scene.assert_sound();
    }
}

#[test]
fn a_double_free_in_the_middle_of_free_memory() {
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
fn a_wrong_layout() {
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
        // SAFETY: the detector is there for this.
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
fn the_layout_before_resizing() {
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
fn an_interior_pointer() {
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
fn a_foreign_pointer() {
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
        // Nothing is mapped there.
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
fn a_heap_end_that_is_none() {
    let mut scene = Scene::new();
    let block = NonNull::new(scene.allocate(layout(100))).unwrap();
    // SAFETY: the detector is there for this.
    unsafe {
        assert_eq!(scene.talc.truncate(block, null_mut()), Some(block));
        assert_reported(block.as_ptr(), Misuse::ForeignPointer);
        assert_eq!(scene.talc.extend(block, at(block.as_ptr(), 64)), block);
        assert_reported(block.as_ptr(), Misuse::ForeignPointer);
    }
    scene.assert_sound();
}

#[test]
fn a_write_past_the_end() {
    // The filling, the canary, and further words of the tail.
    let size = 90;
    let tail = chunk_size(size) - CHUNK_OVERHEAD;
    for offset in [size, size + 1, tail - 1] {
        let mut scene = Scene::new();
        let block = scene.allocate(layout(size));
        // SAFETY: nobody else uses the memory.
        unsafe { at(block, offset).write(0) };
        let misuse = Misuse::WriteBeyondEnd {
            block: Some(block.addr()),
            expected: FILLING,
            found: 0,
        };
        scene.assert_finds(at(block, offset), misuse);
        scene.free(block, layout(size));
        assert_reported(at(block, offset), misuse);
        // SAFETY: the detector is there for this.
        assert!(!unsafe { scene.talc.try_grow_in_place(block, layout(size), 91) });
        assert_reported(at(block, offset), misuse);
        scene.assert_finds(at(block, offset), misuse);
        // Undone, it is an allocation again.
        // SAFETY: nobody else uses the memory.
        unsafe { at(block, offset).write(FILLING as u8) };
        scene.free(block, layout(size));
        scene.assert_sound();
    }
    for word in 0..4 {
        let mut scene = Scene::new();
        let block = scene.allocate(layout(size));
        let place = at(block, tail + word * WORD);
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
fn a_string_that_is_too_long() {
    let mut scene = Scene::new();
    let block = scene.allocate(layout(96));
    scene.allocate_at_top(layout(300));
    // Over the tail, the tag, and what is above.
    let tail = at(block, chunk_size(96) - CHUNK_OVERHEAD);
    let canary = read(tail);
    // SAFETY: nobody else uses the memory.
    unsafe { at(block, 96).write_bytes(b'A', 80) };
    scene.free(block, layout(96));
    let misuse = Misuse::WriteBeyondEnd {
        block: Some(block.addr()),
        expected: canary,
        found: usize::from_ne_bytes([b'A'; WORD]),
    };
    assert_reported(tail, misuse);
    scene.assert_usable();
}

#[test]
fn a_write_after_free() {
    let misuse = |found| Misuse::WriteAfterFree {
        expected: POISON,
        found,
    };
    // Found by the walker, and when the memory is allocated again.
    let mut scene = Scene::new();
    let block = scene.allocate(layout(200));
    scene.free(block, layout(200));
    let place = at(block, 104);
    damage(place, 7);
    scene.assert_finds(place, misuse(7));
    assert_eq!(scene.allocate_at_top(layout(200)), block);
    assert_reported(place, misuse(7));
    scene.assert_sound();

    // When a neighbour is freed, above or below.
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

    // When a neighbour grows.
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
fn a_write_to_the_first_words_after_free() {
    for (offset, found) in [
        (0, 0x41),
        (0, 16 * CHUNK_UNIT),
        (WORD, 0x4141_4141),
        (2 * WORD, 0x4141_4141),
        (2 * WORD, 0),
    ] {
        // Two gaps in one list: the upper is the first of it.
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
        // It is not allocated, but another is.
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
fn a_neighbour_of_damaged_free_memory_is_left_alone() {
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
            // From above nothing is known of a gap but what its last word says.
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

#[test]
fn a_damaged_tag() {
    let tag_of = |block, size| at(block, chunk_size(size) - WORD);
    for found in [0, 1, 5, 0x4141_4141, usize::MAX] {
        let mut scene = Scene::new();
        let lower = scene.allocate_at_top(layout(100));
        let block = scene.allocate(layout(200));
        // Its own …
        let tag = tag_of(block, 200);
        let was = damage(tag, found);
        let misuse = Misuse::DamagedTag {
            expected: was,
            found,
        };
        scene.free(block, layout(200));
        assert_reported(tag, misuse);
        assert!(scene.talc.check().is_err());
        scene.assert_usable();
        damage(tag, was);
        // … and that of the allocation below.
        let tag = tag_of(lower, 100);
        let was = damage(tag, found);
        let misuse = Misuse::DamagedTag {
            expected: was,
            found,
        };
        scene.free(block, layout(200));
        assert_reported(tag, misuse);
        damage(tag, was);
        scene.free(block, layout(200));
        scene.free(lower, layout(100));
        scene.assert_sound();
    }
}

#[test]
fn a_tag_from_another_place() {
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
fn what_the_walker_finds_in_a_heap_at_rest() {
    let mut scene = Scene::new();
    let block = scene.allocate(layout(100));
    let gap = scene.allocate(layout(300));
    scene.free(gap, layout(300));
    scene.assert_sound();
    let tail = at(block, chunk_size(100) - CHUNK_OVERHEAD);
    let base_tag = at(scene.memory.base(), FIRST - WORD);
    // Tags of the base and of the list heads among them.
    for (place, found) in [
        (at(block, chunk_size(100) - WORD), 3),
        (at(gap, 40), 1),
        (tail, 0),
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
    let was = damage(base_tag, 0);
    assert_eq!(scene.talc.check(), Ok(()), "that is for `check_heap`");
    damage(base_tag, was);
}

#[test]
fn random_crimes_among_random_operations() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut scene = Scene::new();
        let mut shadow = Shadow::new();
        let mut crimes = 0;
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
                            // SAFETY: nobody else uses the byte.
                            let was = unsafe { at(block.ptr, size).read() };
                            // SAFETY: as above.
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
                    crimes += 1;
                }
            }
            assert_eq!(reports(), [], "seed {seed}");
            scene.talc.check().unwrap();
        }
        assert!(crimes > 100);
        shadow.assert_all_intact();
    }
}

#[test]
#[should_panic = "heap misuse at"]
fn misuse_panics_unless_a_hook_is_set() {
    let memory = Memory::new(1 << 14);
    let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    // SAFETY: the memory is ours; the detector is there for the second time.
    unsafe {
        talc.claim(memory.base(), memory.size()).unwrap();
        let block = talc.allocate(layout(10)).unwrap().as_ptr();
        talc.deallocate(block, layout(10));
        talc.deallocate(block, layout(10));
    }
}

type Lock = TalcLock<spin::Mutex<()>, Claim>;

static LOCK: Lock = TalcLock::new({
    const SIZE: usize = min_first_heap_size::<DefaultBinning>() + (1 << 16);
    static mut MEMORY: [u8; SIZE] = [0; SIZE];
    // SAFETY: nothing else uses `MEMORY`.
    unsafe { Claim::array(&raw mut MEMORY) }
});

/// Allocates from the allocator that it reports of: the lock is free.
fn note_in_lock(report: &Report) {
    // SAFETY: sizes are not zero, and the block is freed as it was allocated.
    unsafe {
        let layout = layout(64);
        let block = LOCK.alloc(layout);
        assert!(!block.is_null());
        LOCK.dealloc(block, layout);
    }
    note(report);
}

#[test]
fn a_hook_may_allocate_when_the_lock_has_reported() {
    LOCK.lock().set_hook(note_in_lock);
    let (right, wrong) = (layout(100), layout(50));
    let misuse = Misuse::WrongLayout {
        expected: right,
        found: wrong,
    };
    // SAFETY: the detector is there for what is wrong.
    unsafe {
        let block = LOCK.alloc(right);
        LOCK.dealloc(block, wrong);
        assert_reported(block, misuse);
        // The block stays, and is not copied as what it is not.
        assert!(LOCK.realloc(block, wrong, 5000).is_null());
        assert_reported(block, misuse);
        assert!(LOCK.realloc(block, wrong, 20).is_null());
        assert_reported(block, misuse);
        let shared = &LOCK;
        let pointer = NonNull::new(block).unwrap();
        assert!(shared.grow(pointer, wrong, layout(200)).is_err());
        assert_reported(block, misuse);
        assert!(shared.shrink(pointer, wrong, layout(20)).is_err());
        assert_reported(block, misuse);
        // Nothing is read where there is no memory.
        let nowhere = without_provenance_mut(4096);
        assert!(LOCK.realloc(nowhere, right, 5000).is_null());
        assert_reported(nowhere, Misuse::ForeignPointer);
        LOCK.dealloc(block, right);
    }
    assert_eq!(LOCK.lock().check(), Ok(()));
    assert_eq!(reports(), []);
}

#[test]
fn a_cell_reports_when_it_is_free_again() {
    thread_local! {
        static CELL: Cell<Option<&'static TalcCell<Claim>>> = const { Cell::new(None) };
    }
    let memory = Memory::new(1 << 16);
    // SAFETY: the memory stays as long as the cell is used.
    let claim = unsafe { Claim::new(memory.base(), memory.size()) };
    let mut cell = TalcCell::new(claim);
    cell.get_mut().set_hook(|report| {
        let cell = CELL.get().unwrap();
        let block = cell.allocate(layout(10)).expect("it is free").cast();
        // SAFETY: the block is live.
        unsafe { cell.deallocate(block, layout(10)) };
        note(report);
    });
    let cell: &'static TalcCell<Claim> = Box::leak(Box::new(cell));
    CELL.set(Some(cell));
    let block = cell.allocate(layout(100)).unwrap().cast::<u8>();
    // SAFETY: the detector is there for what is wrong.
    unsafe { cell.deallocate(block, layout(99)) };
    let misuse = Misuse::WrongLayout {
        expected: layout(100),
        found: layout(99),
    };
    assert_reported(block.as_ptr(), misuse);
    std::mem::forget(memory);
}

#[test]
fn a_block_that_was_resized_has_its_new_alignment() {
    let memory = Memory::new(1 << 16);
    // SAFETY: the memory stays as long as the lock.
    let lock: Lock = TalcLock::new(unsafe { Claim::new(memory.base(), memory.size()) });
    lock.lock().set_hook(note);
    let with = |size, align| Layout::from_size_align(size, align).unwrap();
    // SAFETY: the detector is there for what is wrong.
    unsafe {
        let block = lock.allocate(with(100, 1)).unwrap().cast();
        let block = lock.grow(block, with(100, 1), with(200, 4)).unwrap().cast();
        let block: NonNull<u8> = lock
            .shrink(block, with(200, 4), with(50, 16))
            .unwrap()
            .cast();
        lock.deallocate(block, with(50, 4));
        let misuse = Misuse::WrongLayout {
            expected: with(50, 16),
            found: with(50, 4),
        };
        assert_reported(block.as_ptr(), misuse);
        lock.deallocate(block, with(50, 16));
    }
    assert_eq!(reports(), []);
    assert_eq!(lock.lock().check(), Ok(()));
}
