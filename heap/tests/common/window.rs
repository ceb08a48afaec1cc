//! An arena of pages that come from a window of the test's memory, and heaps over it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::Mutex;

use super::memory::all_are;
use heap::source::ArenaSource;
use heap::talc::TalcLock;
use heap::vmem::{self, Arena, Error, LockApi, Page, PageSupply, Source, TagPool};

pub const PAGE: usize = 4096;
pub type SpinLock = LockApi<spin::Mutex<()>>;
pub type Tags = &'static TagPool<SpinLock, Pages, 64>;
pub type Heap<'a> = TalcLock<spin::Mutex<()>, ArenaSource<'a, Tags, SpinLock>>;
pub type PageArena<'a> = Arena<'a, 'a, Tags, SpinLock>;

/// Pages for boundary tags, from the host's allocator.
pub struct Pages;

// SAFETY: each page is an allocation of its own.
unsafe impl PageSupply for Pages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        // SAFETY: a page's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(Layout::new::<Page>()) }).map(NonNull::cast)
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: it came from above.
        unsafe { std::alloc::dealloc(page.as_ptr().cast(), Layout::new::<Page>()) }
    }
}

/// A range of pages that lends runs of them, lowest address first, a guard page after each.
pub struct Window {
    base: NonNull<u8>,
    pages: usize,
    pub state: Mutex<State>,
    /// What pages hold while nobody has them.
    vacant: u8,
    /// Called while pages are taken back, as an interrupt would be.
    pub interrupt: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Called when a range is to be made longer.
    pub growing: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

#[derive(Default)]
pub struct State {
    /// For each page: lent, or a guard.
    pub taken: Vec<bool>,
    pub lent: usize,
    pub most_lent: usize,
    /// How many pages were ever lent.
    pub total: usize,
    /// More pages than this are refused.
    pub limit: usize,
    /// Every call from this one on is refused, counting down.
    pub calls_left: usize,
}

// SAFETY: the memory is reached through the lent ranges alone.
unsafe impl Sync for Window {}
// SAFETY: as above.
unsafe impl Send for Window {}

impl Window {
    pub fn new(pages: usize) -> Self {
        Self::filled_with(pages, 0xdd)
    }

    pub fn filled_with(pages: usize, vacant: u8) -> Self {
        let layout = Layout::from_size_align(pages * PAGE, PAGE).unwrap();
        // SAFETY: not empty.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
        base.as_ptr().expose_provenance();
        // SAFETY: freshly allocated.
        unsafe { base.write_bytes(vacant, pages * PAGE) };
        let state = State {
            taken: vec![false; pages],
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
        }
    }

    fn page(&self, address: usize) -> usize {
        (address - self.base.addr().get()) / PAGE
    }

    /// Checks that nobody wrote to the pages `from..to` while they were vacant.
    fn take(&self, state: &mut State, from: usize, to: usize) -> vmem::Result<()> {
        if state.calls_left == 0 || state.lent + (to - from) > state.limit {
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
        // SAFETY: the pages lie in the window, and are not used any more.
        unsafe {
            self.base
                .byte_add(from * PAGE)
                .write_bytes(self.vacant, (to - from) * PAGE)
        };
        self.state.lock().unwrap().lent -= to - from;
    }

    pub fn lent(&self) -> usize {
        self.state.lock().unwrap().lent * PAGE
    }

    /// Refuses every call but so many.
    pub fn fail_after(&self, calls: usize) {
        self.state.lock().unwrap().calls_left = calls;
    }

    /// Checks that nobody wrote to the pages that nobody has.
    pub fn assert_vacant_untouched(&self) {
        let state = self.state.lock().unwrap();
        for page in (0..self.pages).filter(|&page| !state.taken[page]) {
            self.assert_vacant(page, page + 1);
        }
    }

    fn assert_vacant(&self, from: usize, to: usize) {
        // SAFETY: the pages lie in the window, and nobody has them.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.base.byte_add(from * PAGE).as_ptr(), (to - from) * PAGE)
        };
        assert!(
            all_are(bytes, self.vacant),
            "somebody wrote to a page that was given back"
        );
    }

    /// What is in its pages, lent or not.
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: the range is the window's, initialised, and the tests have one thread.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.pages * PAGE) };
        bytes.to_vec()
    }

    pub fn total(&self) -> usize {
        self.state.lock().unwrap().total
    }
}

/// Calls a hook, unless it is being called.
fn call(hook: &Mutex<Option<Box<dyn FnMut() + Send>>>) {
    if let Ok(mut hook) = hook.try_lock() {
        if let Some(hook) = &mut *hook {
            hook();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: allocated like that.
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
        // The old guard at `from` is this range's own.
        if to >= self.pages || state.taken[from + 1..=to].contains(&true) {
            return Err(Error::Empty { size: new_size });
        }
        self.take(&mut state, from, to)?;
        state.taken[from..=to].fill(true);
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base + new_size), self.page(base + size));
        self.give(from, to);
        self.state.lock().unwrap().taken[from + 1..=to].fill(false);
        Ok(())
    }
}

pub fn arena(window: &Window) -> PageArena<'_> {
    static TAGS: TagPool<SpinLock, Pages, 64> = TagPool::new(SpinLock::new(), Pages);
    Arena::create("pages", PAGE, Some(window), &TAGS)
        .unwrap()
        .with_retained_spans(0)
}

pub fn heap<'a>(arena: &'a PageArena<'a>) -> Heap<'a> {
    // SAFETY: the window's pages are memory that only the arena's borrower uses.
    Heap::new(unsafe { ArenaSource::new(arena) })
}

/// Checks that all layers agree when nothing is on its way.
pub fn settled(window: &Window, arena: &PageArena<'_>, heap: &Heap<'_>) {
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
    drop(talc);
    arena.check().unwrap();
}

pub fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

pub fn layout_aligned(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

pub fn alloc(heap: &Heap<'_>, layout: Layout) -> *mut u8 {
    // SAFETY: the tests ask for no size of zero.
    unsafe { heap.alloc(layout) }
}

pub fn free(heap: &Heap<'_>, block: *mut u8, layout: Layout) {
    // SAFETY: the tests free what they allocated.
    unsafe { heap.dealloc(block, layout) }
}
