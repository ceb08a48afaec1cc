//! Sources that panic, and callers that add a range as a span during a call to the source about it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::support::{CheckedSource, TestArena, borrower};
use heap::vmem::AllocPolicy::InstantFit;
use heap::vmem::{Error, Layout, Result, Source};

/// A source that panics while it is armed.
struct Panics {
    lender: CheckedSource,
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
        self.lender.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.extend(base, size, new_size) }
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.maybe();
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.shrink(base, size, new_size) }
    }
}

#[test]
fn a_panic_of_the_source_leaves_a_consistent_arena() {
    let operations: [fn(&TestArena<'_>, usize) -> Result<()>; 4] = [
        |arena, _| arena.alloc(0x8000, InstantFit).map(|_| ()),
        |arena, base| arena.resize(base, 0x9000),
        |arena, base| arena.resize(base, 0x1000),
        |arena, base| arena.free(base),
    ];
    for operation in operations {
        let source = Panics {
            lender: CheckedSource::new(0x10_0000, 0x1f_ffff),
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
            // `lender` verifies each size. The arena does not repeat the call that panicked.
            let other = arena.alloc(0x2000, InstantFit).unwrap();
            arena.resize(other, 0x4000).unwrap();
            arena.free(other).unwrap();
            let _ = arena.free(base);
            arena.trim();
            arena.check().unwrap();
        }
        let left = source.lender.lent();
        assert!(
            left.iter().all(|&lent| lent == (0x10_0000, 0x3000)),
            "{left:x?}"
        );
    }
}

/// A source that adds the range at `SPOT` to the arena as a span. It does so during each call to
/// extend a span over the range, or to take the range back. It refuses to take the range back.
struct Disputed {
    lender: CheckedSource,
    arena: OnceLock<&'static TestArena<'static>>,
}

const SPOT: usize = 0x10_3000;

impl Source for Disputed {
    fn import(&self, layout: Layout) -> Result<usize> {
        self.lender.import(layout)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.release(base, size) }
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        if base + size == SPOT {
            self.arena.get().unwrap().add_span(SPOT, 0x1000)?;
        }
        // SAFETY: the caller's contract is that of the inner source.
        unsafe { self.lender.extend(base, size, new_size) }
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
        lender: CheckedSource::new(0x10_0000, 0x1f_ffff),
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
    // The source has lent 0x4000, so the arena must not release 0x3000.
    arena.free(base).unwrap();
    arena.trim();
    arena.check().unwrap();
    assert_eq!(source.lender.lent(), [(base, 0x4000)]);
    // Other spans are still released.
    let other = arena.alloc(0x5000, InstantFit).unwrap();
    arena.free(other).unwrap();
    assert_eq!(source.lender.lent(), [(base, 0x4000)]);
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
    assert_eq!(source.lender.lent(), [(base, 0x4000)]);
}
