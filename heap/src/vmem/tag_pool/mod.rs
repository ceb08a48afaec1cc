//! A supply of boundary tags for any number of arenas: a static reserve, and whole pages.

mod pages;
mod reserve;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::tag_supply::{Page, PageSupply};
use super::{BoundaryTag, Lock, TagSupply};
use pages::{PER_PAGE, TagPages};
use reserve::FreeReserve;

/// With fewer free tags than this, the pool takes another page.
const LOW_WATER: usize = 48;
/// With more free tags than this, the pool gives empty pages back.
const HIGH_WATER: usize = LOW_WATER + 2 * PER_PAGE;
/// How many free tags are only handed out while the pool takes another page: to arenas from which
/// that page comes.
const KEPT_FOR_REFILL: usize = 16;

/// A pool of boundary tags, made to be a `static` that arenas share: `&TagPool` is an
/// [`TagSupply`].
///
/// It begins with a reserve of its own. When an arena has called it and is done, and few tags are
/// free, it takes a page from its [`PageSupply`]; when many are free, it gives entirely free pages
/// back. It holds its lock during neither. One page has more tags than a chain of arenas takes at a
/// time, so the pages may themselves come from arenas that use this pool: for these the last tags
/// are kept.
///
/// ```text
///  free tags         0 … 16                  17 … 47       48 … 174    175 …
///                   ├───────────────────────┼─────────────┼───────────┼──────────────────────▶
///  hands out tags    while it takes a page   yes           yes         yes
///  pages             takes one               takes one                 gives back unused ones
/// ```
///
/// With 64-bit pointers a page has 63 tags, and 174 is 48 and twice that. `RESERVE` is how many
/// tags the pool begins with: more than 16, or else it does not compile.
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
/// Index pages come from the same supply.
///
/// A pool may be moved while no arena uses it.
///
/// A page must stay mapped, at the same address, while the pool has it. A pool whose pages are
/// nearly all free may still hold many: one tag in use pins its page, and with it the 62 others.
/// Tags are taken from pages in use first, so that pages empty where they can.
pub struct TagPool<L: Lock, P: PageSupply, const RESERVE: usize = 64> {
    lock: L,
    pages: P,
    reserve: UnsafeCell<[MaybeUninit<BoundaryTag>; RESERVE]>,
    /// Only reached with the lock held.
    state: UnsafeCell<State>,
}

/// How many tags and pages a [`TagPool`] has. `free` is what its diagram shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagCounts {
    /// Tags that arenas have, in use or in hand.
    pub in_use: usize,
    /// Tags that are free, those of the static reserve included.
    pub free: usize,
    /// Pages of tags.
    pub tag_pages: usize,
    /// Pages that were handed on for indexes.
    pub index_pages: usize,
}

struct State {
    reserve: FreeReserve,
    pages: TagPages,
    /// Whether somebody is taking a page.
    refilling: bool,
    counts: TagCounts,
}

// SAFETY: what the pointers lead to belongs to the pool.
unsafe impl<L: Lock + Send, P: PageSupply + Send, const RESERVE: usize> Send
    for TagPool<L, P, RESERVE>
{
}
// SAFETY: the lock guards the state.
unsafe impl<L: Lock + Sync, P: PageSupply + Sync, const RESERVE: usize> Sync
    for TagPool<L, P, RESERVE>
{
}

impl<L: Lock, P: PageSupply, const RESERVE: usize> TagPool<L, P, RESERVE> {
    /// A pool with a reserve of `RESERVE` tags, all of them free, and no page yet.
    pub const fn new(lock: L, pages: P) -> Self {
        const { assert!(RESERVE > KEPT_FOR_REFILL) };
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

    /// How many tags and pages there are. Constant time.
    pub fn counts(&self) -> TagCounts {
        self.locked(|state| state.counts)
    }

    fn locked<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the lock is held, and `change` does not call the pool.
        change(unsafe { &mut *self.state.get() })
    }

    fn reserve_start(&self) -> NonNull<BoundaryTag> {
        // SAFETY: a reference is never null.
        unsafe { NonNull::new_unchecked(self.reserve.get()) }.cast()
    }

    /// Whether a tag is one of the reserve.
    fn is_reserve(&self, tag: NonNull<BoundaryTag>) -> bool {
        let start = self.reserve_start().addr().get();
        (start..start + size_of::<[BoundaryTag; RESERVE]>()).contains(&tag.addr().get())
    }

    /// Takes a page, if few tags are free and nobody is at it already.
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
            // SAFETY: the supply gives us the page.
            unsafe { pages::format(page) }
        });
        self.locked(|state| {
            state.refilling = false;
            if let Some(page) = page {
                state.counts.tag_pages += 1;
                state.counts.free += PER_PAGE;
                // SAFETY: it was formatted above, and is nobody else's.
                unsafe { state.pages.add(page) };
            }
        });
    }

    /// Gives back pages without tags in use, if many tags are free.
    fn release_empty_pages(&self) {
        while let Some(page) = self.locked(State::take_surplus) {
            // SAFETY: the page came from this supply, and none of its tags is in use.
            unsafe { self.pages.deallocate_page(page) };
        }
    }
}

impl State {
    /// Takes a tag, from a page if there is one.
    ///
    /// # Safety
    /// `reserve` is where the pool's reserve of `size` tags lies.
    unsafe fn allocate(
        &mut self,
        reserve: NonNull<BoundaryTag>,
        size: usize,
    ) -> Option<NonNull<BoundaryTag>> {
        if self.counts.free <= KEPT_FOR_REFILL && !self.refilling {
            return None;
        }
        let tag = self
            .pages
            .allocate()
            // SAFETY: the caller says where the reserve lies; its free tags are the pool's alone.
            .or_else(|| unsafe { self.reserve.allocate(reserve, size) })?;
        self.counts.free -= 1;
        self.counts.in_use += 1;
        Some(tag)
    }

    /// Removes a page without tags in use, if many tags are free.
    fn take_surplus(&mut self) -> Option<NonNull<Page>> {
        if self.counts.free <= HIGH_WATER {
            return None;
        }
        self.take_empty()
    }

    /// Removes a page without tags in use.
    fn take_empty(&mut self) -> Option<NonNull<Page>> {
        let page = self.pages.take_empty()?;
        self.counts.tag_pages -= 1;
        self.counts.free -= PER_PAGE;
        Some(page)
    }
}

// SAFETY: a tag is either one of the reserve, which stays in place while the pool is borrowed, or
// lies in a page of the supply; and it is in no list of free tags until it is given back.
unsafe impl<L: Lock, P: PageSupply, const RESERVE: usize> TagSupply for &TagPool<L, P, RESERVE> {
    fn allocate(&self) -> Option<NonNull<BoundaryTag>> {
        // SAFETY: that is where this pool's reserve lies.
        self.locked(|state| unsafe { state.allocate(self.reserve_start(), RESERVE) })
    }

    unsafe fn deallocate(&self, tag: NonNull<BoundaryTag>) {
        self.locked(|state| {
            if self.is_reserve(tag) {
                // SAFETY: the caller gives back a tag of this reserve, which has stayed in place:
                // whoever has the tag borrows the pool.
                unsafe { state.reserve.deallocate(self.reserve_start(), tag) };
            } else {
                // SAFETY: the caller gives the tag back, and it is not from the reserve.
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
        // SAFETY: the page came from this supply, and the caller gives it back.
        unsafe { self.pages.deallocate_page(page) };
    }
}

impl<L: Lock, P: PageSupply, const RESERVE: usize> Drop for TagPool<L, P, RESERVE> {
    /// Gives back all pages without tags in use. (The others leak with those who use them.)
    fn drop(&mut self) {
        while let Some(page) = self.state.get_mut().take_empty() {
            // SAFETY: the page came from this supply, and none of its tags is in use.
            unsafe { self.pages.deallocate_page(page) };
        }
    }
}

/// A [`PageSupply`] without pages, for a [`TagPool`] that lives on its reserve: of that it hands
/// out all but the last 16 tags, and indexes do not grow.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

// SAFETY: there are no pages of which anything could be wrong.
unsafe impl PageSupply for NoPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        None
    }

    unsafe fn deallocate_page(&self, _page: NonNull<Page>) {}
}
