//! Shared parts of the arena's tests: tag supplies and sources that count, fail and verify.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::alloc::Layout as CoreLayout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub(crate) use crate::common::random::{Choices, Random};
use heap::vmem::{
    Arena, BoundaryTag, Error, Layout, LockApi, Page, PageSupply, Result, Source, TagSupply,
};

/// The number of tags in a page of the pool. The header takes the space of one.
pub(crate) const TAGS_IN_PAGE: usize = size_of::<Page>() / size_of::<BoundaryTag>() - 1;
/// The number of buckets in a page of the index.
pub(crate) const SLOTS_IN_PAGE: usize = size_of::<Page>() / size_of::<usize>();

/// Allocates memory of the host for one `T`.
fn host_allocate<T>() -> Option<NonNull<T>> {
    // SAFETY: the callers use this for tags and pages, which are not zero-sized.
    NonNull::new(unsafe { std::alloc::alloc(CoreLayout::new::<T>()) }.cast())
}

/// Overwrites and frees memory of the host.
///
/// # Safety
/// The memory came from [`host_allocate`] of the same type, and is no longer in use.
unsafe fn host_deallocate<T>(memory: NonNull<T>) {
    // Overwritten first, so that a use after free is noticed.
    // SAFETY: the memory came from `host_allocate`, with this layout, and is no longer in use.
    unsafe {
        memory.cast::<u8>().write_bytes(0xdd, size_of::<T>());
        std::alloc::dealloc(memory.as_ptr().cast(), CoreLayout::new::<T>());
    }
}

/// A supply of tags and pages from the host, which counts calls and can fail on demand.
pub struct Tags {
    /// The number of tags in use.
    pub out: AtomicUsize,
    /// The number of pages in use.
    pub pages_out: AtomicUsize,
    /// The number of calls for a tag.
    pub calls: AtomicUsize,
    /// The number of tags that are left.
    pub budget: AtomicUsize,
    /// Whether the supply has pages for the index.
    pub with_pages: bool,
}

impl Tags {
    pub const fn new() -> Self {
        Self::limited(usize::MAX)
    }

    pub const fn limited(budget: usize) -> Self {
        Self {
            out: AtomicUsize::new(0),
            pages_out: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            budget: AtomicUsize::new(budget),
            with_pages: true,
        }
    }

    pub fn assert_all_back(&self) {
        assert_eq!(self.out.load(SeqCst), 0, "tags leaked");
        assert_eq!(self.pages_out.load(SeqCst), 0, "pages leaked");
    }
}

// SAFETY: the host's allocator returns valid, aligned memory without another user.
unsafe impl TagSupply for &Tags {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        self.calls.fetch_add(1, SeqCst);
        self.budget
            .fetch_update(SeqCst, SeqCst, |budget| budget.checked_sub(1))
            .ok()?;
        self.out.fetch_add(1, SeqCst);
        host_allocate()
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        self.out.fetch_sub(1, SeqCst);
        self.budget.fetch_add(1, SeqCst);
        // SAFETY: the tag came from `allocate`, that is from `host_allocate`.
        unsafe { host_deallocate(tag) };
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        if !self.with_pages {
            return None;
        }
        self.pages_out.fetch_add(1, SeqCst);
        host_allocate()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        self.pages_out.fetch_sub(1, SeqCst);
        // SAFETY: it came from `allocate_page`.
        unsafe { host_deallocate(page) };
    }
}

// SAFETY: the host's allocator returns valid, aligned memory without another user.
unsafe impl PageSupply for &Tags {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        self.budget
            .fetch_update(SeqCst, SeqCst, |budget| budget.checked_sub(1))
            .ok()?;
        self.pages_out.fetch_add(1, SeqCst);
        host_allocate()
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        self.pages_out.fetch_sub(1, SeqCst);
        self.budget.fetch_add(1, SeqCst);
        // SAFETY: it came from `allocate_page`.
        unsafe { host_deallocate(page) };
    }
}

pub(crate) type TestLock = LockApi<spin::Mutex<()>>;

/// The type of arena in most tests.
pub(crate) type TestArena<'src> = Arena<'static, 'src, &'static Tags, TestLock>;

/// Returns an arena with a tag supply of its own, which is leaked.
pub(crate) fn arena(quantum: usize) -> TestArena<'static> {
    TestArena::create("test", quantum, None, Box::leak(Box::new(Tags::new()))).unwrap()
}

/// Returns an arena that borrows from `source`.
pub(crate) fn borrower<'src>(quantum: usize, source: &'src dyn Source) -> TestArena<'src> {
    let tags = Box::leak(Box::new(Tags::new()));
    TestArena::create("borrower", quantum, Some(source), tags).unwrap()
}

/// A source that records what it lends, and verifies each call against the record. It lends the
/// lowest ranges of a window first.
pub(crate) struct CheckedSource {
    state: Mutex<CheckedState>,
    window: (usize, usize),
    /// Whether the source supports `extend` and `shrink`.
    pub resizable: bool,
    /// The quantum of the source. Every size is checked against it.
    pub quantum: usize,
    /// The number of calls that will still succeed.
    pub budget: AtomicUsize,
    /// The number of calls.
    pub calls: AtomicUsize,
}

#[derive(Default)]
struct CheckedState {
    /// The sizes of the lent ranges, by base.
    lent: BTreeMap<usize, usize>,
    imports: usize,
    releases: usize,
}

impl CheckedSource {
    /// Creates a source of the addresses from `base` to `last`, inclusive.
    pub(crate) fn new(base: usize, last: usize) -> Self {
        Self {
            state: Mutex::default(),
            window: (base, last),
            resizable: true,
            quantum: 1,
            budget: AtomicUsize::new(usize::MAX),
            calls: AtomicUsize::new(0),
        }
    }

    /// Returns the lent ranges as pairs of base and size.
    pub(crate) fn lent(&self) -> Vec<(usize, usize)> {
        let state = self.state.lock().unwrap();
        state
            .lent
            .iter()
            .map(|(&base, &size)| (base, size))
            .collect()
    }

    /// Returns whether the range from `start` to `last` lies in the window and no part is lent.
    pub(crate) fn is_vacant(&self, start: usize, last: usize) -> bool {
        let state = self.state.lock().unwrap();
        let inside = self.window.0 <= start && last <= self.window.1;
        let apart = |(&base, &size): (&usize, &usize)| last < base || base + (size - 1) < start;
        inside && state.lent.iter().all(apart)
    }

    pub(crate) fn lent_space(&self) -> usize {
        self.state.lock().unwrap().lent.values().sum()
    }

    pub(crate) fn imports(&self) -> usize {
        self.state.lock().unwrap().imports
    }

    pub(crate) fn releases(&self) -> usize {
        self.state.lock().unwrap().releases
    }

    /// Counts a call, which fails if the budget is spent.
    pub(crate) fn spend(&self) -> Result<()> {
        self.calls.fetch_add(1, SeqCst);
        self.budget
            .fetch_update(SeqCst, SeqCst, |budget| budget.checked_sub(1))
            .map(|_| ())
            .map_err(|_| Error::Other("the source fails, as the test wants"))
    }
}

/// Returns whether `base` satisfies `layout`, by the definition of the constraints.
pub(crate) fn satisfies(layout: &Layout, base: usize) -> bool {
    let Some(end) = base.checked_add(layout.size() - 1) else {
        return false;
    };
    let crosses = |nocross: usize| base / nocross != end / nocross;
    base % layout.align() == layout.phase().unwrap_or(0) % layout.align()
        && base >= layout.min().unwrap_or(0)
        && end <= layout.max().unwrap_or(usize::MAX)
        && !layout.nocross().is_some_and(crosses)
}

impl Source for CheckedSource {
    fn quantum(&self) -> usize {
        self.quantum
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        assert!(layout.size() % self.quantum == 0 && layout.align() >= self.quantum);
        assert!(layout.phase().unwrap_or(0) % self.quantum == 0);
        self.spend()?;
        let mut state = self.state.lock().unwrap();
        // The lowest base is one of these candidates: the beginnings of the window and of each
        // hole, each moved up to `min`, to the next boundary, and to the alignment.
        let starts = state
            .lent
            .iter()
            .map(|(&base, &size)| base.wrapping_add(size))
            .chain([self.window.0])
            .filter(|&start| start >= self.window.0);
        let mut candidates: Vec<usize> = starts
            .flat_map(|start| {
                let start = start.max(layout.min().unwrap_or(0));
                let boundary = start.checked_next_multiple_of(layout.nocross().unwrap_or(1));
                [Some(start), boundary].into_iter().flatten()
            })
            .filter_map(|start| {
                let phase = layout.phase().unwrap_or(0);
                start.checked_add(phase.wrapping_sub(start) & (layout.align() - 1))
            })
            .collect();
        candidates.sort_unstable();
        let base = candidates
            .into_iter()
            .find(|&base| {
                satisfies(&layout, base)
                    && base >= self.window.0
                    && base + (layout.size() - 1) <= self.window.1
                    && state.lent.iter().all(|(&lent, &size)| {
                        base + (layout.size() - 1) < lent || lent + (size - 1) < base
                    })
            })
            .ok_or(Error::Empty {
                size: layout.size(),
            })?;
        state.lent.insert(base, layout.size());
        state.imports += 1;
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.lent.get(&base), Some(&size), "released at {base:#x}");
        drop(state);
        self.spend()?;
        state = self.state.lock().unwrap();
        state.lent.remove(&base);
        state.releases += 1;
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        if !self.resizable {
            return Err(Error::NotSupported);
        }
        assert!(size < new_size && new_size % self.quantum == 0);
        self.spend()?;
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.lent.get(&base), Some(&size), "extended at {base:#x}");
        let last = base
            .checked_add(new_size - 1)
            .filter(|&last| last <= self.window.1);
        let next = state.lent.range(base + 1..).next();
        if last.is_none_or(|last| next.is_some_and(|(&next, _)| next <= last)) {
            return Err(Error::Occupied {
                base: base + size,
                size: new_size - size,
            });
        }
        state.lent.insert(base, new_size);
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        if !self.resizable {
            return Err(Error::NotSupported);
        }
        assert!(0 < new_size && new_size < size && new_size % self.quantum == 0);
        self.spend()?;
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.lent.get(&base), Some(&size), "shrunk at {base:#x}");
        state.lent.insert(base, new_size);
        Ok(())
    }
}
