//! The supply of boundary tags, and of pages for the hash table of an arena.

#[cfg(feature = "nightly")]
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::BoundaryTag;

/// The size of a [`Page`]: 4 KiB.
pub const PAGE_SIZE: usize = 4096;

/// A page of memory for the structures of an arena, aligned to its size.
///
/// The picture shows its two uses on 64-bit machines: boundary tags, and buckets of the hash table
/// of allocated segments. A large table also has pages of pointers to its pages.
///
/// ```text
///        0        64       128      192            4032     4096
///        ├────────┼────────┼────────┼────────┄┄────┼────────┤
///  pool  │ header │ tag 0  │ tag 1  │ tag 2       │ tag 62 │   boundary tags of 64 bytes
///        ├──┬──┬──┴────────┴────────┴────────┄┄────┴─────┬──┤
///  table │ 0│ 1│ …                                       │511│  buckets of 8 bytes
///        └──┴──┴─────────────────────────────┄┄──────────┴──┘
/// ```
///
/// ```
/// use heap::vmem::{PAGE_SIZE, Page};
///
/// assert_eq!((size_of::<Page>(), align_of::<Page>()), (PAGE_SIZE, PAGE_SIZE));
/// ```
#[repr(C, align(4096))]
pub struct Page([MaybeUninit<u8>; PAGE_SIZE]);

/// A supply of boundary tags for arenas.
///
/// An arena caches tags, so most operations do not call the supply at all. It calls the supply
/// without a lock held. With the feature `nightly`, every `core::alloc::Allocator` is a tag supply.
///
/// ```text
///  cached tags    0 … 5                         6 … 32              33 …
///                 ├─────────────────────────────┼───────────────────┼────────────────────▶
///  an operation   refills the cache to 16       uses the cache      returns all but 16
/// ```
///
/// An operation takes at most four tags: two for a new span, and two to divide it. It makes sure of
/// them before it changes anything. Two more stay reserved for shrinking, which takes one. Freeing
/// takes none. If the supply is exhausted, six cached tags suffice for any operation.
///
/// # Safety
/// * Memory that `allocate` returned is valid for reads and writes of a [`BoundaryTag`], and is
///   aligned for it.
/// * No other code uses the memory before it is passed to `deallocate` or the supply's lifetime
///   ends, even if the supply is moved meanwhile. A supply with tags inside itself must therefore
///   be a reference, as [`&TagPool`](super::TagPool) is.
/// * The same holds for pages.
#[doc(alias = "vmem_populate")]
pub unsafe trait TagSupply {
    /// Returns memory for one boundary tag, initialised or not.
    ///
    /// On `None` the caller's operation fails with
    /// [`Error::AllocatorError`](super::Error::AllocatorError), unless enough tags are cached.
    fn allocate(&self) -> Option<NonNull<BoundaryTag>>;

    /// Takes back the memory of a boundary tag.
    ///
    /// # Safety
    /// `tag` came from `allocate` of this supply, and is no longer in use.
    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>);

    /// Ends a series of calls by an arena, which has refilled or drained its tag cache.
    ///
    /// A supply can get or release memory of its own here. An arena that did not get a tag asks
    /// once more after this call.
    fn done(&self) {}

    /// Returns a page for the hash table of allocated segments, initialised or not.
    ///
    /// By default this is `None`. Then the table does not grow, and the cost of `free` grows with
    /// the number of segments.
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        None
    }

    /// Takes back a page.
    ///
    /// # Safety
    /// `page` came from `allocate_page` of this supply, and is no longer in use.
    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        let _ = page;
    }
}

#[cfg(feature = "nightly")]
// SAFETY: by its contract, an allocator returns memory that fits the layout, has no other user, and
// stays valid while the allocator is moved.
unsafe impl<T: core::alloc::Allocator> TagSupply for T {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        let memory = self.allocate(Layout::new::<BoundaryTag>()).ok()?;
        Some(memory.cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        // SAFETY: by the caller's contract the tag came from `allocate`, which used this layout.
        unsafe { self.deallocate(tag.cast(), Layout::new::<BoundaryTag>()) };
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let memory = self.allocate(Layout::new::<Page>()).ok()?;
        Some(memory.cast())
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        // SAFETY: by the caller's contract the page came from `allocate_page`, with this layout.
        unsafe { self.deallocate(page.cast(), Layout::new::<Page>()) };
    }
}

/// A supply of whole pages, which a [`TagPool`](super::TagPool) divides into boundary tags.
///
/// ```text
///  frames ──▶ PageSupply ━━ page ━━▶ TagPool ━┳━ 63 tags ━━▶ arenas
///                                             ┗━ page ━━━━━▶ the hash table of an arena
/// ```
///
/// ```
/// use core::{mem::MaybeUninit, ptr::NonNull};
/// use heap::vmem::{Arena, LockApi, Page, PageSupply, TagPool};
/// type Lock = LockApi<spin::Mutex<()>>;
///
/// struct Host;
///
/// // SAFETY: a leaked box is valid memory without another owner.
/// unsafe impl PageSupply for Host {
///     fn allocate_page(&self) -> Option<NonNull<Page>> {
///         let page = Box::new(MaybeUninit::<Page>::uninit());
///         Some(NonNull::from(Box::leak(page)).cast())
///     }
///
///     unsafe fn deallocate_page(&self, page: NonNull<Page>) {
///         // SAFETY: the page is a box that `allocate_page` leaked.
///         drop(unsafe { Box::from_raw(page.cast::<MaybeUninit<Page>>().as_ptr()) });
///     }
/// }
///
/// let tags: TagPool<Lock, Host> = TagPool::new(Lock::new(), Host);
/// let one = Arena::<_, Lock>::create("one", 1, None, &tags)?;
/// let two = Arena::<_, Lock>::create("two", 1, None, &tags)?;
/// one.add_span(0, 100)?;
/// two.add_span(0, 100)?;
/// // Each arena has taken 16 tags. Fewer than 48 of the pool's 64 were left, so it took a page.
/// let counts = tags.counts();
/// assert_eq!((counts.in_use, counts.tag_pages), (32, 1));
/// # #[cfg(target_pointer_width = "64")]
/// assert_eq!(counts.free, 64 + 63 - 32);
/// # Ok::<(), heap::vmem::Error>(())
/// ```
///
/// # Safety
/// A page that `allocate_page` returned is valid for reads and writes. No other code uses it before
/// it is passed to `deallocate_page`, even if the supply is moved meanwhile.
pub unsafe trait PageSupply {
    /// Returns a page, initialised or not.
    fn allocate_page(&self) -> Option<NonNull<Page>>;

    /// Takes back a page.
    ///
    /// # Safety
    /// `page` came from `allocate_page` of this supply, and is no longer in use.
    unsafe fn deallocate_page(&self, page: NonNull<Page>);
}
