// Included by `compat.rs`, where `talc` is either crate.

use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;
use core::ptr::{NonNull, null_mut};

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use talc::base::binning::{
    Binning, linear_extent_then_linearly_divided_exponential_binning as by_powers_of_two,
};
use talc::base::bitfield::{BitField, TwoLevelBitField};
use talc::base::{CHUNK_UNIT, Reserved, Talc};
use talc::cell::TalcSyncCell;
use talc::source::{AllocatorSource, Claim, GlobalAllocSource, Manual, Source};
use talc::{DefaultBinning, TalcCell, TalcLock, min_first_heap_layout, min_first_heap_size};

const MIN: usize = min_first_heap_size::<DefaultBinning>();

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

static GLOBAL: TalcLock<spin::Mutex<()>, Claim> = TalcLock::new(unsafe {
    static mut MEMORY: [u8; MIN + 100_000] = [0; MIN + 100_000];
    Claim::array(&raw mut MEMORY)
});

static UNLOCKED: TalcSyncCell<Claim, DefaultBinning> = unsafe {
    static mut MEMORY: [MaybeUninit<u8>; 100_000] = [MaybeUninit::uninit(); 100_000];
    TalcSyncCell::new(TalcCell::new(Claim::array(&raw mut MEMORY)))
};

fn use_as_global_allocator(allocator: &impl GlobalAlloc) {
    unsafe {
        let small = layout(100, 8);
        let block = allocator.alloc_zeroed(small);
        assert_eq!(core::slice::from_raw_parts(block, 100), [0; 100]);
        block.write_bytes(7, 100);
        let wall = allocator.alloc(layout(10, 512));
        assert!(wall.addr() % 512 == 0);
        let block = allocator.realloc(block, small, 10_000);
        assert_eq!(core::slice::from_raw_parts(block, 100), [7; 100]);
        let block = allocator.realloc(block, layout(10_000, 8), 50);
        assert_eq!(core::slice::from_raw_parts(block, 50), [7; 50]);
        allocator.dealloc(wall, layout(10, 512));
        allocator.dealloc(block, layout(50, 8));
        assert!(allocator.alloc(layout(1 << 30, 8)).is_null());
    }
}

#[test]
fn statics_are_global_allocators() {
    use_as_global_allocator(&GLOBAL);
    use_as_global_allocator(&UNLOCKED);
    assert!(GLOBAL.lock().is_metadata_established());
    let guard = GLOBAL.lock();
    assert!(GLOBAL.try_lock().is_none());
    drop(guard);
}

#[test]
fn wrappers_are_allocators() {
    let mut memory = [0_u8; 20_000];
    let cell = TalcCell::new(unsafe { Claim::array(&raw mut memory) });
    use_as_global_allocator(&cell);
    let mut list = Vec::with_capacity_in(42, &cell);
    list.extend(0..200);
    let boxed = Box::new_in(list.len(), &cell);
    assert_eq!(*boxed, 200);
    drop((list, boxed));

    let block = cell.allocate(Layout::new::<[u32; 16]>()).unwrap();
    unsafe {
        let old = Layout::new::<[u32; 16]>();
        let block = cell
            .grow_zeroed(block.cast(), old, layout(640, 64))
            .unwrap();
        assert_eq!(block.cast::<[u8; 576]>().byte_add(64).read(), [0; 576]);
        let block = cell
            .shrink(block.cast(), layout(640, 64), layout(8, 8))
            .unwrap();
        cell.deallocate(block.cast(), layout(8, 8));
    }

    let lock = TalcLock::<spin::Mutex<()>, _>::new(cell.replace_source(Claim::standby()));
    assert!(lock.allocate(layout(1, 1)).is_err(), "the claim is used up");
    let mut inner: Talc<Claim, DefaultBinning> = lock.into_inner();
    assert!(inner.source.take_claim().is_some());
    assert!(!inner.source.is_ready());
    assert!(format!("{inner:?}").contains("Talc"));
}

#[test]
fn the_core_allocates_and_resizes_in_place() {
    let mut memory = [MaybeUninit::<u8>::uninit(); 30_000];
    let mut talc: Talc<Manual, DefaultBinning> = Talc::new(Manual);
    unsafe {
        let old = layout(100, 16);
        assert_eq!(talc.try_allocate(old), None);
        assert!(talc.claim(memory.as_mut_ptr().cast(), 30_000).is_some());
        let block = talc.allocate(old).unwrap().as_ptr();
        assert!(talc.try_grow_in_place(block, old, 5000));
        talc.shrink(block, layout(5000, 16), 200);
        assert!(talc.try_realloc_in_place(block, layout(200, 16), 300));
        let wall = talc.allocate(layout(1, 1)).unwrap();
        assert!(!talc.try_grow_in_place(block, layout(300, 16), 5000));
        talc.deallocate(block, layout(300, 16));
        talc.deallocate(wall.as_ptr(), layout(1, 1));
    }
}

#[test]
fn heaps_are_claimed_extended_and_truncated() {
    let mut memory = vec![0_u8; 40_000];
    let (base, limit) = (memory.as_mut_ptr(), memory.as_mut_ptr_range().end);
    let cell = TalcCell::new(Manual);
    unsafe {
        assert!(cell.claim(base, 10).is_none());
        let half: NonNull<u8> = cell.claim(base, 20_000).unwrap();
        assert_eq!(half.addr().get() % CHUNK_UNIT, 0);
        assert!(20_000 - (half.addr().get() - base.addr()) < CHUNK_UNIT);
        let end = cell.extend(half, limit);
        assert!(limit.addr() - end.addr().get() < CHUNK_UNIT);
        let block = cell.allocate(layout(15_000, 8)).unwrap();
        let Reserved { up_to, any } = cell.reserved(end);
        assert!(any && up_to.addr() > block.addr());
        assert_eq!(cell.truncate(end, null_mut()), Some(up_to));
        assert_eq!(cell.resize(up_to, limit), Some(end));
        cell.deallocate(block.cast(), layout(15_000, 8));
    }

    let mut other = vec![0_u8; 1000];
    unsafe {
        let end = cell
            .claim(other.as_mut_ptr(), 1000)
            .expect("a later heap may be small");
        assert!(!cell.reserved(end).any);
        assert_eq!(cell.truncate(end, null_mut()), None, "it is deleted");
    }
    assert_eq!(cell.clone_source(), Manual);
}

#[test]
fn the_smallest_first_heap_suffices() {
    for offset in 0..CHUNK_UNIT {
        let mut memory = vec![0_u8; MIN + CHUNK_UNIT];
        let cell = TalcCell::new(Manual);
        unsafe { cell.claim(memory.as_mut_ptr().add(offset), MIN) }.expect("it is large enough");
        assert!(cell.into_inner().is_metadata_established());
    }
    let layout = min_first_heap_layout::<DefaultBinning>();
    let memory = unsafe { std::alloc::alloc(layout) };
    let claimed = unsafe { TalcCell::new(Manual).claim(memory, layout.size()) };
    assert!(claimed.is_some());
    unsafe { std::alloc::dealloc(memory, layout) };
}

#[test]
fn sources_take_blocks_from_other_allocators() {
    fn fill(cell: &impl Allocator) {
        let mut lists: std::vec::Vec<_> = (0..20).map(|_| Vec::new_in(cell)).collect();
        for n in 0..20_000 {
            lists[n % 20].push(n);
        }
        assert!(
            lists
                .iter()
                .enumerate()
                .all(|(n, list)| list[10] == 200 + n)
        );
    }
    let system = std::alloc::System;
    fill(&TalcCell::new(GlobalAllocSource::new(system)));
    fill(&TalcCell::new(GlobalAllocSource::with_block_size(
        system,
        1 << 12,
    )));
    fill(&TalcCell::new(AllocatorSource::new(
        allocator_api2::alloc::Global,
    )));
    fill(&TalcCell::new(AllocatorSource::with_block_size(
        allocator_api2::alloc::Global,
        1 << 14,
    )));
    fn assert_send<T: Send>(_: T) {}
    assert_send(GlobalAllocSource::new(system));
}

/// A source that grants its memory page by page, and takes pages back.
#[derive(Debug)]
struct Pages {
    base: *mut u8,
    limit: *mut u8,
    heap_end: Option<NonNull<u8>>,
}

const PAGE: usize = 4096;

unsafe impl Source for Pages {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let growth = (layout.size() + layout.align() + MIN).next_multiple_of(PAGE);
        let old_end = talc.source.heap_end;
        let from = old_end.map_or(talc.source.base, NonNull::as_ptr);
        if growth > talc.source.limit.addr() - from.addr() {
            return Err(());
        }
        talc.source.heap_end = unsafe {
            match old_end {
                None => talc.claim(from, growth),
                Some(end) => Some(talc.extend(end, from.add(growth))),
            }
        };
        talc.source.heap_end.map(|_| ()).ok_or(())
    }

    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        assert!(!is_heap_base, "metadata is in it");
        assert_eq!(self.heap_end, NonNull::new(heap_end));
        let new_end = chunk_base
            .map_addr(|addr| addr.next_multiple_of(PAGE))
            .min(heap_end);
        self.heap_end = NonNull::new(new_end);
        new_end
    }
}

#[test]
fn a_source_of_ones_own_extends_and_resizes() {
    let mut memory = vec![0_u128; (1 << 20) / 16];
    let base: *mut u8 = memory.as_mut_ptr().cast();
    let base = base.map_addr(|addr| addr.next_multiple_of(PAGE));
    let mut cell = TalcCell::new(Pages {
        base,
        limit: unsafe { base.add((1 << 20) - PAGE) },
        heap_end: None,
    });
    {
        let mut lists: std::vec::Vec<_> = (0..10).map(|_| Vec::new_in(&cell)).collect();
        lists.iter_mut().for_each(|list| list.resize(3000, 5_u64));
        assert!(lists.iter().flatten().all(|&n| n == 5));
        assert!(Vec::<u8, _>::new_in(&cell).try_reserve(1 << 21).is_err());
    }
    let end = cell.get_mut().source.heap_end.unwrap().as_ptr();
    assert!(end.addr() - base.addr() <= 2 * PAGE, "the pages came back");
}

/// A coarse binning that is not from the crate.
#[derive(Debug)]
struct Coarse;

impl Binning for Coarse {
    type AvailabilityBitField = u64;

    fn size_to_bin(size: usize) -> u32 {
        by_powers_of_two::<2, 4>(size)
    }
}

/// A fine binning that is not from the crate.
#[derive(Debug)]
struct Fine;

impl Binning for Fine {
    type AvailabilityBitField = TwoLevelBitField<u8, u32, 7>;
    const BIN_COUNT: u32 = 200;

    fn size_to_bin(size: usize) -> u32 {
        by_powers_of_two::<8, 2>(size)
    }
}

#[test]
fn binnings_of_ones_own_allocate() {
    fn fill<B: Binning>() {
        let mut memory = vec![0_u8; 1_000_000];
        let claim = unsafe { Claim::new(memory.as_mut_ptr(), memory.len()) };
        let cell = talc::cell::TalcCell::<Claim, B>::new(claim);
        let lists: std::vec::Vec<_> = (1..100)
            .map(|n| {
                let mut list = Vec::new_in(&cell);
                list.resize(n * 7, n);
                list
            })
            .collect();
        assert!(lists.iter().flatten().all(|&n| n < 100));
        let lock = talc::sync::TalcLock::<spin::Mutex<()>, _, B>::new(Manual);
        assert!(lock.allocate(layout(1, 1)).is_err());
    }
    fill::<Coarse>();
    fill::<Fine>();
}

#[test]
fn bit_fields_find_the_next_bit() {
    fn check<F: BitField>() {
        let mut field = F::ZEROES;
        assert!(field.bit_scan_forward(0) >= F::BITS);
        for bit in [0, 3, F::BITS - 1] {
            field.set_bit(bit);
            assert!(field.read_bit(bit));
        }
        assert_eq!(field.bit_scan_forward(1), 3);
        assert_eq!(field.bit_scan_forward(4), F::BITS - 1);
        field.clear_bit(3);
        assert_eq!(field.bit_scan_forward(1), F::BITS - 1);
    }
    check::<u8>();
    check::<u32>();
    check::<usize>();
    check::<[usize; 3]>();
    check::<TwoLevelBitField<u8, u32, 7>>();
}

#[test]
fn locks_come_from_the_crate() {
    use talc::lock_api::RawMutex;
    let raw = <spin::Mutex<()> as RawMutex>::INIT;
    assert!(RawMutex::try_lock(&raw));
}

#[cfg(feature = "counters")]
#[test]
fn counters_count() {
    use talc::base::Counters;
    let mut memory = vec![0_u8; 100_000];
    let cell = TalcCell::new(unsafe { Claim::new(memory.as_mut_ptr(), memory.len()) });
    assert_eq!(cell.counters().total_freed_bytes(), 0);
    let kept = Box::new_in([0_u8; 1000], &cell);
    drop(Box::new_in([0_u8; 500], &cell));
    let counters: Counters = cell.counters();
    assert_eq!(
        (counters.allocation_count, counters.total_allocation_count),
        (1, 2)
    );
    assert_eq!(
        (counters.allocated_bytes, counters.total_allocated_bytes),
        (1000, 1500)
    );
    assert_eq!(
        (
            counters.heap_count,
            counters.total_heap_count,
            counters.fragment_count
        ),
        (1, 1, 1)
    );
    assert_eq!(
        (
            counters.total_freed_bytes(),
            counters.total_released_bytes()
        ),
        (500, 0)
    );
    assert!(counters.claimed_bytes <= 100_000 && counters.claimed_bytes > 99_900);
    assert_eq!(counters.total_claimed_bytes, counters.claimed_bytes as u64);
    let known = counters.available_bytes + counters.allocated_bytes + counters.overhead_bytes();
    assert_eq!(known, counters.claimed_bytes);
    assert!(!format!("{counters}").is_empty());
    drop(kept);
}
