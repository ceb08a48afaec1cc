//! The two arenas: the addresses that the heap may use, and the pages that are mapped there.

use heap::vmem::{Arena, ArenaView, LockApi, Source};
use spin::Once;

use super::mapped_pages::MAPPED_PAGES;
use super::randomisation::{self, Window};
use super::tags::{TAGS, Tags};
use super::{InitError, PAGE_SIZE, page_table};
use crate::entropy::Seed;
use crate::sync::InterruptLock;

/// The lock of the arenas: it masks interrupts.
pub type PageLock = LockApi<InterruptLock>;

/// An arena of the kernel.
pub type HeapArena = Arena<'static, 'static, Tags, PageLock>;

/// A read-only view of an arena of the kernel.
pub type HeapArenaView = ArenaView<'static, 'static, 'static, Tags, PageLock>;

static WINDOW: Once<Window> = Once::new();
static KERNEL_ADDRESSES: Once<HeapArena> = Once::new();
static HEAP_PAGES: Once<HeapArena> = Once::new();

/// Returns a view of the addresses that the heap may use: a window of 256 GiB in which nothing else is
/// mapped. Its first page is the [fence](Window::leading_guard).
///
/// # Panics
/// Before memory was set up.
pub fn kernel_addresses() -> HeapArenaView {
    KERNEL_ADDRESSES
        .get()
        .expect("memory was not set up")
        .view()
}

/// Returns a view of the pages for the heap. What their arena allocates is mapped, writable and not
/// executable. The arena keeps no pages that are not allocated.
///
/// # Panics
/// Before memory was set up.
pub fn heap_pages() -> HeapArenaView {
    HEAP_PAGES.get().expect("memory was not set up").view()
}

/// Returns the arena of [`kernel_addresses`], to allocate addresses of the window.
///
/// # Panics
/// Before memory was set up.
///
/// # Safety
/// Through this reference and its copies:
/// * only segments are freed or resized that were allocated through it, by code that owns them and
///   has nothing mapped there any more. The heap's spans are segments of this arena too: freeing one
///   gives its addresses to another allocation while the heap uses them.
/// * no span is added: pages of the heap are mapped wherever this arena has addresses.
pub unsafe fn kernel_addresses_arena() -> &'static HeapArena {
    KERNEL_ADDRESSES.get().expect("memory was not set up")
}

/// Returns the arena of [`heap_pages`], to allocate pages.
///
/// # Panics
/// Before memory was set up.
///
/// # Safety
/// Through this reference and its copies:
/// * only segments are freed or resized that were allocated through it, by code that owns them and
///   does not use the pages it gives up. The heaps of the global allocator are segments of this arena
///   too: freeing one unmaps every block in it.
/// * no span is added: callers take what this arena allocates for mapped memory.
pub unsafe fn heap_pages_arena() -> &'static HeapArena {
    HEAP_PAGES.get().expect("memory was not set up")
}

/// Where the window is; `None` before memory was set up.
pub fn window() -> Option<&'static Window> {
    WINDOW.get()
}

/// Makes the arenas, and a window at a place that `seed` chooses.
pub(super) fn init(seed: Seed) -> Result<(), InitError> {
    let window =
        Window::choose(seed, page_table::is_level_4_entry_unused).ok_or(InitError::NoAddresses)?;
    let addresses = arena("kernel addresses", None)?;
    let fence = window.leading_guard();
    addresses
        .add_span(window.addresses().start, randomisation::SIZE)
        .and_then(|()| addresses.xalloc_at(fence.start, fence.len()))
        .map_err(InitError::Arena)?;
    let pages = arena("heap pages", Some(&MAPPED_PAGES))?.with_retained_spans(0);
    KERNEL_ADDRESSES.call_once(|| addresses);
    HEAP_PAGES.call_once(|| pages);
    WINDOW.call_once(|| window);
    Ok(())
}

fn arena(label: &'static str, source: Option<&'static dyn Source>) -> Result<HeapArena, InitError> {
    Arena::create(label, PAGE_SIZE, source, &TAGS).map_err(InitError::Arena)
}
