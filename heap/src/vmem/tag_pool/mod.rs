//! The tag pool: a supply of boundary tags for any number of arenas, from a static reserve and
//! from whole pages.

mod pages;
mod reserve;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::tag_supply::{Page, PageSupply};
use super::{BoundaryTag, Lock, TagSupply};
use pages::{PER_PAGE, TagPages};
use reserve::FreeReserve;

/// With fewer free tags than this, the pool gets another page.
const LOW_WATER: usize = 48;
/// With more free tags than this, the pool releases pages without tags in use.
const HIGH_WATER: usize = LOW_WATER + 2 * PER_PAGE;
/// The number of free tags that are reserved for refilling: the pool hands them out only while it
/// gets another page, to the arenas from which the page comes.
const RESERVED_FOR_REFILL: usize = 16;

/// A pool of boundary tags, designed as a `static` that arenas share. `&TagPool` is a
/// [`TagSupply`].
///
/// The pool begins with a reserve of `RESERVE` tags, which must be more than 16. At the end of a
/// series of calls it adapts: if few tags are free, it gets a page from its [`PageSupply`]. If many
/// are free, it releases pages without tags in use. It holds its lock during neither.
///
/// The pages may come from arenas that use this pool. The last 16 free tags are reserved for these
/// arenas, and a page has more tags than a chain of arenas takes to provide one.
///
/// ```text
///  free tags         0 … 16                  17 … 47       48 … 174    175 …
///                   ├───────────────────────┼─────────────┼───────────┼──────────────────────▶
///  hands out tags    while it gets a page    yes           yes         yes
///  pages             gets one                gets one                  releases unused ones
/// ```
///
/// With 64-bit pointers a page has 63 tags, and 174 is 48 plus twice that.
///
/// ```
/// use heap::vmem::{Arena, LockApi, NoPages, TagCounts, TagPool};
/// type Lock = LockApi<spin::Mutex<()>>;
///
/// let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// let arena = Arena::<_, Lock>::create("numbers", 1, None, &tags)?;
/// arena.add_span(0, 100)?;
/// let in_use = TagCounts { in_use: 16, free: 48, tag_pages: 0, index_pages: 0 };
/// assert_eq!(tags.counts(), in_use);
/// drop(arena);
/// assert_eq!(tags.counts().free, 64);
/// # Ok::<(), heap::vmem::Error>(())
/// ```
///
/// Pages for the hash tables of arenas come from the same supply. A pool may be moved while no
/// arena uses it.
///
/// A page must stay mapped at the same address while the pool has it. One tag in use pins its page,
/// with up to 62 free tags. A pool with few tags in use may therefore still have many pages. It
/// takes tags from pages in use first, so that other pages can become empty.
pub struct TagPool<L: Lock, P: PageSupply, const RESERVE: usize = 64> {
    lock: L,
    pages: P,
    reserve: UnsafeCell<[MaybeUninit<BoundaryTag>; RESERVE]>,
    /// Accessed only while `lock` is held, or with exclusive access in `drop`.
    state: UnsafeCell<State>,
}

/// The numbers of tags and pages of a [`TagPool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagCounts {
    /// The tags that arenas have, in use or cached.
    pub in_use: usize,
    /// The free tags, including those of the static reserve.
    pub free: usize,
    /// The pages of tags.
    pub tag_pages: usize,
    /// The pages that arenas have for their hash tables.
    pub index_pages: usize,
}

struct State {
    reserve: FreeReserve,
    pages: TagPages,
    /// Whether a thread is getting a page.
    refilling: bool,
    counts: TagCounts,
}

// SAFETY: the raw pointers in the state lead to pages that belong to this pool alone.
unsafe impl<L: Lock + Send, P: PageSupply + Send, const RESERVE: usize> Send
    for TagPool<L, P, RESERVE>
{
}
// SAFETY: `locked` alone accesses the state through a shared reference, one thread at a time.
unsafe impl<L: Lock + Sync, P: PageSupply + Sync, const RESERVE: usize> Sync
    for TagPool<L, P, RESERVE>
{
}

impl<L: Lock, P: PageSupply, const RESERVE: usize> TagPool<L, P, RESERVE> {
    /// Creates a pool with a reserve of `RESERVE` free tags, and no page yet.
    pub const fn new(lock: L, pages: P) -> Self {
        const { assert!(RESERVE > RESERVED_FOR_REFILL) };
        Self {
            lock,
            pages,
            reserve: UnsafeCell::new([const { MaybeUninit::uninit() }; RESERVE]),
            state: UnsafeCell::new(State {
                reserve: FreeReserve::new(),
                pages: TagPages::new(),
                refilling: false,
                counts: TagCounts {
                    in_use: 0,
                    free: RESERVE,
                    tag_pages: 0,
                    index_pages: 0,
                },
            }),
        }
    }

    /// Returns the numbers of tags and pages. Constant time.
    pub fn counts(&self) -> TagCounts {
        self.locked(|state| state.counts)
    }

    /// Runs `change` on the state with the lock held.
    fn locked<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the lock excludes other threads, and no `change` in this file calls the pool, so
        // the reference is unique.
        change(unsafe { &mut *self.state.get() })
    }

    /// Returns the address of the first tag of the reserve.
    fn reserve_start(&self) -> NonNull<BoundaryTag> {
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(self.reserve.get()) }.cast()
    }

    /// Returns whether a tag belongs to the reserve.
    fn is_reserve(&self, tag: NonNull<BoundaryTag>) -> bool {
        let start = self.reserve_start().addr().get();
        (start..start + size_of::<[BoundaryTag; RESERVE]>()).contains(&tag.addr().get())
    }

    /// Gets a page, if few tags are free and no other thread is getting one.
    fn refill(&self) {
        let wanted = self.locked(|state| {
            let wanted = state.counts.free < LOW_WATER && !state.refilling;
            state.refilling |= wanted;
            wanted
        });
        if !wanted {
            return;
        }
        let page = self.pages.allocate_page().map(|page| {
            // SAFETY: the supply returns a page that is valid and has no other user.
            unsafe { pages::format(page) }
        });
        self.locked(|state| {
            state.refilling = false;
            if let Some(page) = page {
                state.counts.tag_pages += 1;
                state.counts.free += PER_PAGE;
                // SAFETY: `format` initialised the page above, and no other code has seen it.
                unsafe { state.pages.add(page) };
            }
        });
    }

    /// Releases pages without tags in use, while many tags are free.
    fn release_empty_pages(&self) {
        while let Some(page) = self.locked(State::take_surplus) {
            // SAFETY: the page came from this supply, and `take_surplus` removed it when no tag in
            // it was in use.
            unsafe { self.pages.deallocate_page(page) };
        }
    }
}

impl State {
    /// Takes a tag, from a page if there is one.
    ///
    /// # Safety
    /// `reserve` is the address of this pool's reserve, which has `size` tags.
    unsafe fn allocate(
        &mut self,
        reserve: NonNull<BoundaryTag>,
        size: usize,
    ) -> Option<NonNull<BoundaryTag>> {
        if self.counts.free <= RESERVED_FOR_REFILL && !self.refilling {
            return None;
        }
        let tag = self
            .pages
            .allocate()
            // SAFETY: the caller passes this pool's reserve, whose free tags only the pool uses.
            .or_else(|| unsafe { self.reserve.allocate(reserve, size) })?;
        self.counts.free -= 1;
        self.counts.in_use += 1;
        Some(tag)
    }

    /// Removes and returns a page without tags in use, if many tags are free.
    fn take_surplus(&mut self) -> Option<NonNull<Page>> {
        if self.counts.free <= HIGH_WATER {
            return None;
        }
        self.take_empty()
    }

    /// Removes and returns a page without tags in use.
    fn take_empty(&mut self) -> Option<NonNull<Page>> {
        let page = self.pages.take_empty()?;
        self.counts.tag_pages -= 1;
        self.counts.free -= PER_PAGE;
        Some(page)
    }
}

// SAFETY: a tag lies in the reserve, which stays in place while the pool is borrowed, or in a page
// of the supply. Both are valid and aligned. A tag in use is in no list of free tags.
unsafe impl<L: Lock, P: PageSupply, const RESERVE: usize> TagSupply for &TagPool<L, P, RESERVE> {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        // SAFETY: `reserve_start` returns the address of this pool's reserve of `RESERVE` tags.
        self.locked(|state| unsafe { state.allocate(self.reserve_start(), RESERVE) })
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        self.locked(|state| {
            if self.is_reserve(tag) {
                // SAFETY: the caller returns a tag of this reserve. The reserve has not moved
                // since, because the arena with the tag borrows the pool.
                unsafe { state.reserve.deallocate(self.reserve_start(), tag) };
            } else {
                // SAFETY: the caller returns a tag of this pool. It is not from the reserve, so it
                // is from a page.
                unsafe { state.pages.deallocate(tag) };
            }
            state.counts.free += 1;
            state.counts.in_use -= 1;
        });
    }

    fn done(&self) {
        self.refill();
        self.release_empty_pages();
    }

    fn allocate_page(&self) -> Option<NonNull<Page>> {
        let page = self.pages.allocate_page()?;
        self.locked(|state| state.counts.index_pages += 1);
        Some(page)
    }

    unsafe fn deallocate_page(&self, page: NonNull<Page>) {
        self.locked(|state| state.counts.index_pages -= 1);
        // SAFETY: by the caller's contract the page came from `allocate_page`, which took it from
        // this supply, and is no longer in use.
        unsafe { self.pages.deallocate_page(page) };
    }
}

impl<L: Lock, P: PageSupply, const RESERVE: usize> Drop for TagPool<L, P, RESERVE> {
    /// Releases all pages without tags in use. The others leak with the arenas that use them.
    fn drop(&mut self) {
        while let Some(page) = self.state.get_mut().take_empty() {
            // SAFETY: the page came from this supply, and `take_empty` removed it when no tag in
            // it was in use.
            unsafe { self.pages.deallocate_page(page) };
        }
    }
}

/// A [`PageSupply`] without pages, for a [`TagPool`] that consists of its reserve.
///
/// The pool hands out all but the last 16 tags of its reserve. The hash tables of arenas do not
/// grow.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

// SAFETY: `allocate_page` never returns a page, so the contract about pages holds.
unsafe impl PageSupply for NoPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        None
    }

    unsafe fn deallocate_page(&self, _page: NonNull<Page>) {}
}
