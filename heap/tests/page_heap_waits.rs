//! `PageHeap`: an allocation waits for memory that another thread has on its way.
#![cfg(not(feature = "hardened"))] // No pages inside a heap go back.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::window::{PAGE, SpinLock, Tags, Window, arena, layout};
use heap::source::{ArenaSource, DecayInterval, PageHeap, ReleaseGate};

/// How often the allocation that is tested has taken the lock of the heap.
static LOCKS: AtomicUsize = AtomicUsize::new(0);

/// An allocation that takes the lock as often as this is waiting: all that it does before takes the
/// lock less often.
const IS_WAITING: usize = 500;

thread_local!(static IS_TESTED: Cell<bool> = const { Cell::new(false) });

/// A lock that counts how often the allocation that is tested takes it, and that gives the other
/// thread time when it waits.
struct CountingLock(spin::Mutex<()>);

// SAFETY: the spin lock excludes all others.
unsafe impl lock_api::RawMutex for CountingLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "`lock_api` wants it so"
    )]
    const INIT: Self = Self(spin::Mutex::new(()));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        if IS_TESTED.get() && LOCKS.fetch_add(1, Relaxed) > IS_WAITING {
            thread::sleep(Duration::from_millis(1));
        }
        while !self.try_lock() {
            thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        lock_api::RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        unsafe { lock_api::RawMutex::unlock(&self.0) };
    }
}

static IS_OPEN: AtomicBool = AtomicBool::new(true);

struct Gate;

impl ReleaseGate for Gate {
    fn is_open() -> bool {
        IS_OPEN.load(Relaxed)
    }
}

type Heap<'a> = PageHeap<'a, CountingLock, Tags, SpinLock, Gate>;

fn alloc(heap: &Heap<'_>, layout: Layout) -> usize {
    // SAFETY: the tests use no zero-sized layouts.
    unsafe { heap.alloc(layout) }.expose_provenance()
}

fn free(heap: &Heap<'_>, block: usize, layout: Layout) {
    // SAFETY: the tests free each block once, with its layout.
    unsafe { heap.dealloc(std::ptr::with_exposed_provenance_mut(block), layout) }
}

/// Allocates in the way that is tested.
fn alloc_tested(heap: &Heap<'_>, layout: Layout) -> usize {
    LOCKS.store(0, Relaxed);
    IS_TESTED.set(true);
    let block = alloc(heap, layout);
    IS_TESTED.set(false);
    block
}

/// What the other thread is doing.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It frees the block at the top of the heap, whose pages go back.
    Drain,
    /// It gives back the pages between two blocks.
    Punch,
    /// It allocates, and has got more pages than it needs: all that are left.
    Grow,
}

#[test]
fn an_allocation_waits_for_what_another_thread_has_on_its_way() {
    for way in [Way::Drain, Way::Punch, Way::Grow] {
        let window = Window::new(1024);
        let arena = arena(&window);
        // SAFETY: the window's pages are memory, and only this heap uses the arena.
        let heap = Heap::new(unsafe { ArenaSource::new(&arena) });
        heap.set_decay_interval(DecayInterval { frees: 0, ticks: 0 });
        let large = layout(100 * PAGE);
        let lower = alloc(&heap, large);
        let upper = alloc(&heap, layout(PAGE));
        assert_eq!(alloc_tested(&heap, layout(2000 * PAGE)), 0);
        let was_waiting = LOCKS.load(Relaxed) >= IS_WAITING;
        assert!(!was_waiting, "{way:?}: nobody is to be waited for");
        if matches!(way, Way::Punch) {
            free(&heap, lower, large);
        }
        let top = matches!(way, Way::Drain).then(|| alloc(&heap, large));
        let tested = layout(match way {
            Way::Drain => 80 * PAGE,
            Way::Punch => 120 * PAGE,
            Way::Grow => 5 * PAGE,
        });
        // Nothing but what is on its way is large enough.
        window.fail_after(0);
        while matches!(way, Way::Grow) && alloc(&heap, tested) != 0 {}
        window.fail_after(usize::MAX);
        window.state.lock().unwrap().limit = window.mapped() / PAGE
            + match way {
                Way::Drain => 0,
                Way::Punch => 30,
                Way::Grow => 16,
            };

        let (begun, begin) = mpsc::channel();
        let begun = Mutex::new(Some(begun));
        let wait = move || {
            // The first call only.
            if let Some(begun) = begun.lock().unwrap().take() {
                begun.send(()).expect("the test waits");
                while LOCKS.load(Relaxed) < IS_WAITING {
                    thread::yield_now();
                }
            }
        };
        let hook = match way {
            Way::Drain | Way::Punch => &window.interrupt,
            Way::Grow => &window.grown,
        };
        *hook.lock().unwrap() = Some(Box::new(wait));
        thread::scope(|scope| {
            LOCKS.store(0, Relaxed);
            let heap = &heap;
            scope.spawn(move || match way {
                Way::Drain => free(heap, top.expect("there is a block"), large),
                Way::Punch => assert!(heap.talc().punch() > 90 * PAGE),
                Way::Grow => assert_ne!(alloc(heap, tested), 0),
            });
            begin.recv().expect("the thread begins");
            IS_OPEN.store(false, Relaxed);
            let refused = alloc_tested(heap, tested);
            IS_OPEN.store(true, Relaxed);
            let was_waiting = LOCKS.load(Relaxed) >= IS_WAITING;
            let block = alloc_tested(heap, tested);
            LOCKS.store(IS_WAITING, Relaxed);
            assert!(
                refused == 0 && !was_waiting,
                "{way:?}: with a closed gate, nobody waits"
            );
            assert_ne!(block, 0, "{way:?}: the allocation fails");
            free(heap, block, tested);
        });
        *hook.lock().unwrap() = None;
        free(&heap, upper, layout(PAGE));
    }
}
