//! The source of the arena "heap pages": ranges of addresses with frames mapped at them.
//!
//! ```text
//! base                                   base + size
//! ├──────────── mapped pages ────────────┼── guard ──┤
//! └──── one allocation of "kernel addresses" ────────┘
//! ```
//!
//! The guard page is allocated and never mapped. Below `base` lies the guard page of another range,
//! or the [leading guard](super::randomisation::Window::leading_guard) of the window. So no range
//! touches another.
//!
//! Pages of a range can be *holes*: the heap has discarded them. They are not mapped and have no
//! frame, and their addresses stay allocated. The page tables alone say which pages are holes.

use core::sync::atomic::{AtomicUsize, Ordering};

use heap::vmem::{AllocPolicy, Error, Layout, Result, Source};
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PageTableFlags, PhysFrame};

use super::frame_list::FrameList;
use super::frames::{self, Purpose};
use super::page_set::PageSet;
use super::page_table::{self, BATCH, MapError};
use super::recently_unmapped::{self, UnmappedRange};
use super::restored_pages::RestoredPages;
use super::{HeapArena, PAGE_SIZE, kernel_addresses, kernel_addresses_arena, physical};

/// The source of the arena "heap pages".
pub(super) static MAPPED_PAGES: MappedPages = MappedPages {
    ranges: AtomicUsize::new(0),
    pages: AtomicUsize::new(0),
    ever: AtomicUsize::new(0),
    discarded: AtomicUsize::new(0),
    ever_restored: AtomicUsize::new(0),
};

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
/// longer than [`BATCH`] pages take.
pub(super) struct MappedPages {
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
}

/// Returns the number of pages that are mapped for the heap.
pub fn mapped() -> usize {
    MAPPED_PAGES.pages.load(Ordering::Relaxed)
}

/// Returns the number of pages that were ever mapped for the heap, including pages that are
/// unmapped again.
pub fn ever_mapped() -> usize {
    MAPPED_PAGES.ever.load(Ordering::Relaxed)
}

/// Returns the number of pages in ranges of the heap that are holes now: discarded, and neither
/// restored nor released since.
pub fn discarded() -> usize {
    MAPPED_PAGES.discarded.load(Ordering::Relaxed)
}

/// Returns the number of holes that were ever mapped again. [`ever_mapped`] counts them too.
pub fn ever_restored() -> usize {
    MAPPED_PAGES.ever_restored.load(Ordering::Relaxed)
}

/// Returns the number of ranges that are mapped for the heap. A guard page follows each range.
pub fn ranges() -> usize {
    MAPPED_PAGES.ranges.load(Ordering::Relaxed)
}

impl Source for MappedPages {
    fn quantum(&self) -> usize {
        PAGE_SIZE
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        let base = addresses().xalloc(with_guard(layout)?, AllocPolicy::InstantFit)?;
        if let Err(error) = self.map(base, layout.size()) {
            ignore_failure(addresses().free(base));
            return Err(error);
        }
        self.ranges.fetch_add(1, Ordering::Relaxed);
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        recently_unmapped::record(UnmappedRange::new(base, size, base));
        // SAFETY: `import` and `extend` have mapped the range, and the caller guarantees that no
        // code uses it any more.
        let unmapped = unsafe { self.unmap(base, size) };
        self.forget_holes(size / PAGE_SIZE - unmapped);
        self.ranges.fetch_sub(1, Ordering::Relaxed);
        ignore_failure(addresses().free(base));
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        addresses().resize(base, guarded(new_size)?)?;
        if let Err(error) = self.map(base + size, new_size - size) {
            ignore_failure(addresses().resize(base, guarded(size)?));
            return Err(error);
        }
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let (tail, tail_size) = (base + new_size, size - new_size);
        recently_unmapped::record(UnmappedRange::new(tail, tail_size, base));
        // SAFETY: `import` and `extend` have mapped the tail, and the caller guarantees that no
        // code uses it any more.
        let unmapped = unsafe { self.unmap(tail, tail_size) };
        self.forget_holes(tail_size / PAGE_SIZE - unmapped);
        ignore_failure(addresses().resize(base, guarded(new_size)?));
        Ok(())
    }

    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        let span = kernel_addresses().segment_of(base);
        let span = span.map_or(base, |segment| segment.base);
        recently_unmapped::record(UnmappedRange::new(base, size, span));
        // SAFETY: `import` and `extend` have mapped the pages that are not holes, and the caller
        // guarantees that no code uses them any more.
        let unmapped = unsafe { self.unmap(base, size) };
        self.discarded.fetch_add(unmapped, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        // A request that cannot succeed must not first map and unmap all free frames.
        let free = frames::usage().free;
        let missing = |(first, count)| page_table::not_mapped(first, count).len();
        if size / PAGE_SIZE > free && batches(base, size).map(missing).sum::<usize>() > free {
            return Err(OUT_OF_FRAMES);
        }
        let mut restored = RestoredPages::new();
        for (first, count) in batches(base, size) {
            let holes = page_table::not_mapped(first, count);
            if holes.len() == 0 {
                continue;
            }
            // Free frames are zero, except for those that the firmware left. Restored pages must
            // be.
            // SAFETY: `map_batch` has just allocated the frame.
            let clear = |frame| unsafe { physical::clear(frame) };
            match self.map_batch(holes, clear) {
                // SAFETY: the frame is zero, and has just been mapped at the first hole. The caller
                // of `restore` does not use holes before it returns.
                Ok(frame) => unsafe { restored.push(holes, frame) },
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

impl MappedPages {
    /// Counts `pages` fewer holes: they are mapped, or no longer in a range.
    fn forget_holes(&self, pages: usize) {
        let before = self.discarded.fetch_sub(pages, Ordering::Relaxed);
        debug_assert!(pages <= before, "a page was missing that is no hole");
    }

    /// Maps frames at `[base, base + size)`, addresses that are allocated and not mapped.
    fn map(&self, base: usize, size: usize) -> Result<()> {
        let pages = size / PAGE_SIZE;
        // A request that cannot succeed must not first map and unmap all free frames.
        if pages > frames::usage().free {
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
        frames::allocate_into(&mut batch, count, Purpose::Heap);
        batch.as_slice().iter().copied().for_each(prepare);
        let mapped = if batch.as_slice().len() < count {
            Err(MapError::NoFrame)
        } else {
            // SAFETY: the addresses are allocated for these pages, and the frames are freshly
            // allocated: no other code uses either.
            unsafe { page_table::map(pages, batch.as_slice(), FLAGS) }
        };
        if let Err(error) = mapped {
            // SAFETY: the frames were allocated above, and are mapped at no page: a batch is mapped
            // as a whole or not at all.
            unsafe { frames::free_all_or_panic(batch.as_slice(), Purpose::Heap) };
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
        let flushed = unsafe { page_table::unmap(pages) }.flush();
        for &frame in flushed.frames() {
            // SAFETY: the frame was mapped at one of the pages only, which is flushed now.
            unsafe { physical::clear(frame) };
        }
        // SAFETY: `map_batch` has allocated the frames for the heap, and no TLB translates their
        // pages any more.
        unsafe { frames::free_all_or_panic(flushed.frames(), Purpose::Heap) };
        flushed.free_tables();
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

/// Returns the arena that the ranges are allocated from.
fn addresses() -> &'static HeapArena {
    // SAFETY: this module frees and resizes only ranges that `import` has allocated, after it has
    // unmapped the freed part, and adds no span.
    unsafe { kernel_addresses_arena() }
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
/// addresses stay allocated and unmapped, and the [audit](crate::audit) finds them.
fn ignore_failure(freed: Result<()>) {
    debug_assert_eq!(freed, Ok(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 0x1_0000;

    #[test]
    fn the_guard_page_may_lie_above_the_bounds() {
        let layout = Layout::from_size_align(SIZE, 0x2000).unwrap();
        let layout = layout
            .with_phase(0x1000)
            .with_min(0x5000)
            .with_max(0x1_4fff);
        let guarded = with_guard(layout).unwrap();
        assert_eq!(guarded.size(), SIZE + PAGE_SIZE);
        assert_eq!((guarded.align(), guarded.phase()), (0x2000, Some(0x1000)));
        assert_eq!(
            (guarded.min(), guarded.max()),
            (Some(0x5000), Some(0x1_5fff))
        );
    }

    #[test]
    fn a_range_as_long_as_its_boundaries_is_aligned_to_them() {
        let layout = Layout::from_size_align(SIZE, PAGE_SIZE).unwrap();
        let exact = with_guard(layout.with_nocross(SIZE).unwrap()).unwrap();
        assert_eq!((exact.align(), exact.nocross()), (SIZE, None));
        let loose = with_guard(layout.with_nocross(2 * SIZE).unwrap()).unwrap();
        assert_eq!(
            (loose.align(), loose.nocross()),
            (PAGE_SIZE, Some(2 * SIZE))
        );
    }

    #[test]
    fn a_size_that_overflows_with_its_guard_page_is_refused() {
        let size = usize::MAX - PAGE_SIZE + 1;
        let layout = Layout::from_size_align(size, PAGE_SIZE).unwrap();
        assert_eq!(with_guard(layout), Err(Error::SizeOverflow { size }));
    }
}
