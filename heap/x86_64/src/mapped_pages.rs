//! The source of an arena of pages: ranges of addresses with frames mapped at them.
//!
//! ```text
//! base                                   base + size
//! ├──────────── mapped pages ────────────┼── guard ──┤
//! └──── one allocation of "kernel addresses" ────────┘
//! ```
//!
//! The guard page is allocated and never mapped. Below `base` lies the guard page of another range,
//! or the leading guard: the first page of the window. So no range touches another.
//!
//! Pages of a range can be *holes*: the heap has discarded them. They are not mapped and have no
//! frame, and their addresses stay allocated. The page tables alone say which pages are holes.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use heap::vmem::{AllocPolicy, Arena, ArenaView, Error, Layout, Result, Source};
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PageTableFlags, PhysFrame};

use crate::frame_list::FrameList;
use crate::memory::{self, Memory, PAGE_SIZE, Purpose};
use crate::page_set::{BATCH, PageSet};
use crate::page_table::{self, MapError, UnlinkedTables};
use crate::restored_pages::RestoredPages;
use crate::tags::{PageLock, Tags};

/// An arena with frames of `M` as boundary tags, and a lock that masks interrupts.
pub type PageArena<M> = Arena<'static, 'static, Tags<M>, PageLock>;

/// A read-only view of a [`PageArena`].
pub type PageArenaView<'a, M> = ArenaView<'a, 'static, 'static, Tags<M>, PageLock>;

/// The flags of pages of the heap: writable, and not executable.
const FLAGS: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::WRITABLE)
    .union(PageTableFlags::NO_EXECUTE);

const OUT_OF_FRAMES: Error = Error::Other("out of page frames");

/// A source of ranges of addresses with frames mapped at them. Needs no memory except frames.
///
/// Every operation succeeds as a whole or changes nothing: if no frame is free, for a page or a
/// page table, the source undoes the steps so far. Released pages are unmapped, flushed and
/// cleared, and so are discarded ones. Neither the page tables nor the frames stay locked for
/// longer than 16 pages take.
pub struct MappedPages<M: Memory + 'static> {
    memory: &'static M,
    /// The arena of the addresses of the window.
    addresses: Once<PageArena<M>>,
    /// The number of ranges in use. Each has a guard page.
    ranges: AtomicUsize,
    /// The number of pages that are mapped.
    pages: AtomicUsize,
    /// The number of pages that were ever mapped: a page counts each time it is mapped.
    ever: AtomicUsize,
    /// The number of pages of ranges that are holes.
    discarded: AtomicUsize,
    /// The number of holes that were ever mapped again.
    ever_restored: AtomicUsize,
    unlinked: UnlinkedTables,
}

impl<M: Memory> MappedPages<M> {
    /// Creates a source of frames of `memory`. It has no addresses before [`init`](Self::init).
    pub const fn new(memory: &'static M) -> Self {
        Self {
            memory,
            addresses: Once::new(),
            ranges: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            ever: AtomicUsize::new(0),
            discarded: AtomicUsize::new(0),
            ever_restored: AtomicUsize::new(0),
            unlinked: UnlinkedTables::new(),
        }
    }

    /// Sets the window: the addresses that pages are mapped at. Its first page, the leading guard,
    /// stays unmapped.
    ///
    /// # Errors
    /// Returns an error if the arena of the addresses could not be created, or refuses the window,
    /// whose ends must be multiples of [`PAGE_SIZE`], or if an address of the window is not
    /// canonical.
    ///
    /// # Safety
    /// * This function is called once, when the memory is usable.
    /// * No page of the window is mapped, and no other code maps any.
    /// * Page tables for the window that exist, but map nothing, may be freed as if the memory had
    ///   allocated them, unless the memory [keeps tables](Memory::keeps_tables).
    pub unsafe fn init(&self, window: Range<usize>, tags: Tags<M>) -> Result<()> {
        const NOT_CANONICAL: Error =
            Error::Other("the window has addresses that are not canonical");
        let half = |address: usize| {
            let canonical = VirtAddr::try_new(address as u64);
            canonical.map(|_| address >> 63).map_err(|_| NOT_CANONICAL)
        };
        if half(window.start)? != half(window.end.wrapping_sub(1))? {
            return Err(NOT_CANONICAL);
        }
        let addresses = Arena::create("kernel addresses", PAGE_SIZE, None, tags)?;
        addresses.add_span(window.start, window.len())?;
        addresses.xalloc_at(window.start, PAGE_SIZE)?;
        self.addresses.call_once(|| addresses);
        Ok(())
    }

    /// Creates an arena of pages, whose source is this one. It retains no free pages.
    ///
    /// Pages that the arena allocates are mapped, writable and not executable, until they are
    /// discarded.
    ///
    /// # Errors
    /// Returns an error if there is no memory for boundary tags.
    pub fn create_arena(&'static self, tags: Tags<M>) -> Result<PageArena<M>> {
        let arena = Arena::create("heap pages", PAGE_SIZE, Some(self), tags)?;
        Ok(arena.with_retained_spans(0))
    }

    /// Returns a view of the addresses of the window: `None` before [`init`](Self::init).
    pub fn addresses(&self) -> Option<PageArenaView<'_, M>> {
        self.addresses.get().map(Arena::view)
    }

    /// Returns the arena of the addresses of the window, to allocate some: `None` before
    /// [`init`](Self::init).
    ///
    /// # Safety
    /// For this reference and its copies, the caller guarantees:
    /// * Code frees and resizes only segments that it has allocated through this reference, and in
    ///   which it has no page mapped any more. The ranges of mapped pages are segments of this
    ///   arena too.
    /// * No span is added: pages are mapped at all addresses of this arena.
    pub unsafe fn addresses_arena(&self) -> Option<&PageArena<M>> {
        self.addresses.get()
    }

    /// Returns the number of pages that are mapped.
    pub fn mapped(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Returns the number of pages that were ever mapped, including pages that are unmapped again.
    pub fn ever_mapped(&self) -> usize {
        self.ever.load(Ordering::Relaxed)
    }

    /// Returns the number of pages that are holes now: discarded, and neither restored nor released
    /// since.
    pub fn discarded(&self) -> usize {
        self.discarded.load(Ordering::Relaxed)
    }

    /// Returns the number of holes that were ever mapped again. [`ever_mapped`](Self::ever_mapped)
    /// counts them too.
    pub fn ever_restored(&self) -> usize {
        self.ever_restored.load(Ordering::Relaxed)
    }

    /// Returns the number of ranges in use. A guard page follows each range.
    pub fn ranges(&self) -> usize {
        self.ranges.load(Ordering::Relaxed)
    }
}

impl<M: Memory> Source for MappedPages<M> {
    fn quantum(&self) -> usize {
        PAGE_SIZE
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        let addresses = self.own_addresses()?;
        let base = addresses.xalloc(with_guard(layout)?, AllocPolicy::InstantFit)?;
        if let Err(error) = self.map(base, layout.size()) {
            ignore_failure(addresses.free(base));
            return Err(error);
        }
        self.ranges.fetch_add(1, Ordering::Relaxed);
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        let addresses = self.own_addresses()?;
        self.memory.will_unmap(base..base + size, base);
        // SAFETY: `import` and `extend` have mapped the range, and the caller guarantees that no
        // code uses it any more.
        let unmapped = unsafe { self.unmap(base, size) };
        self.forget_holes(size / PAGE_SIZE - unmapped);
        self.ranges.fetch_sub(1, Ordering::Relaxed);
        ignore_failure(addresses.free(base));
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let addresses = self.own_addresses()?;
        addresses.resize(base, guarded(new_size)?)?;
        if let Err(error) = self.map(base + size, new_size - size) {
            ignore_failure(addresses.resize(base, guarded(size)?));
            return Err(error);
        }
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let addresses = self.own_addresses()?;
        let (tail, tail_size) = (base + new_size, size - new_size);
        self.memory.will_unmap(tail..base + size, base);
        // SAFETY: `import` and `extend` have mapped the tail, and the caller guarantees that no
        // code uses it any more.
        let unmapped = unsafe { self.unmap(tail, tail_size) };
        self.forget_holes(tail_size / PAGE_SIZE - unmapped);
        ignore_failure(addresses.resize(base, guarded(new_size)?));
        Ok(())
    }

    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        let range = self.own_addresses()?.segment_of(base);
        let range = range.map_or(base, |segment| segment.base);
        self.memory.will_unmap(base..base + size, range);
        // SAFETY: `import` and `extend` have mapped the pages that are not holes, and the caller
        // guarantees that no code uses them any more.
        let unmapped = unsafe { self.unmap(base, size) };
        self.discarded.fetch_add(unmapped, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        // A request that cannot succeed must not first map and unmap all free frames.
        let free = self.memory.free_frame_count();
        let missing = |(first, count)| page_table::not_mapped(self.memory, first, count).len();
        if size / PAGE_SIZE > free && batches(base, size).map(missing).sum::<usize>() > free {
            return Err(OUT_OF_FRAMES);
        }
        let mut restored = RestoredPages::new();
        for (first, count) in batches(base, size) {
            let holes = page_table::not_mapped(self.memory, first, count);
            if holes.len() == 0 {
                continue;
            }
            // Free frames need not be zero. Restored pages must be.
            // SAFETY: `map_batch` has just allocated the frame.
            let clear = |frame| unsafe { memory::clear(self.memory, frame) };
            match self.map_batch(holes, clear) {
                // SAFETY: the frame is zero, and has just been mapped at the first hole. The caller
                // of `restore` does not use holes before it returns.
                Ok(frame) => unsafe { restored.push(holes, frame, self.memory) },
                Err(error) => {
                    while let Some(pages) = restored.pop() {
                        // SAFETY: a batch before this one has mapped these pages, and no code uses
                        // them yet.
                        unsafe { self.unmap_batch(pages) };
                    }
                    return Err(error);
                }
            }
        }
        while let Some(pages) = restored.pop() {
            self.forget_holes(pages.len());
            self.ever_restored.fetch_add(pages.len(), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<M: Memory> MappedPages<M> {
    /// Returns the arena that the ranges are allocated from.
    ///
    /// This module frees and resizes only ranges that `import` has allocated, after it has unmapped
    /// the freed part, and adds no span.
    fn own_addresses(&self) -> Result<&PageArena<M>> {
        const NO_WINDOW: Error = Error::Other("the source of pages has no window yet");
        self.addresses.get().ok_or(NO_WINDOW)
    }

    /// Counts `pages` fewer holes: they are mapped, or no longer in a range.
    fn forget_holes(&self, pages: usize) {
        let before = self.discarded.fetch_sub(pages, Ordering::Relaxed);
        debug_assert!(pages <= before, "a page was missing that is no hole");
    }

    /// Maps frames at `[base, base + size)`, addresses that are allocated and not mapped.
    fn map(&self, base: usize, size: usize) -> Result<()> {
        let pages = size / PAGE_SIZE;
        // A request that cannot succeed must not first map and unmap all free frames.
        if pages > self.memory.free_frame_count() {
            return Err(OUT_OF_FRAMES);
        }
        for (first, count) in batches(base, size) {
            if let Err(error) = self.map_batch(PageSet::all(first, count), |_| ()) {
                let done = (first - page(base)) as usize;
                // SAFETY: the batches before this one have mapped these pages, and no code uses
                // them yet.
                unsafe { self.unmap(base, done * PAGE_SIZE) };
                return Err(error);
            }
        }
        Ok(())
    }

    /// Maps frames at `pages`, of which there is at least one, after a call of `prepare` for each
    /// frame. Returns the frame at the first page.
    fn map_batch(&self, pages: PageSet, prepare: impl Fn(PhysFrame)) -> Result<PhysFrame> {
        let count = pages.len();
        let mut batch = FrameList::<BATCH>::new();
        self.memory
            .allocate_frames(&mut batch, count, Purpose::Heap);
        batch.as_slice().iter().copied().for_each(prepare);
        let mapped = if batch.as_slice().len() < count {
            Err(MapError::NoFrame)
        } else {
            // SAFETY: the addresses are allocated for these pages, and the frames are freshly
            // allocated: no other code uses either.
            unsafe { page_table::map(self.memory, &self.unlinked, pages, batch.as_slice(), FLAGS) }
        };
        if let Err(error) = mapped {
            // SAFETY: the frames were allocated above, and are mapped at no page: a batch is mapped
            // as a whole or not at all.
            unsafe { self.memory.free_frames(batch.as_slice(), Purpose::Heap) };
            return Err(match error {
                MapError::NoFrame => OUT_OF_FRAMES,
                MapError::Mapped => Error::Other("a page of the heap's window is mapped already"),
            });
        }
        self.pages.fetch_add(count, Ordering::Relaxed);
        self.ever.fetch_add(count, Ordering::Relaxed);
        Ok(batch.as_slice()[0])
    }

    /// Unmaps `[base, base + size)` except for holes, then clears and frees the frames. Returns the
    /// number of pages that were mapped.
    ///
    /// # Safety
    /// [`map_batch`](Self::map_batch) has mapped the pages, and no code uses them any more.
    unsafe fn unmap(&self, base: usize, size: usize) -> usize {
        batches(base, size)
            // SAFETY: the caller guarantees that no code uses the range.
            .map(|(first, count)| unsafe { self.unmap_batch(PageSet::all(first, count)) })
            .sum()
    }

    /// Unmaps `pages` except for holes, then clears and frees the frames. Returns the number of
    /// pages that were mapped.
    ///
    /// # Safety
    /// The same as for [`unmap`](Self::unmap).
    unsafe fn unmap_batch(&self, pages: PageSet) -> usize {
        // SAFETY: the caller guarantees that no code uses the pages.
        let flushed = unsafe { page_table::unmap(self.memory, &self.unlinked, pages) };
        let flushed = flushed.flush(self.memory);
        for &frame in flushed.frames() {
            // SAFETY: the frame was mapped at one of the pages only, which is flushed now.
            unsafe { memory::clear(self.memory, frame) };
        }
        // SAFETY: `map_batch` has allocated the frames for the heap, and no TLB translates their
        // pages any more.
        unsafe { self.memory.free_frames(flushed.frames(), Purpose::Heap) };
        flushed.free_tables(self.memory);
        let unmapped = flushed.frames().len();
        self.pages.fetch_sub(unmapped, Ordering::Relaxed);
        unmapped
    }
}

/// Returns the pages of `[base, base + size)` in batches: the first page of each and their number.
fn batches(base: usize, size: usize) -> impl Iterator<Item = (Page, usize)> {
    let pages = size / PAGE_SIZE;
    (0..pages)
        .step_by(BATCH)
        .map(move |done| (page(base) + done as u64, BATCH.min(pages - done)))
}

/// Returns the page at `base`.
fn page(base: usize) -> Page {
    Page::containing_address(VirtAddr::new(base as u64))
}

/// Returns the size of a range with its guard page.
fn guarded(size: usize) -> Result<usize> {
    size.checked_add(PAGE_SIZE)
        .ok_or(Error::SizeOverflow { size })
}

/// Returns the layout of a range with its guard page.
fn with_guard(layout: Layout) -> Result<Layout> {
    let size = guarded(layout.size())?;
    let mut align = layout.align();
    let mut nocross = layout.nocross();
    if let Some(boundary) = nocross.filter(|&boundary| boundary < size) {
        // The range without its guard page fills the space between two boundaries.
        if layout.phase().is_some() {
            return Err(Error::Unsatisfiable { size });
        }
        align = align.max(boundary);
        nocross = None;
    }
    let mut result = Layout::from_size_align(size, align).ok_or(Error::AllocZeroSize)?;
    if let Some(boundary) = nocross {
        result = result
            .with_nocross(boundary)
            .ok_or(Error::Unsatisfiable { size })?;
    }
    if let Some(phase) = layout.phase() {
        result = result.with_phase(phase);
    }
    if let Some(min) = layout.min() {
        result = result.with_min(min);
    }
    if let Some(max) = layout.max() {
        result = result.with_max(max.saturating_add(PAGE_SIZE));
    }
    Ok(result)
}

/// Ignores a failure to free addresses, which needs nothing that can run out. Should it fail, the
/// addresses stay allocated and unmapped.
fn ignore_failure(freed: Result<()>) {
    debug_assert_eq!(freed, Ok(()));
}

#[cfg(test)]
#[path = "mapped_pages_tests.rs"]
mod tests;
