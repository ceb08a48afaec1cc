//! Where the boundary tags of an arena come from.

#[cfg(feature = "nightly")]
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::Bt;
pub use super::pool::{NoPages, TagCounts, TagPool};

/// The size of a [`Page`]: 4 KiB.
pub const PAGE_SIZE: usize = 4096;

/// A page of memory for the structures of an arena.
#[repr(C, align(4096))]
pub struct Page([MaybeUninit<u8>; PAGE_SIZE]);

/// A supply of boundary tags for arenas.
///
/// An arena calls its supply only while it does not hold its lock, and keeps a few tags in hand, so
/// that most operations do not call it at all. With the feature `nightly`, every
/// `core::alloc::Allocator` is such a supply. An operation takes at most four tags before it
/// begins to change anything; freeing and shrinking take none.
///
/// # Safety
/// Memory that `allocate` returned is valid for reads and writes of a [`Bt`], is aligned for it and
/// is not used by anybody else until it is given to `deallocate`, wherever the supply is moved in
/// the meantime. The same holds for pages.
pub unsafe trait Allocator {
    /// Memory for one boundary tag; what it contains does not matter.
    fn allocate(&self) -> Option<NonNull<Bt>>;

    /// Takes back the memory of a boundary tag.
    ///
    /// # Safety
    /// `tag` came from `allocate` of this supply and is not used any more.
    unsafe fn deallocate(&self, tag: NonNull<Bt>);

    /// Tells the supply that an operation in which it was called is over, whether it succeeded or
    /// not. This is the time to restock.
    fn done(&self) {}

    /// A page for the index of allocated segments; what it contains does not matter. Without such
    /// pages, as by default, the index does not grow, and gets slower with the number of segments.
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        None
    }

    /// Takes back a page.
    ///
    /// # Safety
    /// `page` came from `allocate_page` of this supply and is not used any more.
    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let _ = page;
    }
}

#[cfg(feature = "nightly")]
// SAFETY: an allocator's memory fits the layout, is nobody else's, and stays where it is while the
// allocator is moved.
unsafe impl<T: core::alloc::Allocator> Allocator for T {
    fn allocate(&self) -> Option<NonNull<Bt>> {
        let memory = self.allocate(Layout::new::<Bt>()).ok()?;
        Some(memory.cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<Bt>) {
        // SAFETY: the caller says that the tag came from `allocate`, and gives it back.
        unsafe { self.deallocate(tag.cast(), Layout::new::<Bt>()) };
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let memory = self.allocate(Layout::new::<Page>()).ok()?;
        Some(memory.cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: the caller says that the page came from `allocate_page`, and gives it back.
        unsafe { self.deallocate(page.cast(), Layout::new::<Page>()) };
    }
}

/// A supply of whole pages, from which a [`TagPool`] makes boundary tags.
///
/// # Safety
/// A page that `allocate_page` returned is valid for reads and writes and is not used by anybody
/// else until it is given to `deallocate_page`, wherever the supply is moved in the meantime.
pub unsafe trait PageSupply {
    /// A page; what it contains does not matter.
    fn allocate_page(&self) -> Option<NonNull<Page>>;

    /// Takes back a page.
    ///
    /// # Safety
    /// `page` came from `allocate_page` of this supply and is not used any more.
    unsafe fn deallocate_page(&self, page: NonNull<Page>);
}
