//! Others come between the steps of one call on a heap over an `ArenaSource`: whenever the call is
//! about to take the lock of the heap.
#![cfg(not(feature = "hardened"))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::hooked_lock::{Hook, HookedLock};
use common::window::{PAGE, PageArena, SpinLock, Tags, Window, arena, layout};
use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::talc::base::CHUNK_OVERHEAD;
use heap::vmem::AllocPolicy;

/// What others do before the lock is taken. It gets the number of the lock, from 1.
type Others = Box<dyn FnMut(usize)>;

thread_local! {
    static OTHERS: RefCell<Option<Others>> = const { RefCell::new(None) };
    static LOCKS: Cell<usize> = const { Cell::new(0) };
}

/// Lets others come before each call that takes the lock, except for their own.
struct Contend;

impl Hook for Contend {
    fn before() {
        if let Some(mut others) = OTHERS.take() {
            LOCKS.set(LOCKS.get() + 1);
            others(LOCKS.get());
            OTHERS.set(Some(others));
        }
    }

    fn while_held() {
        panic!("the lock is held");
    }
}

type Heap = TalcLock<HookedLock<Contend>, ArenaSource<'static, Tags, SpinLock>>;

/// More than half of what is free in a heap of one step of growth.
const BLOCK: Layout = match Layout::from_size_align(12 * PAGE, 8) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

fn leaked(pages: usize) -> (&'static Window, &'static PageArena<'static>, &'static Heap) {
    let window = &*Box::leak(Box::new(Window::filled_with(pages, 0)));
    let arena = &*Box::leak(Box::new(arena(window)));
    // SAFETY: only this heap uses the pages, which are zero while they are vacant.
    let source = unsafe { ArenaSource::new(arena).of_zeroed_memory() };
    (window, arena, Box::leak(Box::new(Heap::new(source))))
}

fn alloc(heap: &Heap, layout: Layout) -> *mut u8 {
    // SAFETY: the tests request no zero-sized blocks.
    unsafe { heap.alloc(layout) }
}

fn free(heap: &Heap, block: *mut u8, layout: Layout) {
    // SAFETY: the tests free each block once, with its layout.
    unsafe { heap.dealloc(block, layout) };
}

/// Runs `work` while `others` come before each lock. Returns the result, and the number of locks.
fn contended<T>(others: impl FnMut(usize) + 'static, work: impl FnOnce() -> T) -> (T, usize) {
    LOCKS.set(0);
    OTHERS.set(Some(Box::new(others)));
    let result = work();
    OTHERS.set(None);
    (result, LOCKS.get())
}

/// Others have the only gap in which [`BLOCK`] fits, except at these locks.
fn having_the_gap(heap: &'static Heap, except: &'static [usize]) -> impl FnMut(usize) {
    let mut held = None;
    move |lock| {
        assert_eq!(heap.lock().check(), Ok(()));
        if !except.contains(&lock) {
            // SAFETY: the size is not zero.
            held = held.or_else(|| unsafe { heap.lock().try_allocate(BLOCK) });
        } else if let Some(block) = held.take() {
            free(heap, block.as_ptr(), BLOCK);
        }
    }
}

/// Makes a heap whose only large gap is at its top.
fn with_one_gap() -> (&'static Window, &'static PageArena<'static>, &'static Heap) {
    let (window, arena, heap) = leaked(1024);
    assert!(!alloc(heap, layout(100)).is_null());
    (window, arena, heap)
}

/// Allocates [`BLOCK`] while the heap grows, and others have the gap at its top except at these
/// locks. Returns the number of heaps afterwards.
fn allocate_while_the_heap_grows(except: &'static [usize]) -> usize {
    let (window, _, heap) = with_one_gap();
    let heaps = Arc::new(AtomicUsize::new(0));
    let count = heaps.clone();
    *window.growing.lock().unwrap() = Some(Box::new(move || {
        if count.load(Relaxed) == 0 {
            let (block, _) = contended(having_the_gap(heap, except), || alloc(heap, BLOCK));
            assert!(!block.is_null(), "the arena has plenty");
            count.store(heap.lock().arena_heaps().count(), Relaxed);
        }
    }));
    assert!(!alloc(heap, layout(50 * PAGE)).is_null());
    *window.growing.lock().unwrap() = None;
    assert_eq!(heap.lock().check(), Ok(()));
    heaps.load(Relaxed)
}

/// Allocates [`BLOCK`] from a heap that cannot grow, while others have the gap at its top except at
/// these locks. Returns the number of heaps afterwards.
fn allocate_where_the_heap_cannot_grow(except: &'static [usize]) -> usize {
    let (_, arena, heap) = with_one_gap();
    arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    let (block, _) = contended(having_the_gap(heap, except), || alloc(heap, BLOCK));
    assert!(!block.is_null(), "the arena has plenty");
    assert_eq!(heap.lock().check(), Ok(()));
    heap.lock().arena_heaps().count()
}

#[test]
fn a_gap_that_others_take_twice_does_not_fail_an_allocation() {
    // The locks: 1 search, 2 its beginning is noted, 3 growth, 4 all gaps, 5 growth …
    assert_eq!(allocate_while_the_heap_grows(&[3, 5]), 2);
    // … 3 and 4 growth, 5 all gaps, 6 and 7 growth, 8 and 9 another heap.
    assert_eq!(allocate_where_the_heap_cannot_grow(&[3, 6]), 2);
}

#[test]
fn a_gap_that_others_leave_is_preferred_to_another_heap() {
    assert_eq!(allocate_while_the_heap_grows(&[3, 4]), 1);
    assert_eq!(allocate_where_the_heap_cannot_grow(&[3, 5]), 1);
}

#[test]
fn others_do_not_come_between_growth_and_the_search() {
    let (_, _, heap) = leaked(4096);
    let take_all = move |_| {
        // SAFETY: the size is not zero.
        while unsafe { heap.lock().try_allocate(BLOCK) }.is_some() {}
    };
    let (block, _) = contended(take_all, || alloc(heap, BLOCK));
    assert!(!block.is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 1);
}

#[test]
fn a_heap_that_has_not_grown_yet_is_in_order() {
    let (_, _, heap) = with_one_gap();
    // Before the last lock the segment is larger than the heap.
    let check = move |_| assert_eq!(heap.lock().check(), Ok(()));
    let (block, _) = contended(check, || alloc(heap, layout(50 * PAGE)));
    assert!(!block.is_null());
    assert_eq!(heap.lock().arena_heaps().count(), 1);
}

#[test]
fn memory_that_others_restored_is_not_taken_for_zero() {
    let block = layout(25 * PAGE);
    let mut last = 0;
    for at in 1.. {
        let (window, _, heap) = leaked(1024);
        let blocks: Vec<_> = (0..3).map(|_| alloc(heap, block)).collect();
        free(heap, blocks[1], block);
        assert!(heap.punch() > 0);
        // Nothing is to be had, until others come, restore the hole and write to it.
        window.fail_after(0);
        let others = move |lock| {
            if lock == at {
                window.fail_after(usize::MAX);
                let other = alloc(heap, block);
                // SAFETY: the block is live, and has as many bytes.
                unsafe { other.write_bytes(0xaa, block.size()) };
                free(heap, other, block);
            }
        };
        // SAFETY: the size is not zero.
        let (zeroed, locks) = contended(others, || unsafe { heap.alloc_zeroed(block) });
        if locks < at {
            assert!(zeroed.is_null(), "others did not come");
            break;
        }
        last = at;
        assert!(!zeroed.is_null(), "{at}");
        // SAFETY: the block is live, and all of it is to be zero.
        let bytes = unsafe { std::slice::from_raw_parts(zeroed, block.size()) };
        assert!(bytes.iter().all(|&byte| byte == 0), "{at} of {locks}");
    }
    assert!(last > 4, "{last}");
}

#[test]
fn many_holes_at_a_top_are_given_up_under_many_locks() {
    let (_, _, heap) = leaked(1024);
    // With its tag, each block takes a page.
    let page = Layout::from_size_align(PAGE - CHUNK_OVERHEAD, PAGE).unwrap();
    let blocks: Vec<_> = (0..60).map(|_| alloc(heap, page)).collect();
    for parity in [0, 1] {
        for &block in blocks.iter().skip(2 + parity).step_by(2) {
            free(heap, block, page);
        }
        if parity == 0 {
            assert_eq!(heap.punch(), 29 * PAGE);
        }
    }
    let ((), locks) = contended(|_| {}, || heap.trim());
    assert!(heap.lock().arena_holes().count() <= 1);
    // Eight holes each, and one for the hysteresis.
    assert_eq!(locks, 28 / 8 + 1 + 1);
}
