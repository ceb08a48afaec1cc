//! A [`Memory`] for unit tests: frames in a block of the host's memory, and real page tables in it,
//! which no CPU uses.

use core::ops::Range;
use core::ptr;
use std::alloc::{Layout, alloc_zeroed};
use std::boxed::Box;
use std::vec::Vec;

use heap::vmem::TagPool;
use spin::Mutex;
use x86_64::structures::paging::mapper::TranslateResult;
use x86_64::structures::paging::page::PageRangeInclusive;
use x86_64::structures::paging::{
    Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::mapped_pages::{MappedPages, PageArena};
use crate::memory::{self, Memory, PAGE_SIZE, Purpose};
use crate::tags::{PageLock, TagFrames};

/// The first address of the window: the last page but one that a table of level 1 maps, so that
/// short ranges need several tables too.
pub(crate) const WINDOW: usize = 0x7000_0000_0000 + 510 * PAGE_SIZE;

/// The contents of frames that were never handed out.
const UNTOUCHED: u8 = 0xdd;

/// What was done last, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// These pages of the range that begins at the second address are going to be unmapped.
    WillUnmap(Range<usize>, usize),
    /// This many pages were flushed.
    Flush(usize),
    /// This many frames were freed.
    Free(Purpose, usize),
}

#[derive(Default)]
pub(crate) struct State {
    free: Vec<PhysFrame>,
    pub(crate) heap: usize,
    pub(crate) page_tables: usize,
    pub(crate) tags: usize,
    /// The number of calls that get a frame before all fail.
    pub(crate) frames_left: Option<usize>,
    /// The number of calls that map a page before all fail.
    pub(crate) mappings_left: Option<usize>,
    pub(crate) keeps_tables: bool,
    /// The addresses of the window are memory of the host, which a program may use like pages.
    pub(crate) is_window_usable: bool,
    pub(crate) events: Vec<Event>,
}

impl State {
    fn count(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Heap => &mut self.heap,
            Purpose::PageTables => &mut self.page_tables,
            Purpose::Tags => &mut self.tags,
        }
    }
}

/// Counts a call down. Returns whether it fails.
fn fails(left: &mut Option<usize>) -> bool {
    match left {
        None => false,
        Some(0) => true,
        Some(calls) => {
            *calls -= 1;
            false
        }
    }
}

/// Returns a block of `bytes` bytes, which are zero, at the boundary of a page. It is never freed.
pub(crate) fn leaked_block(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, PAGE_SIZE).unwrap();
    assert!(bytes > 0);
    // SAFETY: the size is not zero.
    let block = unsafe { alloc_zeroed(layout) };
    assert!(!block.is_null());
    block
}

/// Returns page tables that map nothing, the offset of their frames, and `frames` other frames at
/// this offset.
pub(crate) fn empty_tables(frames: usize) -> (OffsetPageTable<'static>, VirtAddr, Vec<PhysFrame>) {
    let block = leaked_block((frames + 1) * PAGE_SIZE);
    let offset = VirtAddr::new(block.expose_provenance() as u64);
    // SAFETY: the first frame is zero, and so an empty table. It is never freed.
    let table = unsafe { &mut *block.cast() };
    // SAFETY: all frames lie in the block, at this offset.
    let mapper = unsafe { OffsetPageTable::new(table, offset) };
    let frame = |index| PhysFrame::containing_address(PhysAddr::new(index * PAGE_SIZE as u64));
    (mapper, offset, (1..=frames as u64).map(frame).collect())
}

pub(crate) struct HostMemory {
    offset: VirtAddr,
    mapper: Mutex<OffsetPageTable<'static>>,
    pub(crate) state: Mutex<State>,
}

impl HostMemory {
    /// Returns a memory with `frames` free frames, which are not zero.
    pub(crate) fn new(frames: usize) -> &'static Self {
        let (mapper, offset, free) = empty_tables(frames);
        let memory = Self {
            offset,
            mapper: Mutex::new(mapper),
            state: Mutex::new(State {
                free,
                ..State::default()
            }),
        };
        for &frame in &memory.state.lock().free {
            // SAFETY: no code uses the frame.
            unsafe { memory::pointer::<u8>(&memory, frame).write_bytes(UNTOUCHED, PAGE_SIZE) };
        }
        Box::leak(Box::new(memory))
    }

    /// Returns the frame that is mapped at `address`.
    pub(crate) fn frame_at(&self, address: usize) -> Option<PhysFrame> {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(address as u64));
        self.mapper.lock().translate_page(page).ok()
    }

    /// Returns the flags of the page that is mapped at `address`.
    pub(crate) fn flags_at(&self, address: usize) -> Option<PageTableFlags> {
        match self.mapper.lock().translate(VirtAddr::new(address as u64)) {
            TranslateResult::Mapped { flags, .. } => Some(flags),
            _ => None,
        }
    }

    /// Returns the flags of the entries that lead to the page at `address`, from level 4 down to 2.
    pub(crate) fn parent_flags_at(&self, address: usize) -> [PageTableFlags; 3] {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(address as u64));
        let mapper = self.mapper.lock();
        let mut table = mapper.level_4_table();
        [page.p4_index(), page.p3_index(), page.p2_index()].map(|index| {
            let entry = &table[index];
            let next = memory::pointer::<PageTable>(self, entry.frame().unwrap());
            // SAFETY: the entry leads to a table, which does not change while the mapper is locked.
            table = unsafe { next.as_ref() };
            entry.flags()
        })
    }

    /// Returns the first byte of the page that is mapped at `address`.
    pub(crate) fn byte(&self, address: usize) -> Option<*mut u8> {
        let frame = self.frame_at(address)?;
        Some(memory::pointer(self, frame).as_ptr())
    }

    /// Returns the number of frames in use for pages and page tables.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.heap, state.page_tables)
    }

    fn free(&self, frames: &[PhysFrame], purpose: Purpose) {
        let mut state = self.state.lock();
        for &frame in frames {
            // SAFETY: the frame is a part of the block, and the caller does not use it any more.
            let bytes = unsafe { memory::pointer::<[u8; PAGE_SIZE]>(self, frame).as_ref() };
            // A frame that was not used is as it came.
            let is_untouched = bytes.iter().all(|&byte| byte == UNTOUCHED);
            let is_zero = bytes.iter().all(|&byte| byte == 0);
            assert!(is_zero || is_untouched, "{frame:?} is not zero");
            assert!(!state.free.contains(&frame), "{frame:?} is free already");
            state.free.push(frame);
        }
        *state.count(purpose) -= frames.len();
        state.events.push(Event::Free(purpose, frames.len()));
    }
}

// SAFETY: `free` has each frame of the block once that is not in use. The block is never freed. No
// CPU translates by its page tables.
unsafe impl Memory for HostMemory {
    type Mapper = OffsetPageTable<'static>;

    unsafe fn with_mapper<R>(&self, work: impl FnOnce(&mut Self::Mapper) -> R) -> R {
        work(&mut self.mapper.lock())
    }

    fn allocate_frame(&self, purpose: Purpose) -> Option<PhysFrame> {
        let mut state = self.state.lock();
        if fails(&mut state.frames_left) {
            return None;
        }
        let frame = state.free.pop()?;
        *state.count(purpose) += 1;
        Some(frame)
    }

    unsafe fn free_frame(&self, frame: PhysFrame, purpose: Purpose) {
        self.free(&[frame], purpose);
    }

    unsafe fn free_frames(&self, frames: &[PhysFrame], purpose: Purpose) {
        self.free(frames, purpose);
    }

    fn physical_offset(&self) -> VirtAddr {
        self.offset
    }

    fn free_frame_count(&self) -> usize {
        self.state.lock().free.len()
    }

    fn flush(&self, pages: PageRangeInclusive) {
        let event = Event::Flush(pages.count());
        self.state.lock().events.push(event);
        let is_window_usable = self.state.lock().is_window_usable;
        for page in pages {
            let address = page.start_address().as_u64() as usize;
            if is_window_usable && self.frame_at(address).is_none() {
                let bytes = ptr::with_exposed_provenance_mut::<u8>(address);
                // Restored pages must be zero, as their frames are.
                // SAFETY: the page is memory of the host. It was unmapped, so no code uses it.
                unsafe { bytes.write_bytes(0, PAGE_SIZE) };
            }
        }
    }

    fn will_unmap(&self, pages: Range<usize>, range: usize) {
        let event = Event::WillUnmap(pages, range);
        self.state.lock().events.push(event);
    }

    fn keeps_tables(&self) -> bool {
        self.state.lock().keeps_tables
    }

    fn fails_to_map(&self) -> bool {
        fails(&mut self.state.lock().mappings_left)
    }
}

/// Mapped pages of a memory of its own, with an arena.
pub(crate) struct Fixture {
    pub(crate) memory: &'static HostMemory,
    pub(crate) pages: &'static MappedPages<HostMemory>,
    pub(crate) arena: PageArena<HostMemory>,
}

impl Fixture {
    pub(crate) fn new(frames: usize) -> Self {
        Self::with_window(frames, WINDOW..WINDOW + (1 << 30))
    }

    /// Returns a fixture with another window than [`WINDOW`].
    pub(crate) fn with_window(frames: usize, window: Range<usize>) -> Self {
        let memory = HostMemory::new(frames);
        let tags = TagPool::new(PageLock::new(), TagFrames::new(memory));
        let tags = Box::leak(Box::new(tags));
        let pages = Box::leak(Box::new(MappedPages::new(memory)));
        // SAFETY: the memory is usable, and its page tables map nothing.
        unsafe { pages.init(window, tags) }.unwrap();
        let arena = pages.create_arena(tags).unwrap();
        Self {
            memory,
            pages,
            arena,
        }
    }
}
