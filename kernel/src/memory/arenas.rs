//! The two arenas: the addresses that the heap may use, and the pages that are mapped there.

use heap::vmem::lock::LockApi;
use heap::vmem::{Arena, Source};
use spin::Once;
use x86_64::structures::paging::{Page, PageTableIndex};

use super::mapped_pages::MAPPED_PAGES;
use super::tags::{TAGS, Tags};
use super::{InitError, PAGE_SIZE, page_table};
use crate::sync::InterruptLock;

/// The lock of the arenas: it masks interrupts.
pub type PageLock = LockApi<InterruptLock>;

/// An arena of the kernel.
pub type HeapArena = Arena<'static, 'static, Tags, PageLock>;

/// What one level 4 entry of the page tables covers: 512 GiB.
const WINDOW_SIZE: usize = 1 << 39;

/// The level 4 entry that covers the window.
static WINDOW: Once<PageTableIndex> = Once::new();
static KERNEL_ADDRESSES: Once<HeapArena> = Once::new();
static HEAP_PAGES: Once<HeapArena> = Once::new();

/// The addresses that the heap may use: a window of 512 GiB in which nothing else is mapped, but for
/// its first and its last page, which stay unmapped.
///
/// # Panics
/// Before memory was set up.
pub fn kernel_addresses() -> &'static HeapArena {
    KERNEL_ADDRESSES.get().expect("memory was not set up")
}

/// The pages for the heap: what this arena allocates is mapped, writable and not executable.
/// It keeps no pages that are not allocated.
///
/// # Panics
/// Before memory was set up.
pub fn heap_pages() -> &'static HeapArena {
    HEAP_PAGES.get().expect("memory was not set up")
}

/// The level 4 entry that covers the window.
pub(crate) fn window() -> Option<PageTableIndex> {
    WINDOW.get().copied()
}

pub(super) fn init() -> Result<(), InitError> {
    let index = page_table::unused_level_4_entry().ok_or(InitError::NoAddresses)?;
    let zero = PageTableIndex::new(0);
    let start = Page::from_page_table_indices(index, zero, zero, zero).start_address();
    let base = start.as_u64() as usize + PAGE_SIZE;

    let addresses = arena("kernel addresses", None)?;
    addresses
        .add_span(base, WINDOW_SIZE - 2 * PAGE_SIZE)
        .map_err(InitError::Arena)?;
    let pages = arena("heap pages", Some(&MAPPED_PAGES))?.with_kept_spans(0);
    KERNEL_ADDRESSES.call_once(|| addresses);
    HEAP_PAGES.call_once(|| pages);
    WINDOW.call_once(|| index);
    Ok(())
}

fn arena(label: &'static str, source: Option<&'static dyn Source>) -> Result<HeapArena, InitError> {
    Arena::create(label, PAGE_SIZE, source, &TAGS).map_err(InitError::Arena)
}
