//! Mapping frames at pages, and unmapping them, in batches.
//!
//! Operations work on batches of at most [`BATCH`] pages, because the lock of the page tables masks
//! interrupts. A batch is mapped as a whole or not at all. Unmapping has three steps, each of which
//! has a type:
//!
//! ```text
//! unmap ──> Unmapped ── flush ──> Flushed ── frames, free_tables ──> frames that are free to use
//!           TLB may still         no CPU translates
//!           translate             the pages any more
//! ```

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use x86_64::structures::paging::mapper::{CleanUp, MapToError};
use x86_64::structures::paging::page::PageRangeInclusive;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageTableFlags, PageTableIndex, PhysFrame, Size4KiB,
};

use crate::frame_list::FrameList;
use crate::machine;
use crate::memory::{Memory, Purpose};
use crate::page_set::{BATCH, PageSet};

/// The largest number of tables that unmapping [`BATCH`] pages can make empty: two of each of the
/// three lower levels.
const TABLES: usize = 6;

/// The number of batches whose tables are unlinked, but may still be in the TLB of a CPU.
///
/// While there are any, another CPU may find an old, empty table where a page was just mapped by a
/// new one. So pages that are mapped meanwhile are flushed, too. The count rises under the lock of
/// the page tables, and falls after the flush.
pub(crate) struct UnlinkedTables(AtomicUsize);

impl UnlinkedTables {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }
}

/// The reason why a batch was not mapped. No page of the batch is mapped then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapError {
    /// No frame was free for a page table.
    NoFrame,
    /// A page of the range is mapped already.
    Mapped,
}

/// Returns those of `count` pages from `first` on that are not mapped.
pub(crate) fn not_mapped<M: Memory>(memory: &M, first: Page, count: usize) -> PageSet {
    let mut missing = PageSet::none(first);
    let find = |tables: &mut M::Mapper| {
        for page in PageSet::all(first, count).iter() {
            if tables.translate_page(page).is_err() {
                missing.insert(page);
            }
        }
    };
    // SAFETY: `find` changes nothing.
    unsafe { memory.with_mapper(find) };
    missing
}

/// Maps `frames` at `pages`. At most six frames are required for tables.
///
/// # Errors
/// Returns an error if no frame is free for a table, or a page is mapped already. Then no page is
/// mapped.
///
/// # Panics
/// Panics unless `frames` has as many frames as `pages` has pages.
///
/// # Safety
/// The caller owns the addresses of the pages. No use of the frames conflicts with `flags`.
pub(crate) unsafe fn map<M: Memory>(
    memory: &M,
    unlinked: &UnlinkedTables,
    pages: PageSet,
    frames: &[PhysFrame],
    flags: PageTableFlags,
) -> Result<(), MapError> {
    assert!(frames.len() == pages.len());
    let parent_flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let map_all = |tables: &mut M::Mapper| {
        for (page, &frame) in pages.iter().zip(frames) {
            let mapped = if memory.fails_to_map() {
                Err(MapToError::FrameAllocationFailed)
            } else {
                let mut table_frames = TableFrames(memory);
                // SAFETY: the caller owns the page, and guarantees that `flags` suit the frame.
                unsafe {
                    tables.map_to_with_table_flags(
                        page,
                        frame,
                        flags,
                        parent_flags,
                        &mut table_frames,
                    )
                }
            };
            // The TLB holds no translation of a page that was not mapped.
            mapped.map_err(|error| (page, error))?.ignore();
        }
        Ok(unlinked.0.load(Acquire) > 0)
    };
    // SAFETY: the caller owns the addresses of the pages, and nothing else is changed.
    let (failed, error) = match unsafe { memory.with_mapper(map_all) } {
        Ok(false) => return Ok(()),
        Ok(true) => {
            memory.flush(pages.range());
            return Ok(());
        }
        Err(failure) => failure,
    };
    // Tables may have been created for the page that failed, which itself is left as it is.
    let range = PageRangeInclusive {
        end: failed,
        ..pages.range()
    };
    let mut undone = Unmapped::new(range, unlinked);
    // SAFETY: these pages have just been mapped, and no code uses them yet.
    unsafe { undone.unmap(memory, pages.below(failed)) };
    undone.unlink_tables(memory);
    undone.flush(memory).free_tables(memory);
    Err(match error {
        MapToError::FrameAllocationFailed => MapError::NoFrame,
        MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage => MapError::Mapped,
    })
}

/// Unmaps `pages`, and skips those that are not mapped. Unlinks tables that become empty.
///
/// # Safety
/// No code uses the pages.
pub(crate) unsafe fn unmap<'u>(
    memory: &impl Memory,
    unlinked: &'u UnlinkedTables,
    pages: PageSet,
) -> Unmapped<'u> {
    let mut unmapped = Unmapped::new(pages.range(), unlinked);
    // SAFETY: the caller guarantees that no code uses the pages.
    unsafe { unmapped.unmap(memory, pages) };
    unmapped.unlink_tables(memory);
    unmapped
}

/// Returns the parts of a range of at most [`BATCH`] pages that lie in one table of level 1 each.
fn by_table(range: PageRangeInclusive) -> impl Iterator<Item = PageRangeInclusive> {
    let in_first = 511 - u64::from(u16::from(range.start.p1_index()));
    let is_whole = range.end - range.start <= in_first;
    let end = if is_whole {
        range.end
    } else {
        range.start + in_first
    };
    let first = PageRangeInclusive { end, ..range };
    let rest = PageRangeInclusive {
        start: end + 1,
        ..range
    };
    core::iter::once(first).chain((!is_whole).then_some(rest))
}

/// Returns whether the page below or above the range is mapped by the same table of level 1 as the
/// range. Then this table is not empty. (Searching it for an entry in use takes longer than
/// unmapping the pages.)
fn has_neighbour(tables: &impl Mapper<Size4KiB>, range: PageRangeInclusive) -> bool {
    let (first, last) = (range.start.p1_index(), range.end.p1_index());
    let is_mapped = |page| tables.translate_page(page).is_ok();
    (first > PageTableIndex::new(0) && is_mapped(range.start - 1))
        || (last < PageTableIndex::new(511) && is_mapped(range.end + 1))
}

/// Frames of pages that were unmapped, while the TLB may still translate the pages.
#[must_use = "flush, then free the frames"]
pub(crate) struct Unmapped<'u> {
    unlinked: &'u UnlinkedTables,
    range: PageRangeInclusive,
    frames: FrameList<BATCH>,
    tables: FrameList<TABLES>,
}

impl<'u> Unmapped<'u> {
    /// Begins with no page of a range.
    fn new(range: PageRangeInclusive, unlinked: &'u UnlinkedTables) -> Self {
        Self {
            unlinked,
            range,
            frames: FrameList::new(),
            tables: FrameList::new(),
        }
    }

    /// Unmaps `pages`, which lie in the range, and skips those that are not mapped.
    ///
    /// # Safety
    /// No code uses the pages.
    unsafe fn unmap<M: Memory>(&mut self, memory: &M, pages: PageSet) {
        let unmap = |tables: &mut M::Mapper| {
            for page in pages.iter() {
                if let Ok((frame, flush)) = tables.unmap(page) {
                    flush.ignore();
                    self.frames.push(frame);
                }
            }
        };
        // SAFETY: the caller guarantees that no code uses the pages.
        unsafe { memory.with_mapper(unmap) };
    }

    /// Unlinks tables for the pages of the range that are empty.
    ///
    /// Searching tables for entries in use takes as long as unmapping, so the page tables are
    /// locked once more. What others map meanwhile is found.
    ///
    /// Once the lock is free, an interrupt handler may link another table for the same addresses.
    /// So the TLB of this CPU, which has entries of upper levels too, forgets the old one before.
    fn unlink_tables<M: Memory>(&mut self, memory: &M) {
        if memory.keeps_tables() {
            return;
        }
        let unlink = |tables: &mut M::Mapper| {
            for part in by_table(self.range) {
                if !has_neighbour(tables, part) {
                    // SAFETY: `clean_up_addr_range` unlinks empty tables only. Their frames are
                    // collected here, and freed after the flush.
                    unsafe { tables.clean_up_addr_range(part, &mut self.tables) };
                }
            }
            if !self.tables.as_slice().is_empty() {
                self.unlinked.0.fetch_add(1, Relaxed);
                machine::flush(self.range);
            }
        };
        // SAFETY: a table that is empty maps no page that is in use.
        unsafe { memory.with_mapper(unlink) };
    }

    /// Removes the pages from the TLB. After that, frames and addresses may be used again.
    ///
    /// With several CPUs, it waits for all of them: so it holds no lock.
    pub(crate) fn flush(self, memory: &impl Memory) -> Flushed<'u> {
        // Flushing a page also removes cached entries of upper levels, and with them the tables
        // that were unlinked.
        memory.flush(self.range);
        if !self.tables.as_slice().is_empty() {
            self.unlinked.0.fetch_sub(1, Release);
        }
        Flushed(self)
    }
}

/// Frames of pages that were unmapped and that no CPU translates any more.
#[must_use = "free the frames"]
pub(crate) struct Flushed<'u>(Unmapped<'u>);

impl Flushed<'_> {
    /// Returns the frames that were mapped.
    pub(crate) fn frames(&self) -> &[PhysFrame] {
        self.0.frames.as_slice()
    }

    /// Frees the page tables that were unlinked.
    pub(crate) fn free_tables(&self, memory: &impl Memory) {
        for &frame in self.0.tables.as_slice() {
            // An empty table is zero, as frames that are freed must be.
            // SAFETY: `TableFrames` has allocated the frame. The table is unlinked and flushed.
            unsafe { memory.free_frame(frame, Purpose::PageTables) };
        }
    }
}

/// Allocates the frames of page tables.
struct TableFrames<'m, M>(&'m M);

// SAFETY: `Memory` hands each frame out once.
unsafe impl<M: Memory> FrameAllocator<Size4KiB> for TableFrames<'_, M> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.allocate_frame(Purpose::PageTables)
    }
}

#[cfg(test)]
mod tests {
    use heap::vmem::AllocPolicy::InstantFit;
    use x86_64::VirtAddr;

    use super::*;
    use crate::host_memory::{Event, Fixture, HostMemory};
    use crate::memory::PAGE_SIZE;

    #[test]
    fn a_batch_that_needs_two_tables_of_each_level_is_unmapped() {
        // A multiple of 512 GiB: here begin a table of level 3 and those below it.
        let boundary = 0x7000_0000_0000;
        let below = BATCH / 2 * PAGE_SIZE;
        // The first page is the leading guard.
        let window = boundary - below - PAGE_SIZE..boundary + (1 << 30);
        let fixture = Fixture::with_window(100, window);
        let base = fixture.arena.alloc(BATCH * PAGE_SIZE, InstantFit).unwrap();
        assert_eq!(base, boundary - below);
        assert_eq!(fixture.memory.in_use(), (BATCH, 6));
        fixture.arena.free(base).unwrap();
        assert_eq!(fixture.memory.in_use(), (0, 0));
    }

    #[test]
    fn pages_that_are_mapped_while_a_table_is_unlinked_are_flushed() {
        let memory = HostMemory::new(20);
        let unlinked = UnlinkedTables::new();
        let pages = |number: u64| {
            let first = Page::containing_address(VirtAddr::new(0x7000_0000_0000));
            PageSet::all(first + number, 1)
        };
        let map = |number| {
            let frame = memory.allocate_frame(Purpose::Heap).unwrap();
            memory.state.lock().events.clear();
            let flags = PageTableFlags::PRESENT;
            // SAFETY: no code uses the pages or the frames.
            unsafe { map(memory, &unlinked, pages(number), &[frame], flags) }.unwrap();
            memory.state.lock().events.clone()
        };
        assert_eq!(map(0), []);
        // SAFETY: no code uses the page.
        let unmapped = unsafe { unmap(memory, &unlinked, pages(0)) };
        assert_eq!(
            map(1),
            [Event::Flush(1)],
            "a new table takes the old one's place"
        );
        assert_eq!(map(2), [Event::Flush(1)], "or has taken it");
        unmapped.flush(memory).free_tables(memory);
        assert_eq!(map(3), []);
        // A page that leaves its table in use unlinks none.
        // SAFETY: no code uses the page.
        let unmapped = unsafe { unmap(memory, &unlinked, pages(3)) };
        assert_eq!(map(4), []);
        unmapped.flush(memory).free_tables(memory);
    }
}
