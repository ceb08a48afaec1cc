//! Safe code that was once unsound: it is refused, or does no harm.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
#[cfg(unix)]
use std::{env, process};

use allocator_api2::alloc::{AllocError, Allocator};
use common::window::{Heap, PAGE, PageArena, Window, alloc, arena, free, heap, layout, settled};
use heap::source::{ArenaSource, DrainError};
use heap::talc::base::Talc;
use heap::talc::base::binning::Binning;
use heap::talc::source::{AllocatorSource, Source};
use heap::talc::{TalcCell, TalcLock};
use heap::vmem::{AllocPolicy, Error};

/// An allocator that forwards to the one in a thread-local variable.
#[derive(Debug, Clone, Copy)]
struct Indirect(&'static std::thread::LocalKey<Cell<Option<&'static dyn Allocator>>>);

thread_local! {
    static BACKING: Cell<Option<&'static dyn Allocator>> = const { Cell::new(None) };
}

// SAFETY: the blocks are those of the allocator in the variable, which is set once.
unsafe impl Allocator for Indirect {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.0.get().ok_or(AllocError)?.allocate(layout)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches for block and layout.
        unsafe { self.0.get().unwrap().deallocate(block, layout) }
    }
}

#[test]
#[should_panic = "a source uses the `TalcCell` that it is in"]
fn a_cell_that_is_made_its_own_source_panics() {
    let cell = Box::leak(Box::new(TalcCell::new(AllocatorSource::new(Indirect(
        &BACKING,
    )))));
    BACKING.set(Some(cell));
    let _ = cell.allocate(layout(100));
}

/// Panics when it is asked for memory, and when the top of a heap is free.
#[derive(Debug)]
struct Panicking;

// SAFETY: `acquire` grants nothing, and `resize` does not return.
unsafe impl Source for Panicking {
    const TRACK_HEAP_END: bool = true;

    fn acquire<B: Binning>(_: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        panic!("no memory")
    }

    unsafe fn resize(&mut self, _: *mut u8, _: *mut u8, _: bool) -> *mut u8 {
        panic!("no change")
    }
}

/// What makes a `GlobalAlloc` unwind: a source that panics, and the hook of `hardened` that does so
/// unless another is set.
const UNWINDING: &[&str] = if cfg!(feature = "hardened") {
    &[
        "alloc",
        "alloc_zeroed",
        "realloc",
        "dealloc",
        "realloc misused",
        "dealloc misused",
    ]
} else {
    &["alloc", "alloc_zeroed", "realloc", "dealloc"]
};

/// Calls that method of a `GlobalAlloc`. Returns whether it has unwound.
fn unwinds(method: &str) -> bool {
    let memory = common::memory::Memory::new(1 << 14);
    let lock = TalcLock::<spin::Mutex<()>, _>::new(Panicking);
    let (right, wrong, large) = (layout(100), layout(90), layout(1 << 15));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the memory outlives the lock. Sizes are not zero, and the block is live until the
        // only call that may free it. The detector is there for the layouts that are wrong.
        unsafe {
            lock.lock().claim(memory.base(), memory.size()).unwrap();
            let block = lock.alloc(right);
            assert!(!block.is_null());
            println!("begins: {method}");
            match method {
                "alloc" => lock.alloc(large),
                "alloc_zeroed" => lock.alloc_zeroed(large),
                "realloc" => lock.realloc(block, right, large.size()),
                "realloc misused" => lock.realloc(block, wrong, 95),
                "dealloc" => {
                    lock.dealloc(block, right);
                    block
                }
                "dealloc misused" => {
                    lock.dealloc(block, wrong);
                    block
                }
                _ => unreachable!("no such method: {method}"),
            }
        }
    }));
    caught.is_err()
}

/// Each in a process of its own, in which `HEAP_DIES` says which.
#[cfg(unix)]
#[test]
fn a_panic_in_a_global_allocator_aborts() {
    use std::os::unix::process::ExitStatusExt;

    const SIGABRT: i32 = 6;
    if let Some(method) = env::var_os("HEAP_DIES") {
        println!("unwinds: {}", unwinds(method.to_str().unwrap()));
        process::exit(0);
    }
    for &method in UNWINDING {
        let output = process::Command::new(env::current_exe().unwrap())
            .args([
                "a_panic_in_a_global_allocator_aborts",
                "--exact",
                "--nocapture",
            ])
            .env("HEAP_DIES", method)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(output.status.signal(), Some(SIGABRT), "{method}: {text}");
        assert!(text.contains(&format!("begins: {method}")), "{text}");
        assert!(text.contains("must not unwind"), "{text}");
    }
}

/// Returns a window, an arena and a heap that live forever, so that hooks can use them.
fn leaked() -> (
    &'static Window,
    &'static PageArena<'static>,
    &'static Heap<'static>,
) {
    let window = &*Box::leak(Box::new(Window::new(4096)));
    let arena = &*Box::leak(Box::new(arena(window)));
    (window, arena, Box::leak(Box::new(heap(arena))))
}

#[test]
fn an_interrupt_in_a_drain_drains_the_rest_of_the_queue() {
    let (window, arena, heap) = leaked();
    // Three heaps, as the addresses above are taken.
    let blocks: Vec<_> = (0..3)
        .map(|_| {
            let block = alloc(heap, layout(1 << 20));
            arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
            block
        })
        .collect();
    static DRAINED: AtomicUsize = AtomicUsize::new(0);
    static ENTERED: AtomicBool = AtomicBool::new(false);
    *window.interrupt.lock().unwrap() = Some(Box::new(move || {
        if !ENTERED.swap(true, SeqCst) {
            DRAINED.store(heap.drain().unwrap(), SeqCst);
        }
    }));
    for block in &blocks[1..] {
        free(heap, *block, layout(1 << 20));
    }
    let drained = heap.drain().unwrap();
    assert!(
        DRAINED.load(SeqCst) > 1 << 20,
        "the handler drained one heap"
    );
    assert!(
        drained > 1 << 20,
        "the interrupted drain gave back the other"
    );
    *window.interrupt.lock().unwrap() = None;
    assert_eq!(heap.lock().check(), Ok(()));
    assert_eq!(heap.lock().arena_heaps().count(), 1);
}

#[test]
fn a_refused_range_does_not_keep_others_in_the_queue() {
    let (window, arena, heap) = leaked();
    let mut blocks = Vec::new();
    for _ in 0..3 {
        blocks.push(alloc(heap, layout(1 << 20)));
        arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
    }
    let last = heap.lock().arena_heaps().next().unwrap();
    let busy = last.base.addr().get();
    // While one heap's segment is being grown, which its arena marks as busy, all heaps are
    // drained.
    static RESULT: std::sync::Mutex<Option<Result<usize, DrainError>>> =
        std::sync::Mutex::new(None);
    // Its heap is queued last, and is the first to be given back.
    for block in blocks.drain(1..) {
        free(heap, block, layout(1 << 20));
    }
    *window.growing.lock().unwrap() = Some(Box::new(move || {
        let mut result = RESULT.lock().unwrap();
        if result.is_none() {
            *result = Some(heap.drain());
        }
    }));
    assert!(
        arena.resize(busy, last.size + PAGE).is_err(),
        "the address above is taken"
    );
    *window.growing.lock().unwrap() = None;
    let result = RESULT.lock().unwrap().take();
    let Some(Err(DrainError { drained, error })) = result else {
        panic!("{result:?}");
    };
    assert!(drained > 1 << 20, "the other heap went");
    assert_eq!(error, Error::Busy { base: busy });
    assert!(heap.lock().source.has_pending_releases());
    heap.drain().unwrap();
    assert_eq!(heap.lock().check(), Ok(()));
}

/// How many words of the first heap's record lead to the stack near `here`.
fn words_that_lead_to(here: usize, heap: &Heap<'_>) -> usize {
    let record = heap
        .lock()
        .arena_heaps()
        .next()
        .unwrap()
        .end
        .cast::<usize>();
    // All words except its links to other records and its checksum.
    let words = (0..6).map(|word| {
        // SAFETY: the record lies there, and nothing writes to it meanwhile.
        unsafe { record.add(word).read() }
    });
    words.filter(|word| word.abs_diff(here) < 1 << 16).count()
}

#[test]
fn a_drain_that_unwinds_leaves_no_link_to_its_stack() {
    let (window, _, heap) = leaked();
    let local = 0;
    let here = (&raw const local).addr();
    static LINKS: AtomicUsize = AtomicUsize::new(0);
    alloc(heap, layout(1 << 20));
    let high = alloc(heap, layout(1 << 20));
    *window.interrupt.lock().unwrap() = Some(Box::new(move || {
        LINKS.store(words_that_lead_to(here, heap), SeqCst);
        panic!("in the source");
    }));
    free(heap, high, layout(1 << 20));
    assert_eq!(words_that_lead_to(here, heap), 0);
    let drain = || heap.drain();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(drain)).is_err());
    assert_eq!(LINKS.load(SeqCst), 1, "while it is being drained");
    assert_eq!(words_that_lead_to(here, heap), 0, "when the drain is gone");
}

#[test]
fn check_finds_nothing_wrong_after_an_arena_has_panicked() {
    // A heap that shrinks, one that is deleted, and one that grows.
    for case in 0..3 {
        let (window, arena, heap) = leaked();
        let first = alloc(heap, layout(100));
        assert!(!first.is_null());
        let hook = if case < 2 {
            &window.interrupt
        } else {
            &window.growing
        };
        *hook.lock().unwrap() = Some(Box::new(|| panic!("in the source")));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if case == 1 {
                arena.alloc(PAGE, AllocPolicy::InstantFit).unwrap();
            }
            if case < 2 {
                let block = alloc(heap, layout(1 << 20));
                free(heap, block, layout(1 << 20));
                heap.drain().map(drop)
            } else {
                (&heap).allocate(layout(1 << 20)).map(drop).unwrap();
                Ok(())
            }
        }));
        assert!(caught.is_err(), "{case}");
        assert_eq!(heap.lock().check(), Ok(()), "{case}");
        assert_eq!(arena.check(), Ok(()), "{case}");
        assert_eq!(heap.lock().arena_heaps().count(), 1, "{case}");
    }
}

#[test]
fn a_drain_whose_arena_panics_leaves_a_usable_heap() {
    let (window, _, heap) = leaked();
    let low = alloc(heap, layout(1 << 20));
    let high = alloc(heap, layout(1 << 20));
    *window.interrupt.lock().unwrap() = Some(Box::new(|| panic!("in the source")));
    free(heap, high, layout(1 << 20));
    let drain = || heap.drain();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(drain)).is_err());
    window.interrupt.clear_poison();
    *window.interrupt.lock().unwrap_or_else(|it| it.into_inner()) = None;
    // The end of the heap moves. The record does not point to the stack of the drain that unwound.
    heap.lock().trim();
    assert_eq!(heap.drain(), Ok(0));
    // SAFETY: the block is live.
    unsafe { low.write_bytes(7, 1 << 20) };
    for _ in 0..100 {
        let block = alloc(heap, layout(30_000));
        assert!(!block.is_null());
        // SAFETY: the block is live.
        unsafe { block.write_bytes(1, 30_000) };
    }
    // SAFETY: the block is live.
    let bytes = unsafe { std::slice::from_raw_parts(low, 1 << 20) };
    assert!(bytes.iter().all(|&byte| byte == 7));
}

#[test]
fn check_finds_a_record_that_disagrees() {
    let window = Window::new(1024);
    let arena = arena(&window);
    let heap = heap(&arena);
    let block = alloc(&heap, layout(100_000));
    assert_eq!(heap.lock().check(), Ok(()));
    let record: *mut usize = heap
        .lock()
        .arena_heaps()
        .next()
        .unwrap()
        .end
        .as_ptr()
        .cast();
    // All words except the links of the queue, which the record is not in.
    for word in 0..8 {
        // SAFETY: the record lies there.
        let before = unsafe { record.add(word).read() };
        // (The state is one of them: 1 says that the record is queued.)
        for damage in [before ^ PAGE, before.wrapping_add(8), !before, before ^ 1] {
            // SAFETY: the record lies there, and the word is restored.
            unsafe { record.add(word).write(damage) };
            let found = heap.lock().check();
            // SAFETY: the record lies there, and the word is restored.
            unsafe { record.add(word).write(before) };
            assert!(found.is_err(), "word {word}: {before:#x} as {damage:#x}");
        }
    }
    free(&heap, block, layout(100_000));
    settled(&window, &arena, &heap);
}

#[test]
fn a_source_gives_access_to_a_view_of_the_arena_only() {
    let window = Window::new(64);
    let arena = arena(&window);
    let heap = heap(&arena);
    let block = alloc(&heap, layout(100));
    let view = heap.lock().source.arena().unwrap();
    assert_eq!(view.allocated_space(), heap.lock().source.claimed());
    free(&heap, block, layout(100));
    assert!(
        ArenaSource::<'_, common::window::Tags, common::window::SpinLock>::detached()
            .arena()
            .is_none()
    );
}
