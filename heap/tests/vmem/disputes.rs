//! Sources that panic, and callers who take what the source is being asked about.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::support::{Books, TestArena, borrower};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Error, Layout, Result, Source};

/// Lends by the book, but panics when it is told to.
struct Panics {
    books: Books,
    armed: AtomicBool,
}

impl Panics {
    fn maybe(&self) {
        assert!(
            !self.armed.load(SeqCst),
            "the source panics, as the test wants"
        );
    }
}

impl Source for Panics {
    fn import(&self, layout: Layout) -> Result<usize> {
        self.maybe();
        self.books.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: by the caller's promise.
        unsafe { self.books.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: by the caller's promise.
        unsafe { self.books.extend(base, size, new_size) }
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: by the caller's promise.
        unsafe { self.books.shrink(base, size, new_size) }
    }
}

#[test]
fn a_panic_of_the_source_leaves_a_sound_arena() {
    let operations: [fn(&TestArena<'_>, usize) -> Result<()>; 4] = [
        |arena, _| arena.alloc(0x8000, InstantFit).map(|_| ()),
        |arena, base| arena.resize(base, 0x9000),
        |arena, base| arena.resize(base, 0x1000),
        |arena, base| arena.free(base),
    ];
    for operation in operations {
        let source = Panics {
            books: Books::new(0x10_0000, 0x1f_ffff),
            armed: AtomicBool::new(false),
        };
        {
            let arena = borrower(0x1000, &source).with_retained_spans(0);
            let base = arena.alloc(0x3000, InstantFit).unwrap();
            source.armed.store(true, SeqCst);
            let panicked = catch_unwind(AssertUnwindSafe(|| operation(&arena, base)));
            source.armed.store(false, SeqCst);
            assert!(panicked.is_err());
            arena.check().unwrap();
            // The books verify each size. What the source was asked about is not asked for again.
            let other = arena.alloc(0x2000, InstantFit).unwrap();
            arena.resize(other, 0x4000).unwrap();
            arena.free(other).unwrap();
            let _ = arena.free(base);
            arena.trim();
            arena.check().unwrap();
        }
        let left = source.books.lent();
        assert!(
            left.iter().all(|&lent| lent == (0x10_0000, 0x3000)),
            "{left:x?}"
        );
    }
}

/// Lends by the book. Whenever it is asked for the range at `SPOT`, or to take it back, the arena that
/// asks is given that range as a span of its own, and the source does not take it back.
struct Disputed {
    books: Books,
    arena: OnceLock<&'static TestArena<'static>>,
}

const SPOT: usize = 0x10_3000;

impl Source for Disputed {
    fn import(&self, layout: Layout) -> Result<usize> {
        self.books.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        // SAFETY: by the caller's promise, which the books verify.
        unsafe { self.books.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        if base + size == SPOT {
            self.arena.get().unwrap().add_span(SPOT, 0x1000)?;
        }
        // SAFETY: by the caller's promise, which the books verify.
        unsafe { self.books.extend(base, size, new_size) }
    }

    unsafe fn shrink(&self, base: usize, _size: usize, new_size: usize) -> Result<()> {
        if base + new_size == SPOT {
            let _ = self.arena.get().unwrap().add_span(SPOT, 0x1000);
        }
        Err(Error::Other("not taken back"))
    }
}

fn disputed() -> (&'static Disputed, &'static TestArena<'static>) {
    let source: &'static Disputed = Box::leak(Box::new(Disputed {
        books: Books::new(0x10_0000, 0x1f_ffff),
        arena: OnceLock::new(),
    }));
    let arena: &'static TestArena<'static> =
        Box::leak(Box::new(borrower(0x1000, source).with_retained_spans(0)));
    assert!(source.arena.set(arena).is_ok());
    (source, arena)
}

#[test]
fn an_extension_into_a_new_span_keeps_the_size_that_is_lent() {
    let (source, arena) = disputed();
    let base = arena.alloc(0x3000, InstantFit).unwrap();
    let occupied = Err(Error::Occupied {
        base: SPOT,
        size: 0x1000,
    });
    assert_eq!(arena.resize(base, 0x4000), occupied);
    // The source has lent 0x4000. It must not be told to take back 0x3000.
    arena.free(base).unwrap();
    arena.trim();
    arena.check().unwrap();
    assert_eq!(source.books.lent(), [(base, 0x4000)]);
    // Others still go back.
    let other = arena.alloc(0x5000, InstantFit).unwrap();
    arena.free(other).unwrap();
    assert_eq!(source.books.lent(), [(base, 0x4000)]);
}

#[test]
fn a_tail_that_became_a_span_keeps_the_size_that_is_lent() {
    let (source, arena) = disputed();
    let base = arena.alloc(0x4000, InstantFit).unwrap();
    arena.resize(base, 0x3000).unwrap();
    arena.free(base).unwrap();
    arena.trim();
    arena.check().unwrap();
    assert!(arena.contains(SPOT));
    assert_eq!(source.books.lent(), [(base, 0x4000)]);
}
