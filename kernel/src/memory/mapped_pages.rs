//! The source of the arena "heap pages": addresses with frames mapped at them.
//!
//! ```text
//! base                                   base + size
//! ├──────────── mapped pages ────────────┼── guard ──┤
//! └──── one allocation of "kernel addresses" ────────┘
//! ```
//!
//! The guard page is reserved and never mapped; below `base` lies the guard of another range or the
//! [fence](super::randomisation::Window::leading_guard) that the window begins with. So no range touches another.

use core::sync::atomic::{AtomicUsize, Ordering};

use heap::vmem::{AllocPolicy, Error, Layout, Result, Source};
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PageTableFlags};

use super::frame_list::FrameList;
use super::frames::{self, Purpose};
use super::page_table::{self, BATCH, MapError};
use super::recently_unmapped::{self, UnmappedRange};
use super::{HeapArena, PAGE_SIZE, kernel_addresses_arena, physical};

/// The source of the arena "heap pages".
pub(super) static MAPPED_PAGES: MappedPages = MappedPages {
    ranges: AtomicUsize::new(0),
    pages: AtomicUsize::new(0),
    ever: AtomicUsize::new(0),
};

/// How pages of the heap are mapped.
const FLAGS: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::WRITABLE)
    .union(PageTableFlags::NO_EXECUTE);

const OUT_OF_FRAMES: Error = Error::Other("out of page frames");

/// Lends ranges of addresses with frames mapped at them. Needs no memory but frames.
///
/// Everything is all or nothing: when a frame cannot be had, for a page or for a page table, what
/// was done is undone. Frames are cleared when they are given back, and pages are unmapped, flushed
/// and cleared with no lock held for longer than [`BATCH`] pages take.
pub(super) struct MappedPages {
    /// Ranges that are lent; each has a guard page.
    ranges: AtomicUsize,
    /// Pages that are mapped.
    pages: AtomicUsize,
    /// Pages that were ever mapped, counted each time.
    ever: AtomicUsize,
}

/// How many pages are mapped for the heap.
pub fn mapped() -> usize {
    MAPPED_PAGES.pages.load(Ordering::Relaxed)
}

/// How many pages have been mapped for the heap so far, those included that were unmapped since.
pub fn ever_mapped() -> usize {
    MAPPED_PAGES.ever.load(Ordering::Relaxed)
}

/// How many ranges of pages are mapped for the heap. Each is followed by a guard page.
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
            or_keep(addresses().free(base));
            return Err(error);
        }
        self.ranges.fetch_add(1, Ordering::Relaxed);
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        recently_unmapped::record(UnmappedRange::new(base, size, base));
        // SAFETY: all of it was lent, and the caller does not use it any more.
        unsafe { self.unmap(base, size) };
        self.ranges.fetch_sub(1, Ordering::Relaxed);
        or_keep(addresses().free(base));
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        addresses().resize(base, guarded(new_size)?)?;
        if let Err(error) = self.map(base + size, new_size - size) {
            or_keep(addresses().resize(base, guarded(size)?));
            return Err(error);
        }
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let (tail, tail_size) = (base + new_size, size - new_size);
        recently_unmapped::record(UnmappedRange::new(tail, tail_size, base));
        // SAFETY: all of it was lent, and the caller does not use what lies above `new_size`.
        unsafe { self.unmap(tail, tail_size) };
        or_keep(addresses().resize(base, guarded(new_size)?));
        Ok(())
    }
}

impl MappedPages {
    /// Maps frames at `[base, base + size)`, which is reserved and not mapped.
    fn map(&self, base: usize, size: usize) -> Result<()> {
        let pages = size / PAGE_SIZE;
        // What cannot succeed must not first take, map and give back every frame there is.
        if pages > frames::usage().free {
            return Err(OUT_OF_FRAMES);
        }
        for done in (0..pages).step_by(BATCH) {
            let count = BATCH.min(pages - done);
            if let Err(error) = self.map_batch(page(base) + done as u64, count) {
                // SAFETY: nobody knows of these pages yet.
                unsafe { self.unmap(base, done * PAGE_SIZE) };
                return Err(error);
            }
        }
        Ok(())
    }

    fn map_batch(&self, first: Page, count: usize) -> Result<()> {
        let mut batch = FrameList::<BATCH>::new();
        while batch.as_slice().len() < count
            && let Some(frame) = frames::allocate(Purpose::Heap)
        {
            batch.push(frame);
        }
        let mapped = if batch.as_slice().len() < count {
            Err(MapError::NoFrame)
        } else {
            // SAFETY: the pages are reserved for this, and the frames are in no other use.
            unsafe { page_table::map(first, batch.as_slice(), FLAGS) }
        };
        if let Err(error) = mapped {
            for &frame in batch.as_slice() {
                // SAFETY: it was allocated above, and is mapped nowhere: a batch is mapped as a whole
                // or not at all.
                unsafe { frames::give_back(frame, Purpose::Heap) };
            }
            return Err(match error {
                MapError::NoFrame => OUT_OF_FRAMES,
                MapError::Mapped => Error::Other("a page of the heap's window is mapped already"),
            });
        }
        self.pages.fetch_add(count, Ordering::Relaxed);
        self.ever.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Unmaps `[base, base + size)` and gives the frames back, cleared.
    ///
    /// # Safety
    /// The range was mapped by [`map`](Self::map), and nobody uses it.
    unsafe fn unmap(&self, base: usize, size: usize) {
        let pages = size / PAGE_SIZE;
        for done in (0..pages).step_by(BATCH) {
            let count = BATCH.min(pages - done);
            // SAFETY: by the caller's promise.
            let flushed = unsafe { page_table::unmap(page(base) + done as u64, count) }.flush();
            for &frame in flushed.frames() {
                // SAFETY: it was behind a page that is not mapped any more.
                unsafe { physical::clear(frame) };
                // SAFETY: `map` has allocated it for the heap, and no TLB holds its page any more.
                unsafe { frames::give_back(frame, Purpose::Heap) };
            }
            flushed.free_tables();
            self.pages
                .fetch_sub(flushed.frames().len(), Ordering::Relaxed);
        }
    }
}

/// The arena that the ranges are allocated from.
fn addresses() -> &'static HeapArena {
    // SAFETY: this file frees and resizes the ranges that `import` has allocated, after what they lose
    // was unmapped, and adds no span.
    unsafe { kernel_addresses_arena() }
}

fn page(base: usize) -> Page {
    Page::containing_address(VirtAddr::new(base as u64))
}

/// The size of a range together with its guard page.
fn guarded(size: usize) -> Result<usize> {
    size.checked_add(PAGE_SIZE)
        .ok_or(Error::SizeOverflow { size })
}

/// The layout of a range together with its guard page.
fn with_guard(layout: Layout) -> Result<Layout> {
    let size = guarded(layout.size())?;
    let mut align = layout.align();
    let mut nocross = layout.nocross();
    if let Some(boundary) = nocross.filter(|&boundary| boundary < size) {
        // Without the guard the range is as long as the distance between boundaries.
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

/// Giving addresses back needs nothing that may run out. If it fails all the same, they stay
/// reserved: nothing is mapped there, and the accounts show it.
fn or_keep(given_back: Result<()>) {
    debug_assert_eq!(given_back, Ok(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 0x1_0000;

    #[test]
    fn the_guard_may_lie_beyond_the_bounds() {
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
    fn a_range_that_fills_its_boundaries_is_aligned_to_them() {
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
    fn a_size_without_room_for_the_guard_is_refused() {
        let size = usize::MAX - PAGE_SIZE + 1;
        let layout = Layout::from_size_align(size, PAGE_SIZE).unwrap();
        assert_eq!(with_guard(layout), Err(Error::SizeOverflow { size }));
    }
}
