//! The arena of the crate `vmem`, with a stack of boundary tags.

use std::cell::RefCell;
use std::ptr::NonNull;

use vmem::{AllocPolicy, Allocator, Arena, Bt, Layout, Lock};

use crate::peer::{PAGE, Peer};

/// A lock that does nothing.
#[derive(Default)]
pub struct NoLock;

// SAFETY: this program has one thread, and no source in it calls the arena that calls it.
unsafe impl Lock for NoLock {
    type Guard<'a> = ();

    fn lock(&self) {}
}

/// A supply that caches free tags, so that the cost of the host's allocator is not measured.
struct Tags(RefCell<Vec<NonNull<Bt>>>);

// SAFETY: this program has one thread.
unsafe impl Sync for Tags {}

// SAFETY: the host's allocator returns valid, aligned memory, and a tag is in use or in the cache.
unsafe impl Allocator for &Tags {
    fn allocate(&self) -> Option<NonNull<Bt>> {
        self.0.borrow_mut().pop().or_else(|| {
            // SAFETY: a tag is not zero-sized.
            NonNull::new(unsafe { std::alloc::alloc(std::alloc::Layout::new::<Bt>()) }.cast())
        })
    }

    unsafe fn deallocate(&self, tag: NonNull<Bt>) {
        self.0.borrow_mut().push(tag);
    }
}

static TAGS: Tags = Tags(RefCell::new(Vec::new()));

type TheirArena = Arena<'static, 'static, &'static Tags, NoLock>;

pub struct Theirs(std::mem::ManuallyDrop<TheirArena>);

impl Theirs {
    fn new(arena: TheirArena) -> Self {
        Self(std::mem::ManuallyDrop::new(arena))
    }
}

impl Peer for Theirs {
    fn empty() -> Self {
        Self::new(Arena::create("bench", PAGE, None, &TAGS).unwrap())
    }

    fn borrowing(pages: usize) -> Self {
        let source: &'static Theirs = Box::leak(Box::new(Self::empty()));
        source.add_span(PAGE, pages * PAGE);
        Self::new(Arena::create("bench", PAGE, Some(&*source.0), &TAGS).unwrap())
    }

    fn add_span(&self, base: usize, len: usize) {
        self.0.add_span(base, len).unwrap();
    }

    fn alloc<const BEST: bool>(&self, size: usize) -> usize {
        let policy = if BEST {
            AllocPolicy::BestFit
        } else {
            AllocPolicy::InstantFit
        };
        self.0.alloc(size, policy).unwrap()
    }

    fn free(&self, base: usize) {
        self.0.free(base).unwrap();
    }

    fn alloc_constrained(&self, min: usize, max: usize) -> usize {
        let layout = Layout::from_size_align(3 * PAGE, 8 * PAGE)
            .unwrap()
            .with_phase(PAGE)
            .with_nocross(32 * PAGE)
            .unwrap()
            .with_min(min)
            .with_max(max);
        self.0.xalloc(layout, AllocPolicy::InstantFit).unwrap()
    }
}
