//! The two arenas: the addresses of the heap's window, and the pages that are mapped there.

use heap_x86_64::{PageArena, PageArenaView};
use spin::Once;

use super::heap_memory::HeapMemory;
use super::mapped_pages::MAPPED_PAGES;
use super::randomisation::Window;
use super::tags::TAGS;
use super::{InitError, page_table};
use crate::entropy::Seed;

/// An arena of the kernel.
pub type HeapArena = PageArena<HeapMemory>;

/// A read-only view of an arena of the kernel.
pub type HeapArenaView = PageArenaView<'static, HeapMemory>;

static WINDOW: Once<Window> = Once::new();
static HEAP_PAGES: Once<HeapArena> = Once::new();

/// Returns a view of the addresses that the heap may use: a window of 256 GiB that contains no
/// other mapping. Its first page is the [leading guard](Window::leading_guard).
///
/// # Panics
/// Panics before the memory is initialised.
pub fn kernel_addresses() -> HeapArenaView {
    MAPPED_PAGES
        .addresses()
        .expect("the memory is not initialised")
}

/// Returns a view of the pages for the heap. Pages that the arena allocates are mapped, writable
/// and not executable, until they are discarded. The arena retains no free pages.
///
/// # Panics
/// Panics before the memory is initialised.
pub fn heap_pages() -> HeapArenaView {
    HEAP_PAGES
        .get()
        .expect("the memory is not initialised")
        .view()
}

/// Returns the arena of [`kernel_addresses`], to allocate addresses of the window.
///
/// # Panics
/// Panics before the memory is initialised.
///
/// # Safety
/// For this reference and its copies, the caller guarantees:
/// * Code frees and resizes only segments that it has allocated through this reference, and in
///   which it has no page mapped any more. The heap's spans are segments of this arena too: freeing
///   one gives its addresses to another allocation while the heap uses them.
/// * No span is added: the kernel maps pages of the heap at all addresses of this arena.
pub unsafe fn kernel_addresses_arena() -> &'static HeapArena {
    // SAFETY: the caller guarantees the same.
    unsafe { MAPPED_PAGES.addresses_arena() }.expect("the memory is not initialised")
}

/// Returns the arena of [`heap_pages`], to allocate pages.
///
/// # Panics
/// Panics before the memory is initialised.
///
/// # Safety
/// For this reference and its copies, the caller guarantees:
/// * Code frees, resizes and discards only segments that it has allocated through this reference,
///   and whose freed or discarded pages it does not use any more. The heaps of the global allocator
///   are segments of this arena too: freeing one unmaps every block in it.
/// * No span is added: callers rely on all pages of this arena being mapped.
pub unsafe fn heap_pages_arena() -> &'static HeapArena {
    HEAP_PAGES.get().expect("the memory is not initialised")
}

/// Returns the window of the heap, or `None` before the memory is initialised.
pub fn window() -> Option<&'static Window> {
    WINDOW.get()
}

/// Creates the window, whose address `seed` chooses, and the arenas.
///
/// # Safety
/// This function is called once, after the page tables are initialised.
pub(super) unsafe fn init(seed: Seed) -> Result<(), InitError> {
    let window =
        Window::choose(seed, page_table::is_level_4_entry_unused).ok_or(InitError::NoAddresses)?;
    // SAFETY: the level 4 entry of the window maps nothing, and only the heap maps pages there. The
    // caller calls once, when the memory is usable.
    unsafe { MAPPED_PAGES.init(window.addresses(), &TAGS) }.map_err(InitError::Arena)?;
    let pages = MAPPED_PAGES.create_arena(&TAGS).map_err(InitError::Arena)?;
    HEAP_PAGES.call_once(|| pages);
    WINDOW.call_once(|| window);
    Ok(())
}
