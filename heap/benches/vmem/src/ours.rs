//! The arena of this project, with its pool of boundary tags.

use std::alloc::Layout as HostLayout;
use std::ptr::NonNull;

use heap::vmem::{AllocPolicy, Arena, Layout, Lock, Page, PageSupply, TagPool};

use crate::peer::{PAGE, Peer};

/// A lock that does nothing.
#[derive(Default)]
pub struct NoLock;

// SAFETY: this program has one thread, and no source in it calls the arena that calls it.
unsafe impl Lock for NoLock {
    type Guard<'a> = ();

    fn lock(&self) {}
}

/// Pages of the host.
struct HostPages;

// SAFETY: the host's allocator returns valid, aligned memory without another user.
unsafe impl PageSupply for HostPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: a page is not zero-sized.
        NonNull::new(unsafe { std::alloc::alloc(HostLayout::new::<Page>()) }.cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the page came from `allocate_page`, which used this layout.
        unsafe { std::alloc::dealloc(page.as_ptr().cast(), HostLayout::new::<Page>()) };
    }
}

static TAGS: TagPool<NoLock, HostPages> = TagPool::new(NoLock, HostPages);

type OurArena = Arena<'static, 'static, &'static TagPool<NoLock, HostPages>, NoLock>;

pub struct Ours(OurArena);

impl Peer for Ours {
    fn empty() -> Self {
        Self(Arena::create("bench", PAGE, None, &TAGS).unwrap())
    }

    fn borrowing(pages: usize) -> Self {
        let source: &'static OurArena = Box::leak(Box::new(Self::empty().0));
        source.add_span(PAGE, pages * PAGE).unwrap();
        Self(Arena::create("bench", PAGE, Some(source), &TAGS).unwrap())
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

    fn resize(&self, base: usize, size: usize) -> bool {
        self.0.resize(base, size).is_ok()
    }
}
