//! The allocator for one thread.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::fmt::Write;
use std::ptr::{NonNull, null_mut};

use allocator_api2::vec::Vec;
use common::memory::Memory;
use common::random::Random;
use common::shadow::Shadow;
use heap::talc::cell::TalcSyncCell;
use heap::talc::source::{Claim, Manual};
use heap::talc::{DefaultBinning, TalcCell, TalcLock};

fn claim(memory: &Memory) -> Claim {
    // SAFETY: in each test the memory outlives the allocator.
    unsafe { Claim::new(memory.base(), memory.size()) }
}

#[test]
fn contents_survive_reallocation() {
    let memory = Memory::new(1 << 17);
    let cell = TalcCell::new(claim(&memory));
    let mut random = Random::new(5);
    let mut shadow = Shadow::new();
    for _ in 0..50_000 {
        // SAFETY: sizes are not zero, and blocks are live.
        unsafe {
            match (random.below(3), shadow.take(&mut random)) {
                (0, Some(block)) => cell.dealloc(block.ptr, block.layout),
                (1, Some(block)) => {
                    let new_size = random.size(11);
                    let moved = cell.realloc(block.ptr, block.layout, new_size);
                    if moved.is_null() {
                        shadow.put_back(block, block.ptr, block.layout.size());
                    } else {
                        shadow.put_back(block, moved, new_size);
                    }
                }
                (_, block) => {
                    if let Some(block) = block {
                        shadow.put_back(block, block.ptr, block.layout.size());
                    }
                    let align = 1 << random.below(8);
                    let layout = Layout::from_size_align(random.size(10), align).unwrap();
                    let ptr = cell.alloc(layout);
                    if !ptr.is_null() {
                        shadow.insert(ptr, layout);
                    }
                }
            }
        }
    }
    let talc = cell.into_inner();
    talc.check().unwrap();
    shadow.assert_all_intact();
}

#[test]
fn heaps_are_claimed_extended_and_truncated_through_a_shared_reference() {
    let memory = Memory::new(1 << 16);
    let cell = TalcCell::new(Manual);
    assert!(!cell.is_metadata_established());
    // SAFETY: only this test uses the memory, and each end is current.
    unsafe {
        let half = cell.claim(memory.base(), 1 << 15).unwrap();
        let full = cell.extend(half, memory.end());
        assert_eq!(full.as_ptr(), memory.end());
        let kept = cell.truncate(full, null_mut()).expect("metadata stays");
        assert_eq!(cell.reserved(kept).up_to, kept);
        let again = cell.resize(kept, memory.end());
        assert_eq!(again, NonNull::new(memory.end()));
    }
    assert!(cell.is_metadata_established());
    cell.check().expect("no invariant is broken");
    #[cfg(feature = "counters")]
    assert_eq!(cell.counters().heap_count, 1);
}

#[test]
fn a_source_is_replaced_and_cloned_in_place() {
    let memory = Memory::new(1 << 16);
    let mut cell = TalcCell::new(claim(&memory));
    let old = cell.replace_source(Claim::standby());
    assert!(old.is_ready() && !cell.get_mut().source.is_ready());
    assert!(Vec::<u8, _>::new_in(&cell).try_reserve(1).is_err());
    cell.replace_source(old);
    assert!(Vec::<u8, _>::new_in(&cell).try_reserve(1).is_ok());
    assert_eq!(TalcCell::new(Manual).clone_source(), Manual);
}

/// A writer that allocates from the allocator that is formatted.
struct Page<A: allocator_api2::alloc::Allocator>(Vec<u8, A>);

impl<A: allocator_api2::alloc::Allocator> Write for Page<A> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        self.0.shrink_to_fit();
        Ok(())
    }
}

#[test]
fn formatting_a_cell_may_allocate_from_it() {
    let memory = Memory::new(1 << 16);
    let cell = TalcCell::new(claim(&memory));
    let mut page = Page(Vec::new_in(&cell));
    write!(page, "{cell:?}").unwrap();
    assert!(page.0.starts_with(b"TalcCell(Summary {"));

    let memory = Memory::new(1 << 16);
    let lock = TalcLock::<spin::Mutex<()>, _>::new(claim(&memory));
    let mut page = Page(Vec::new_in(&lock));
    write!(page, "{lock:#?}").unwrap();
    assert!(page.0.starts_with(b"TalcLock(\n"));
}

#[test]
fn a_sync_cell_is_a_global_allocator_without_a_lock() {
    static HEAP: TalcSyncCell<Claim, DefaultBinning> = {
        static mut MEMORY: [u8; 20_000] = [0; 20_000];
        // SAFETY: only the heap uses `MEMORY`, and only this test uses the heap.
        unsafe { TalcSyncCell::new(TalcCell::new(Claim::array(&raw mut MEMORY))) }
    };
    // SAFETY: sizes are not zero, and the block is freed once.
    unsafe {
        let layout = Layout::new::<[u64; 100]>();
        let block = HEAP.alloc_zeroed(layout);
        let block = HEAP.realloc(block, layout, 1600);
        assert_eq!(std::slice::from_raw_parts(block, 800), [0; 800]);
        HEAP.dealloc(block, Layout::from_size_align(1600, 8).unwrap());
    }
}

#[test]
fn collections_allocate_from_a_sync_cell() {
    let memory = Memory::new(1 << 16);
    // SAFETY: the threads use the cell one after the other.
    let cell = unsafe { TalcSyncCell::<_, DefaultBinning>::new(TalcCell::new(claim(&memory))) };
    let numbers = std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            let mut numbers = Vec::new_in(&cell);
            numbers.extend(0..1000);
            numbers
        });
        filler.join().expect("it does not panic")
    });
    assert!((memory.base()..memory.end()).contains(&numbers.as_ptr().cast_mut().cast()));
    assert!(numbers.into_iter().eq(0..1000));
}

#[test]
#[should_panic = "not WebAssembly"]
fn new_wasm_panics_on_targets_with_threads() {
    TalcSyncCell::<_, DefaultBinning>::new_wasm(Manual);
}

mod misuse {
    use super::*;
    use heap::talc::base::{Talc, binning::Binning};
    use heap::talc::source::Source;

    /// A source that uses the cell that it is in, which the trait forbids.
    #[derive(Debug)]
    struct Careless(*const TalcCell<Careless>);

    // SAFETY: the source breaks the contract on purpose. The cell panics before any harm is done.
    unsafe impl Source for Careless {
        fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
            // SAFETY: the cell outlives the call.
            unsafe { (*talc.source.0).is_metadata_established() };
            Err(())
        }
    }

    #[test]
    #[should_panic = "a source uses the `TalcCell` that it is in"]
    fn a_source_that_uses_its_own_cell_panics() {
        let mut cell = TalcCell::new(Careless(std::ptr::null()));
        cell.get_mut().source.0 = &raw const cell;
        Vec::<u8, _>::with_capacity_in(1, &cell);
    }
}
