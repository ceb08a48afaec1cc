//! Where the boundary tags of an arena come from.

#[cfg(feature = "nightly")]
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::BoundaryTag;

/// The size of a [`Page`]: 4 KiB.
pub const PAGE_SIZE: usize = 4096;

/// A page of memory for the structures of an arena, aligned to its size.
///
/// What becomes of one, on 64-bit machines. A large index has pages of pointers to its pages, too.
///
/// ```text
///        0        64       128      192            4032     4096
///        ├────────┼────────┼────────┼────────┄┄────┼────────┤
///  pool  │ header │ tag 0  │ tag 1  │ tag 2       │ tag 62 │   boundary tags of 64 bytes
///        ├──┬──┬──┴────────┴────────┴────────┄┄────┴─────┬──┤
///  index │ 0│ 1│ …                                       │511│  buckets of 8 bytes
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
/// An arena calls its supply only while it does not hold its lock, and keeps tags in hand, so that
/// most operations do not call it at all. With the feature `nightly`, every
/// `core::alloc::Allocator` is such a supply.
///
/// ```text
///  tags in hand   0 … 5                         6 … 32              33 …
///                 ├─────────────────────────────┼───────────────────┼────────────────────▶
///  an operation   asks first, until it has 16   needs no more       gives back all but 16
/// ```
///
/// An operation takes four tags at most: two for a new span, and two to divide it. It makes sure of
/// them before it changes anything, and leaves two for those that shrink a segment, which take one.
/// Freeing takes none. If the supply is exhausted, six in hand are enough to go on.
///
/// # Safety
/// Memory that `allocate` returned is valid for reads and writes of a [`BoundaryTag`], is aligned for it and
/// is not used by anybody else until it is given to `deallocate` or the supply's lifetime ends,
/// wherever the supply is moved in the meantime. The same holds for pages. A supply whose memory lies in
/// itself must therefore be a reference to it, as [`&TagPool`](TagPool) is.
pub unsafe trait TagSupply {
    /// Returns memory for one boundary tag; what it contains does not matter. On `None` the caller's
    /// operation fails with [`Error::AllocatorError`](super::Error::AllocatorError), unless the arena
    /// has enough tags in hand.
    fn allocate(&self) -> Option<NonNull<BoundaryTag>>;

    /// Takes back the memory of a boundary tag.
    ///
    /// # Safety
    /// `tag` came from `allocate` of this supply and is not used any more.
    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>);

    /// Tells the supply that the arena has asked for all that it wants for now, and perhaps got it,
    /// or has given back all that it can spare. This is the time to restock: an arena that got
    /// nothing asks once more.
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
unsafe impl<T: core::alloc::Allocator> TagSupply for T {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        let memory = self.allocate(Layout::new::<BoundaryTag>()).ok()?;
        Some(memory.cast())
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        // SAFETY: the caller says that the tag came from `allocate`, and gives it back.
        unsafe { self.deallocate(tag.cast(), Layout::new::<BoundaryTag>()) };
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
/// ```text
///  frames ──▶ PageSupply ━━ page ━━▶ TagPool ━┳━ 63 tags ━━▶ arenas
///                                             ┗━ page ━━━━━▶ the index of an arena
/// ```
///
/// ```
/// use core::{mem::MaybeUninit, ptr::NonNull};
/// use heap::vmem::{Arena, LockApi, Page, PageSupply, TagPool};
/// type Lock = LockApi<spin::Mutex<()>>;
///
/// struct Host;
///
/// // SAFETY: a box is valid memory that is nobody else's.
/// unsafe impl PageSupply for Host {
///     fn allocate_page(&self) -> Option<NonNull<Page>> {
///         let page = Box::new(MaybeUninit::<Page>::uninit());
///         Some(NonNull::from(Box::leak(page)).cast())
///     }
///
///     unsafe fn deallocate_page(&self, page: NonNull<Page>) {
///         // SAFETY: it was a box.
///         drop(unsafe { Box::from_raw(page.cast::<MaybeUninit<Page>>().as_ptr()) });
///     }
/// }
///
/// let tags: TagPool<Lock, Host> = TagPool::new(Lock::new(), Host);
/// let one = Arena::<_, Lock>::create("one", 1, None, &tags)?;
/// let two = Arena::<_, Lock>::create("two", 1, None, &tags)?;
/// one.add_span(0, 100)?;
/// two.add_span(0, 100)?;
/// // Each arena has taken 16. Of the pool's 64 that left fewer than 48, so it took a page.
/// let counts = tags.counts();
/// assert_eq!((counts.in_use, counts.tag_pages), (32, 1));
/// # #[cfg(target_pointer_width = "64")]
/// assert_eq!(counts.free, 64 + 63 - 32);
/// # Ok::<(), heap::vmem::Error>(())
/// ```
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
