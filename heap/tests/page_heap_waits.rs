//! `PageHeap`: an allocation waits for memory that another thread has on its way.
#![cfg(not(feature = "hardened"))] // No pages inside a heap go back.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::hooked_lock::{Hook, HookedLock};
use common::window::{PAGE, SpinLock, Tags, Window, arena, layout};
use heap::source::{ArenaSource, DecayInterval, PageHeap, ReleaseGate};

/// How often the allocation that is tested has taken the lock of the heap.
static LOCKS: AtomicUsize = AtomicUsize::new(0);

/// An allocation that takes the lock as often as this is waiting: all that it does before takes the
/// lock less often.
const IS_WAITING: usize = 500;

thread_local!(static IS_TESTED: Cell<bool> = const { Cell::new(false) });

/// Counts how often the allocation that is tested takes the lock, and gives the other thread time
/// when it waits.
struct Count;

impl Hook for Count {
    fn before() {
        if IS_TESTED.get() && LOCKS.fetch_add(1, Relaxed) > IS_WAITING {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn while_held() {
        thread::yield_now();
    }
}

static IS_OPEN: AtomicBool = AtomicBool::new(true);

struct Gate;

impl ReleaseGate for Gate {
    fn is_open() -> bool {
        IS_OPEN.load(Relaxed)
    }
}

type Heap<'a> = PageHeap<'a, HookedLock<Count>, Tags, SpinLock, Gate>;

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

/// The tests share [`LOCKS`].
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the turn of a test. (Another test may have failed in its own.)
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn an_allocation_waits_for_what_another_thread_has_on_its_way() {
    let _turn = turn();
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
        assert!(!was_waiting, "{way:?}: there is none to wait for");
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
                "{way:?}: with a closed gate, an allocation waits"
            );
            assert_ne!(block, 0, "{way:?}: the allocation fails");
            free(heap, block, tested);
        });
        *hook.lock().unwrap() = None;
        free(&heap, upper, layout(PAGE));
    }
}

fn leaked(window: Window) -> (&'static Window, &'static Heap<'static>) {
    let window = &*Box::leak(Box::new(window));
    let arena = &*Box::leak(Box::new(arena(window)));
    // SAFETY: the window's pages are memory, and only this heap uses the arena.
    let heap = Box::leak(Box::new(Heap::new(unsafe { ArenaSource::new(arena) })));
    heap.set_decay_interval(DecayInterval { frees: 0, ticks: 0 });
    (window, heap)
}

/// A block that takes whole pages.
fn pages(count: usize) -> Layout {
    layout(count * PAGE - 64)
}

#[test]
fn what_others_free_during_a_reap_goes_back_before_an_allocation_fails() {
    let _turn = turn();
    let (window, heap) = leaked(Window::new(4096));
    let lower = alloc(heap, pages(16));
    alloc(heap, pages(1));
    let upper = alloc(heap, pages(16));
    alloc(heap, pages(1));
    heap.reap();
    free(heap, lower, pages(16));
    free(heap, upper, pages(16));
    window.state.lock().unwrap().limit = window.mapped() / PAGE + 12;
    let mut calls = 0;
    *window.interrupt.lock().unwrap() = Some(Box::new(move || {
        calls += 1;
        if calls == 2 {
            // The pages of the first gap are back, and those of the second are on their way.
            let blocks = [1, 10, 3].map(|count| alloc(heap, pages(count)));
            assert!(!blocks.contains(&0));
            free(heap, blocks[1], pages(10));
        }
    }));
    assert_ne!(alloc(heap, pages(33)), 0);
}

#[test]
fn an_allocation_waits_once_for_the_code_that_it_has_interrupted() {
    let _turn = turn();
    for way in [Way::Drain, Way::Punch, Way::Grow] {
        let (window, heap) = leaked(Window::new(1024));
        let large = layout(100 * PAGE);
        let [lower, _, top] = [large, layout(PAGE), large].map(|layout| alloc(heap, layout));
        let hook = Box::new(move || assert_eq!(alloc_tested(heap, layout(2000 * PAGE)), 0));
        match way {
            Way::Drain => {
                *window.interrupt.lock().unwrap() = Some(hook);
                free(heap, top, large);
            }
            Way::Punch => {
                *window.interrupt.lock().unwrap() = Some(hook);
                free(heap, lower, large);
                heap.talc().punch();
            }
            Way::Grow => {
                *window.growing.lock().unwrap() = Some(hook);
                alloc(heap, layout(200 * PAGE));
            }
        }
        let locks = LOCKS.load(Relaxed);
        assert!(
            (IS_WAITING..3 * IS_WAITING).contains(&locks),
            "{way:?}: {locks}"
        );
    }
}

#[test]
fn no_allocation_waits_for_a_drain_that_has_panicked() {
    let _turn = turn();
    let (window, heap) = leaked(Window::new(1024));
    let top = alloc(heap, layout(100 * PAGE));
    IS_OPEN.store(false, Relaxed);
    free(heap, top, layout(100 * PAGE));
    IS_OPEN.store(true, Relaxed);
    *window.interrupt.lock().unwrap() = Some(Box::new(|| panic!("a drain panics")));
    let result = catch_unwind(AssertUnwindSafe(|| heap.talc().drain()));
    assert!(result.is_err());
    *window
        .interrupt
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = None;
    assert_eq!(alloc_tested(heap, layout(2000 * PAGE)), 0);
    assert!(LOCKS.load(Relaxed) < IS_WAITING);
}

/// Another thread gives back a gap's pages. The block beside it is freed meanwhile, and all pages
/// are to go back.
#[test]
fn a_punch_waits_for_a_hole_beside_a_gap() {
    let _turn = turn();
    let (window, heap) = leaked(Window::new(1024));
    let blocks = [100, 50, 1].map(|count| alloc(heap, pages(count)));
    heap.reap();
    free(heap, blocks[0], pages(100));
    let (begun, begin) = mpsc::channel();
    let begun = Mutex::new(Some(begun));
    *window.interrupt.lock().unwrap() = Some(Box::new(move || {
        if let Some(begun) = begun.lock().unwrap().take() {
            begun.send(()).expect("the test waits");
            // A punch that does not wait takes the lock less often.
            while LOCKS.load(Relaxed) < IS_WAITING + 10 {
                thread::yield_now();
            }
        }
    }));
    thread::scope(|scope| {
        LOCKS.store(0, Relaxed);
        scope.spawn(|| heap.talc().punch());
        begin.recv().expect("the thread begins");
        free(heap, blocks[1], pages(50));
        LOCKS.store(IS_WAITING, Relaxed);
        IS_TESTED.set(true);
        let punched = heap.talc().punch();
        IS_TESTED.set(false);
        LOCKS.store(IS_WAITING + 10, Relaxed);
        assert!(punched > 40 * PAGE, "{punched} bytes");
    });
}
