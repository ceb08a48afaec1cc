//! The whole stack over real memory, for random programs of all its operations.
//!
//! ```text
//!     Actor ─ blocks ─> slabs? ─> TalcLock<ArenaSource> ┐
//!       │                                               ├─> Arena ─> Window: pages that are mapped
//!       ├── Tenant: pages ──────────────────────────────┘      └───> Supply   while they are lent
//!       └── interrupts the calls of window and supply, which are refused at random: Injection
//! ```
//!
//! Each step of a program does one operation with its own seed. After each step the checks of all
//! layers run, their states are compared, and no unmapped page may have been accessed.
//! [`Situations`] counts the situations that the programs reach.
#![allow(dead_code, reason = "each test uses a part of it")]

mod actor;
mod holes;
mod injection;
mod interrupt;
mod observe;
mod page_faults;
mod situations;
mod slabs;
mod supply;
mod tenant;
mod verify;
mod window;
mod yielding;

use std::alloc::GlobalAlloc;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::{Arena, LockApi};

pub(crate) use self::actor::Actor;
pub(crate) use self::situations::Situations;
use self::slabs::Slabs;
use self::supply::Supply;
use self::window::{PAGE, Properties, Window};
use self::yielding::YieldingMutex;
use crate::common::programs::{Program, context, enter};
use crate::common::random::Choices;

pub(crate) type PageArena<'a> = Arena<'a, 'a, &'a Supply<'a>, LockApi<YieldingMutex>>;
pub(crate) type Source<'a> = ArenaSource<'a, &'a Supply<'a>, LockApi<YieldingMutex>>;
pub(crate) type Heap<'a> = TalcLock<YieldingMutex, Source<'a>>;

/// The situations that the programs of this process reached.
pub(crate) static SITUATIONS: Situations = Situations::new();
/// The steps and interrupts that the programs of this process made.
pub(crate) static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// All layers of one program.
pub(crate) struct Stack<'s, 'a> {
    window: &'s Window,
    arena: &'s PageArena<'a>,
    heap: &'s Heap<'a>,
    /// What blocks come from, in one of three programs.
    slabs: Option<Slabs<'s, 'a>>,
    /// Whether only one thread uses the stack, so that the effect of one operation can be observed.
    alone: bool,
    /// Sizes that are requested often, so that many holes nearly fit.
    usual: [usize; 3],
}

impl Stack<'_, '_> {
    /// Returns what blocks come from.
    fn allocator(&self) -> &dyn GlobalAlloc {
        match &self.slabs {
            Some(slabs) => slabs,
            None => self.heap,
        }
    }
}

/// Runs a program of one thread, whose steps `steps` makes.
pub(crate) fn run<C: Choices>(set_up: &mut C, steps: impl FnOnce(&Actor<'_, '_>, &mut C)) {
    with_stack(set_up, true, |stack, set_up| {
        let mut actors = [Actor::new(stack)];
        steps(&actors[0], set_up);
        verify::finish(stack, &mut actors, set_up)
    });
}

/// Runs a program whose steps are distributed to `threads` threads.
pub(crate) fn run_with_threads(program: &Program, threads: usize) {
    with_stack(&mut program.set_up(), false, |stack, set_up| {
        let mut actors: Vec<_> = (0..threads).map(|_| Actor::new(stack)).collect();
        let context = context();
        std::thread::scope(|scope| {
            for (index, actor) in actors.iter_mut().enumerate() {
                let steps = program.steps().skip(index).step_by(threads);
                let work = move || {
                    enter(context);
                    steps.for_each(|mut random| actor.step(&mut random));
                };
                std::thread::Builder::new()
                    .name(format!("thread {index} of {threads}"))
                    .spawn_scoped(scope, work)
                    .unwrap();
            }
        });
        verify::finish(stack, &mut actors, set_up)
    });
}

/// Builds a stack, runs `test` on it, and drops the layers in turn. `test` returns whether the
/// heap is dropped with blocks in it.
fn with_stack<C: Choices>(
    set_up: &mut C,
    alone: bool,
    test: impl FnOnce(&Stack<'_, '_>, &mut C) -> bool,
) {
    let zeroed = set_up.chance(3);
    let short_of_tags = !zeroed && set_up.chance(4);
    let pages = 24 + set_up.pick(&[100, 200, 400]) / 2 + set_up.below(200);
    let window = Window::new(Properties {
        pages,
        // Without a choice of its own, so that a fuzzer's inputs still mean the same.
        makes_holes: pages % 4 != 0,
        guarded: !set_up.chance(4),
        // A tail that the window does not take back stays in the arena, and is not zero.
        resizable: zeroed || !set_up.chance(8),
        zeroed,
        short_of_tags,
    });
    let supply = Supply::new(&window.injection);
    let arena = PageArena::create("pages", PAGE, Some(&window), &supply).unwrap();
    let mut arena = arena.with_retained_spans(0);
    if short_of_tags || !zeroed && set_up.chance(3) {
        // Spans are then larger than the segments in them, and free spans are retained.
        arena = arena.with_retained_spans(set_up.below(3));
        arena = arena.with_min_import(set_up.below(17) * PAGE);
        if short_of_tags || set_up.chance(2) {
            let pages = 1 + set_up.below(window.pages() / 2);
            arena.add_span(window.keep(pages), pages * PAGE).unwrap();
        }
    }
    // A damaged layer must not be dropped while the panic that reports it unwinds.
    let arena = ManuallyDrop::new(arena);
    // SAFETY: the pages of the window are memory that only users of the arena access.
    let source = unsafe { Source::new(&arena) };
    let source = if zeroed {
        // SAFETY: the window lends zeroed pages, and the arena retains none that are given back.
        unsafe { source.of_zeroed_memory() }
    } else {
        source
    };
    let heap = ManuallyDrop::new(Heap::new(source));
    let usual = [(); 3]
        .map(|()| 1 << (8 + set_up.below(9)))
        .map(|most| most / 2 + set_up.below(most));
    let stack = Stack {
        window: &window,
        arena: &arena,
        heap: &heap,
        // Without a choice of its own, too.
        slabs: (usual[0] % 3 == 0).then(|| slabs::slabs(&heap)),
        alone,
        usual,
    };
    let in_use = test(&stack, set_up);

    drop(ManuallyDrop::into_inner(heap));
    if in_use && alone {
        SITUATIONS.note(situations::Situation::DroppedInUse);
    }
    assert_eq!(arena.allocated_space(), 0, "the heap was dropped");
    arena.trim();
    assert_eq!(arena.borrowed_space(), 0);
    assert_eq!(window.lent(), 0);
    arena.check().unwrap();
    window.assert_no_fault();
    drop(ManuallyDrop::into_inner(arena));
    assert_eq!(supply.out(), 0, "tags or pages are lost");
}

/// Returns how many steps and interrupts ran so far.
pub(crate) fn operations() -> u64 {
    OPERATIONS.load(Relaxed)
}
