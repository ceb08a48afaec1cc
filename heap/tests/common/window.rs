//! An arena of pages from a window of the test's memory, and heaps over it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::Mutex;

use super::memory::all_are;
use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::{self, Arena, Error, LockApi, Page, PageSupply, Source, TagPool};

pub(crate) const PAGE: usize = 4096;
pub(crate) type SpinLock = LockApi<spin::Mutex<()>>;
pub(crate) type Tags = &'static TagPool<SpinLock, Pages, 64>;
pub(crate) type Heap<'a> = TalcLock<spin::Mutex<()>, ArenaSource<'a, Tags, SpinLock>>;
pub(crate) type PageArena<'a> = Arena<'a, 'a, Tags, SpinLock>;

/// Pages for boundary tags, from the host's allocator.
pub(crate) struct Pages;

// SAFETY: each page is an allocation of its own.
unsafe impl PageSupply for Pages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: a page's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(Layout::new::<Page>()) }).map(NonNull::cast)
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the page was allocated by `allocate_page` with this layout.
        unsafe { std::alloc::dealloc(page.as_ptr().cast(), Layout::new::<Page>()) }
    }
}

/// A range of pages that lends runs of them, lowest address first, each followed by a guard page.
pub(crate) struct Window {
    base: NonNull<u8>,
    pages: usize,
    pub state: Mutex<State>,
    /// The contents of vacant pages.
    vacant: u8,
    /// A hook that is called while pages are taken back, as an interrupt would be.
    pub interrupt: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// A hook that is called when a range is to be lent, extended or restored.
    pub growing: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// A hook that is called when a range was lent, extended or restored.
    pub grown: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// For each page: whether it is lent, or a guard.
    pub taken: Vec<bool>,
    /// For each page: whether it is lent, but was taken back.
    pub holes: Vec<bool>,
    /// Refuses to take back pages inside a range.
    pub refuses_holes: bool,
    /// Refuses to give back what was taken back inside a range.
    pub refuses_restoring: bool,
    pub lent: usize,
    pub most_lent: usize,
    /// The number of pages that were ever lent or restored.
    pub total: usize,
    /// The limit of pages that are lent, without holes.
    pub limit: usize,
    /// The number of calls until every call is refused.
    pub calls_left: usize,
}

impl State {
    /// Returns the number of pages that are lent and not holes.
    fn mapped(&self) -> usize {
        self.lent - self.holes.iter().filter(|&&is_hole| is_hole).count()
    }
}

// SAFETY: the memory is accessed only through lent ranges.
unsafe impl Sync for Window {}
// SAFETY: shared references access no memory except through lent ranges.
unsafe impl Send for Window {}

impl Window {
    pub(crate) fn new(pages: usize) -> Self {
        Self::filled_with(pages, 0xdd)
    }

    pub(crate) fn filled_with(pages: usize, vacant: u8) -> Self {
        let layout = Layout::from_size_align(pages * PAGE, PAGE).unwrap();
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
        base.as_ptr().expose_provenance();
        // SAFETY: the memory was just allocated.
        unsafe { base.write_bytes(vacant, pages * PAGE) };
        let state = State {
            taken: vec![false; pages],
            holes: vec![false; pages],
            limit: pages,
            calls_left: usize::MAX,
            ..State::default()
        };
        Window {
            base,
            pages,
            state: Mutex::new(state),
            vacant,
            interrupt: Mutex::new(None),
            growing: Mutex::new(None),
            grown: Mutex::new(None),
        }
    }

    fn page(&self, address: usize) -> usize {
        (address - self.base.addr().get()) / PAGE
    }

    /// Lends the pages `from..to`. Asserts that they were not written to while vacant.
    fn take(&self, state: &mut State, from: usize, to: usize) -> vmem::Result<()> {
        if state.calls_left == 0 || state.mapped() + (to - from) > state.limit {
            return Err(Error::Other("the window is exhausted"));
        }
        state.calls_left -= 1;
        self.assert_vacant(from, to);
        state.lent += to - from;
        state.total += to - from;
        state.most_lent = state.most_lent.max(state.lent);
        Ok(())
    }

    fn give(&self, from: usize, to: usize) {
        call(&self.interrupt);
        // SAFETY: the pages lie in the window, and are no longer used.
        unsafe {
            self.base
                .byte_add(from * PAGE)
                .write_bytes(self.vacant, (to - from) * PAGE)
        };
        let mut state = self.state.lock().unwrap();
        state.holes[from..to].fill(false);
        state.lent -= to - from;
    }

    /// Returns the bytes that are lent and not holes.
    pub(crate) fn mapped(&self) -> usize {
        self.state.lock().unwrap().mapped() * PAGE
    }

    pub(crate) fn lent(&self) -> usize {
        self.state.lock().unwrap().lent * PAGE
    }

    /// Refuses every call after the next `calls`.
    pub(crate) fn fail_after(&self, calls: usize) {
        self.state.lock().unwrap().calls_left = calls;
    }

    /// Asserts that vacant pages were not written to.
    pub(crate) fn assert_vacant_untouched(&self) {
        let state = self.state.lock().unwrap();
        for page in (0..self.pages).filter(|&page| !state.taken[page] || state.holes[page]) {
            self.assert_vacant(page, page + 1);
        }
    }

    fn assert_vacant(&self, from: usize, to: usize) {
        // SAFETY: the pages lie in the window, and are vacant.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.base.byte_add(from * PAGE).as_ptr(), (to - from) * PAGE)
        };
        assert!(
            all_are(bytes, self.vacant),
            "a page was written to after it was given back"
        );
    }

    /// Returns the contents of all pages, lent or not.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: the range is the window's and initialised, and no other thread writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.pages * PAGE) };
        bytes.to_vec()
    }

    pub(crate) fn total(&self) -> usize {
        self.state.lock().unwrap().total
    }
}

/// Calls a hook, unless a call of it is under way.
fn call(hook: &Mutex<Option<Box<dyn FnMut() + Send>>>) {
    if let Ok(mut hook) = hook.try_lock() {
        if let Some(hook) = &mut *hook {
            hook();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout.
        unsafe {
            std::alloc::dealloc(
                self.base.as_ptr(),
                Layout::from_size_align(self.pages * PAGE, PAGE).unwrap(),
            )
        }
    }
}

impl Source for Window {
    fn quantum(&self) -> usize {
        PAGE
    }

    fn import(&self, layout: vmem::Layout) -> vmem::Result<usize> {
        call(&self.growing);
        assert!(layout.size() % PAGE == 0 && layout.align() >= PAGE);
        let phase = layout.phase().unwrap_or(0);
        let is_placed = |from: usize| {
            let base = self.base.addr().get() + from * PAGE;
            base.wrapping_sub(phase) % layout.align() == 0
        };
        let run = layout.size() / PAGE + 1;
        let mut state = self.state.lock().unwrap();
        let from = (0..=self.pages.saturating_sub(run))
            .filter(|&from| is_placed(from))
            .find(|&from| {
                state.taken[from..]
                    .iter()
                    .take(run)
                    .filter(|&&taken| !taken)
                    .count()
                    == run
            })
            .ok_or(Error::Empty {
                size: layout.size(),
            })?;
        self.take(&mut state, from, from + run - 1)?;
        state.taken[from..from + run].fill(true);
        drop(state);
        call(&self.grown);
        Ok(self.base.addr().get() + from * PAGE)
    }

    unsafe fn release(&self, base: usize, size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base), self.page(base + size));
        self.give(from, to);
        self.state.lock().unwrap().taken[from..=to].fill(false);
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        call(&self.growing);
        let (from, to) = (self.page(base + size), self.page(base + new_size));
        let mut state = self.state.lock().unwrap();
        // The old guard page at `from` belongs to this range.
        if to >= self.pages || state.taken[from + 1..=to].contains(&true) {
            return Err(Error::Empty { size: new_size });
        }
        self.take(&mut state, from, to)?;
        state.taken[from..=to].fill(true);
        drop(state);
        call(&self.grown);
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base + new_size), self.page(base + size));
        self.give(from, to);
        self.state.lock().unwrap().taken[from + 1..=to].fill(false);
        Ok(())
    }

    unsafe fn discard(&self, base: usize, size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base), self.page(base + size));
        call(&self.interrupt);
        if self.state.lock().unwrap().refuses_holes {
            return Err(Error::Other("the window refuses"));
        }
        // SAFETY: the pages lie in the window, and are no longer used.
        unsafe {
            self.base
                .byte_add(from * PAGE)
                .write_bytes(self.vacant, size)
        };
        self.state.lock().unwrap().holes[from..to].fill(true);
        Ok(())
    }

    unsafe fn restore(&self, base: usize, size: usize) -> vmem::Result<()> {
        call(&self.growing);
        let (from, to) = (self.page(base), self.page(base + size));
        let mut state = self.state.lock().unwrap();
        let missing: Vec<_> = (from..to).filter(|&page| state.holes[page]).collect();
        let is_refused = state.refuses_restoring || state.calls_left == 0;
        if is_refused || state.mapped() + missing.len() > state.limit {
            return Err(Error::Other("the window is exhausted"));
        }
        for &page in &missing {
            self.assert_vacant(page, page + 1);
            state.holes[page] = false;
        }
        state.total += missing.len();
        drop(state);
        call(&self.grown);
        Ok(())
    }
}

pub(crate) fn arena(window: &Window) -> PageArena<'_> {
    static TAGS: TagPool<SpinLock, Pages, 64> = TagPool::new(SpinLock::new(), Pages);
    Arena::create("pages", PAGE, Some(window), &TAGS)
        .unwrap()
        .with_retained_spans(0)
}

pub(crate) fn heap<'a>(arena: &'a PageArena<'a>) -> Heap<'a> {
    // SAFETY: only the arena's borrower uses the window's pages.
    Heap::new(unsafe { ArenaSource::new(arena) })
}

/// Asserts that all layers agree when no release is pending.
pub(crate) fn settled(window: &Window, arena: &PageArena<'_>, heap: &Heap<'_>) {
    heap.drain().unwrap();
    let talc = heap.lock();
    assert_eq!(talc.check(), Ok(()));
    let heaps: Vec<_> = talc.arena_heaps().collect();
    assert!(
        heaps.iter().all(|heap| heap.retained == heap.size),
        "{heaps:?}"
    );
    let sum: usize = heaps.iter().map(|heap| heap.size).sum();
    assert_eq!(sum, talc.source.claimed());
    assert_eq!(sum, arena.allocated_space());
    assert_eq!(sum, window.lent());
    assert_eq!(sum - talc.source.hole_bytes(), window.mapped());
    drop(talc);
    arena.check().unwrap();
}

pub(crate) fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

pub(crate) fn layout_aligned(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

pub(crate) fn alloc(heap: &Heap<'_>, layout: Layout) -> *mut u8 {
    // SAFETY: the tests request no zero-sized blocks.
    unsafe { heap.alloc(layout) }
}

pub(crate) fn free(heap: &Heap<'_>, block: *mut u8, layout: Layout) {
    // SAFETY: the tests free each block once, with its layout.
    unsafe { heap.dealloc(block, layout) }
}
