// Code written for the crate `vmem` 1.0. It is included where `vmem` is that crate, and where it is
// `heap::vmem`: in `benches/vmem/tests/compat.rs`, since the crate needs unstable features, and in
// `tests/compat.rs`. The variants of `Error` carry values only in `heap`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

use vmem::alloc::Allocator;
use vmem::{AllocPolicy, Arena, Bt, Error, Layout, Source};

/// A lock that a user might write.
#[derive(Default)]
struct Lock(Mutex<()>);

unsafe impl vmem::lock::Lock for Lock {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().unwrap()
    }
}

/// A supply of tags that a user might write.
#[derive(Default)]
struct Tags {
    out: AtomicUsize,
    done: AtomicUsize,
}

unsafe impl Allocator for &Tags {
    fn allocate(&self) -> Option<NonNull<Bt>> {
        self.out.fetch_add(1, SeqCst);
        NonNull::new(unsafe { std::alloc::alloc(std::alloc::Layout::new::<Bt>()) }.cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<Bt>) {
        self.out.fetch_sub(1, SeqCst);
        unsafe { std::alloc::dealloc(tag.as_ptr().cast(), std::alloc::Layout::new::<Bt>()) };
    }

    fn done(&self) {
        self.done.fetch_add(1, SeqCst);
    }
}

type UserArena<'src, 'tags> = Arena<'static, 'src, &'tags Tags, Lock>;

fn spaces(arena: &UserArena<'_, '_>) -> [usize; 4] {
    [
        arena.total_space(),
        arena.allocated_space(),
        arena.free_space(),
        arena.borrowed_space(),
    ]
}

#[test]
fn an_arena_is_created_filled_and_emptied() {
    let tags = Tags::default();
    let arena = Arena::<_, Lock>::create("numbers", 8, None, &tags).unwrap();
    assert_eq!(arena.label(), "numbers");
    arena.add_span(0x1000, 0x100).unwrap();
    arena.add_span(0x2000, 0x100).unwrap();
    assert_eq!(spaces(&arena), [0x200, 0, 0x200, 0]);
    for policy in [
        AllocPolicy::InstantFit,
        AllocPolicy::BestFit,
        AllocPolicy::NextFit,
    ] {
        let base: usize = arena.alloc(13, policy).unwrap();
        assert_eq!(base % 8, 0);
        assert_eq!(spaces(&arena), [0x200, 0x10, 0x1f0, 0]);
        arena.free(base).unwrap();
        assert_eq!(spaces(&arena), [0x200, 0, 0x200, 0]);
    }
    assert!(!format!("{arena:?}").is_empty());
    drop(arena);
    assert_eq!(tags.out.load(SeqCst), 0);
    assert_ne!(tags.done.load(SeqCst), 0);
}

#[test]
fn mistakes_are_errors() {
    let tags = Tags::default();
    assert!(UserArena::create("bad", 3, None, &tags).is_err());
    let arena = UserArena::create("good", 0x10, None, &tags).unwrap();
    assert_eq!(
        arena.alloc(0, AllocPolicy::InstantFit),
        Err(Error::AllocZeroSize)
    );
    assert_eq!(arena.add_span(0x10, 0), Err(Error::AllocZeroSize));
    assert!(arena.add_span(0x11, 0x10).is_err());
    assert!(arena.add_span(0_usize.wrapping_sub(0x20), 0x40).is_err());
    assert!(arena.alloc(1, AllocPolicy::BestFit).is_err());
    assert!(arena.free(0x10).is_err());
    let result: vmem::Result<()> = arena.import(Layout::new::<u64>());
    assert_eq!(
        result,
        vmem::error::Result::Err(vmem::error::Error::NoSource)
    );
    assert!(!Error::AllocatorError.to_string().is_empty());
}

#[test]
fn layouts_return_their_constraints() {
    const LAYOUT: Option<Layout> = Layout::from_size_align(0x30, 0x40);
    let layout: vmem::layout::Layout = LAYOUT
        .unwrap()
        .with_phase(0x10)
        .with_nocross(0x1000)
        .unwrap()
        .with_min(0x1234)
        .with_max(0x5678);
    assert_eq!((layout.size(), layout.align()), (0x30, 0x40));
    assert_eq!(
        (layout.phase(), layout.nocross()),
        (Some(0x10), Some(0x1000))
    );
    assert_eq!((layout.min(), layout.max()), (Some(0x1234), Some(0x5678)));
    assert!(Layout::from_size_align(0, 1).is_none());
    assert!(Layout::from_size_align(1, 3).is_none());
    assert!(layout.with_nocross(0x20).is_none());
    assert_eq!(Layout::from(std::alloc::Layout::new::<u64>()).size(), 8);
    assert_eq!(Layout::new::<u64>().align(), align_of::<u64>());
}

#[test]
fn constrained_allocations_satisfy_their_layout() {
    let tags = Tags::default();
    let arena = UserArena::create("constrained", 0x10, None, &tags).unwrap();
    arena.add_span(0x10, 0xff0).unwrap();
    let layout = Layout::from_size_align(0x30, 0x100).unwrap();
    let base = arena
        .xalloc(layout.with_phase(0x40), AllocPolicy::BestFit)
        .unwrap();
    assert_eq!(base % 0x100, 0x40);
    arena.free(base).unwrap();
    assert_eq!(arena.allocated_space(), 0);
}

/// A source that lends numbers from a counter, and counts the lent ones.
struct Counter {
    next: AtomicUsize,
    lent: AtomicUsize,
}

impl Source for Counter {
    fn import(&self, layout: Layout) -> vmem::Result<usize> {
        if layout.size() > 0x1000 {
            return Err(Error::Other("too much"));
        }
        self.lent.fetch_add(layout.size(), SeqCst);
        let start = self.next.fetch_add(layout.size() + layout.align(), SeqCst);
        Ok(start.next_multiple_of(layout.align()))
    }

    unsafe fn release(&self, _base: usize, size: usize) -> vmem::Result<()> {
        self.lent.fetch_sub(size, SeqCst);
        Ok(())
    }
}

#[test]
fn arenas_borrow_from_sources_and_from_each_other() {
    let tags = Tags::default();
    let counter = Counter {
        next: AtomicUsize::new(0x1000),
        lent: AtomicUsize::new(0),
    };
    {
        let parent = UserArena::create("parent", 0x10, Some(&counter), &tags).unwrap();
        let child = UserArena::create("child", 0x10, Some(&parent), &tags).unwrap();
        let base = child.alloc(0x40, AllocPolicy::InstantFit).unwrap();
        assert_eq!(child.borrowed_space(), 0x40);
        assert_eq!(parent.allocated_space(), 0x40);
        assert_eq!(counter.lent.load(SeqCst), 0x40);
        let refused = child.alloc(0x2000, AllocPolicy::InstantFit);
        assert_eq!(refused, Err(Error::Other("too much")));
        child.free(base).unwrap();
        child
            .import(Layout::from_size_align(0x80, 0x10).unwrap())
            .unwrap();
        assert!(child.free_space() >= 0x80);
    }
    assert_eq!(counter.lent.load(SeqCst), 0);
    assert_eq!(tags.out.load(SeqCst), 0);
}
