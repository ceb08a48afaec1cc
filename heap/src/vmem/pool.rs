//! A supply of boundary tags for any number of arenas: a static reserve, and whole pages.
//!
//! ```text
//!  page   0 ┌──────────────────────────────┐
//!           │ Header: free tags, links     │
//!        64 ├──────────────────────────────┤
//!           │ tag 0                        │
//!       128 ├──────────────────────────────┤
//!           ⋮                              ⋮
//!      4032 ├──────────────────────────────┤
//!           │ tag 62                       │
//!      4096 └──────────────────────────────┘
//! ```

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::tags::{PAGE_SIZE, Page, PageSupply};
use super::{Allocator, Bt, Lock};

/// With fewer free tags than this, the pool takes another page.
const LOW_WATER: usize = 48;
/// With more free tags than this, the pool gives empty pages back.
const HIGH_WATER: usize = LOW_WATER + 2 * PER_PAGE;
/// How many free tags are only handed out while the pool takes another page: to arenas from which
/// that page comes.
const FOR_RESTOCKING: usize = 16;
/// How many tags a page holds.
const PER_PAGE: usize = (PAGE_SIZE - size_of::<Header>()) / size_of::<Bt>();

/// A pool of boundary tags, made to be a `static` that arenas share: `&TagPool` is an
/// [`Allocator`].
///
/// It begins with a reserve of its own. When an arena has called it and is done, and few tags are
/// free, it takes a page from its [`PageSupply`]; when many are free, it gives entirely free pages
/// back. It holds its lock during neither. One page has more tags than a chain of arenas takes at a
/// time, so the pages may themselves come from arenas that use this pool: for these the last tags
/// are kept.
///
/// Index pages come from the same supply.
///
/// A page must stay mapped, at the same address, while the pool has it. A pool whose pages are
/// nearly all free may still hold many: one tag in use pins its page, and with it the 62 others.
/// Tags are taken from pages in use first, so that pages empty where they can.
pub struct TagPool<L: Lock, P: PageSupply, const RESERVE: usize = 64> {
    lock: L,
    pages: P,
    reserve: UnsafeCell<[MaybeUninit<Bt>; RESERVE]>,
    /// Only reached with the lock held.
    state: UnsafeCell<State>,
}

/// How many tags and pages a [`TagPool`] has.
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
    /// Free tags of the reserve that have been in use before.
    reserve: FreeTags,
    /// How many tags of the reserve have ever been in use.
    reserve_touched: usize,
    /// The pages with free tags; those without tags in use come last.
    first: Option<NonNull<Header>>,
    last: Option<NonNull<Header>>,
    /// Whether somebody is taking a page.
    restocking: bool,
    counts: TagCounts,
}

/// What a page of tags begins with.
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
struct Header {
    free: FreeTags,
    in_use: usize,
    /// Links in the list of pages with free tags.
    before: Option<NonNull<Header>>,
    after: Option<NonNull<Header>>,
}

/// Free tags; the memory of each holds a pointer to the next.
#[derive(Default)]
struct FreeTags(Option<NonNull<Bt>>);

impl FreeTags {
    /// Adds a tag.
    ///
    /// # Safety
    /// The memory of the tag is valid, and nobody else uses it until it is popped.
    unsafe fn push(&mut self, tag: NonNull<Bt>) {
        // SAFETY: the caller gives us the memory, which is larger than a pointer and aligned.
        unsafe { tag.cast::<Option<NonNull<Bt>>>().write(self.0) };
        self.0 = Some(tag);
    }

    fn pop(&mut self) -> Option<NonNull<Bt>> {
        let tag = self.0?;
        // SAFETY: `push` wrote the pointer, and the memory has been ours since.
        self.0 = unsafe { tag.cast::<Option<NonNull<Bt>>>().read() };
        Some(tag)
    }
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
    /// A pool with a reserve of `RESERVE` tags and no page yet.
    pub const fn new(lock: L, pages: P) -> Self {
        const { assert!(RESERVE > FOR_RESTOCKING) };
        Self {
            lock,
            pages,
            reserve: UnsafeCell::new([const { MaybeUninit::uninit() }; RESERVE]),
            state: UnsafeCell::new(State {
                reserve: FreeTags(None),
                reserve_touched: 0,
                first: None,
                last: None,
                restocking: false,
                counts: TagCounts {
                    in_use: 0,
                    free: RESERVE,
                    tag_pages: 0,
                    index_pages: 0,
                },
            }),
        }
    }

    /// How many tags and pages there are.
    pub fn counts(&self) -> TagCounts {
        self.locked(|state| state.counts)
    }

    fn locked<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the lock is held, and `change` does not call the pool.
        change(unsafe { &mut *self.state.get() })
    }

    fn reserve_start(&self) -> NonNull<Bt> {
        // SAFETY: a reference is never null.
        unsafe { NonNull::new_unchecked(self.reserve.get()) }.cast()
    }

    /// Whether a tag is one of the reserve.
    fn is_reserve(&self, tag: NonNull<Bt>) -> bool {
        let start = self.reserve_start().addr().get();
        (start..start + size_of::<[Bt; RESERVE]>()).contains(&tag.addr().get())
    }

    /// Takes a page, if few tags are free and nobody is at it already.
    fn restock(&self) {
        let wanted = self.locked(|state| {
            let wanted = state.counts.free < LOW_WATER && !state.restocking;
            state.restocking |= wanted;
            wanted
        });
        if !wanted {
            return;
        }
        let page = self.pages.allocate_page().map(|page| {
            // SAFETY: the supply gives us the page.
            unsafe { format(page) }
        });
        self.locked(|state| {
            state.restocking = false;
            if let Some(page) = page {
                state.counts.tag_pages += 1;
                state.counts.free += PER_PAGE;
                state.push_back(page);
            }
        });
    }

    /// Gives back pages without tags in use, if many tags are free.
    fn give_back(&self) {
        while let Some(page) = self.locked(State::take_surplus) {
            // SAFETY: the page came from this supply, and none of its tags is in use.
            unsafe { self.pages.deallocate_page(page.cast()) };
        }
    }
}

impl State {
    fn allocate(&mut self, reserve: NonNull<Bt>, size: usize) -> Option<NonNull<Bt>> {
        if self.counts.free <= FOR_RESTOCKING && !self.restocking {
            return None;
        }
        let tag = self
            .allocate_from_page()
            .or_else(|| self.reserve.pop())
            .or_else(|| {
                let touched = self.reserve_touched;
                (touched < size).then(|| {
                    self.reserve_touched += 1;
                    // SAFETY: the reserve has that many tags.
                    unsafe { reserve.add(touched) }
                })
            })?;
        self.counts.free -= 1;
        self.counts.in_use += 1;
        Some(tag)
    }

    fn allocate_from_page(&mut self) -> Option<NonNull<Bt>> {
        let mut page = self.first?;
        // SAFETY: the headers of listed pages are valid and only reached from here, with the lock
        // held.
        let header = unsafe { page.as_mut() };
        let tag = header.free.pop();
        header.in_use += 1;
        if header.free.0.is_none() {
            self.remove(page);
        }
        tag
    }

    /// # Safety
    /// The tag is one of this page, and nobody uses it.
    unsafe fn deallocate_to_page(&mut self, mut page: NonNull<Header>, tag: NonNull<Bt>) {
        // SAFETY: the page of a tag in use is valid, and its header only reached with the lock held.
        let header = unsafe { page.as_mut() };
        let was_full = header.free.0.is_none();
        // SAFETY: the caller gives us the tag.
        unsafe { header.free.push(tag) };
        header.in_use -= 1;
        let is_empty = header.in_use == 0;
        match (was_full, is_empty) {
            (false, false) => {}
            (false, true) => {
                self.remove(page);
                self.push_back(page);
            }
            (true, true) => self.push_back(page),
            (true, false) => self.push_front(page),
        }
    }

    /// Removes a page without tags in use, if many tags are free.
    fn take_surplus(&mut self) -> Option<NonNull<Header>> {
        if self.counts.free <= HIGH_WATER {
            return None;
        }
        self.take_empty()
    }

    /// Removes a page without tags in use.
    fn take_empty(&mut self) -> Option<NonNull<Header>> {
        let page = self.last?;
        // SAFETY: the headers of listed pages are valid, and the lock is held.
        if unsafe { page.as_ref() }.in_use != 0 {
            return None;
        }
        self.remove(page);
        self.counts.tag_pages -= 1;
        self.counts.free -= PER_PAGE;
        Some(page)
    }

    fn push_front(&mut self, page: NonNull<Header>) {
        self.insert(None, page, self.first);
    }

    fn push_back(&mut self, page: NonNull<Header>) {
        self.insert(self.last, page, None);
    }

    fn insert(
        &mut self,
        before: Option<NonNull<Header>>,
        mut page: NonNull<Header>,
        after: Option<NonNull<Header>>,
    ) {
        // SAFETY: the header is valid, and the lock is held.
        let header = unsafe { page.as_mut() };
        header.before = before;
        header.after = after;
        self.set_after(before, Some(page));
        self.set_before(after, Some(page));
    }

    fn remove(&mut self, page: NonNull<Header>) {
        // SAFETY: the headers of listed pages are valid, and the lock is held.
        let header = unsafe { page.as_ref() };
        let (before, after) = (header.before, header.after);
        self.set_after(before, after);
        self.set_before(after, before);
    }

    /// Sets what comes after a page, or first.
    fn set_after(&mut self, page: Option<NonNull<Header>>, after: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the headers of listed pages are valid, and the lock is held.
            Some(mut page) => unsafe { page.as_mut() }.after = after,
            None => self.first = after,
        }
    }

    /// Sets what comes before a page, or last.
    fn set_before(&mut self, page: Option<NonNull<Header>>, before: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the headers of listed pages are valid, and the lock is held.
            Some(mut page) => unsafe { page.as_mut() }.before = before,
            None => self.last = before,
        }
    }
}

/// Makes a page of free tags.
///
/// # Safety
/// The page is valid, and ours alone.
unsafe fn format(page: NonNull<Page>) -> NonNull<Header> {
    let mut free = FreeTags(None);
    for number in (0..PER_PAGE).rev() {
        // SAFETY: the header is a multiple of the alignment of a tag, and there is room in the page
        // for this many after it.
        let tag = unsafe { page.cast::<Header>().add(1).cast::<Bt>().add(number) };
        // SAFETY: the page is ours, and this part of it was nobody's.
        unsafe { free.push(tag) };
    }
    let header = page.cast::<Header>();
    // SAFETY: the page is ours, and larger than a header.
    unsafe {
        header.write(Header {
            free,
            in_use: 0,
            before: None,
            after: None,
        });
    }
    header
}

const _: () = assert!(size_of::<Header>().is_multiple_of(align_of::<Bt>()));

/// The page of a tag that lies in one.
fn page_of(tag: NonNull<Bt>) -> NonNull<Header> {
    let offset = tag.addr().get() % PAGE_SIZE;
    // SAFETY: a page starts at a multiple of its size, and the tag lies behind its header.
    unsafe { tag.byte_sub(offset) }.cast()
}

// SAFETY: a tag is either one of the reserve, which stays in place while the pool is borrowed, or
// lies in a page of the supply; and it is in no list of free tags until it is given back.
unsafe impl<L: Lock, P: PageSupply, const RESERVE: usize> Allocator for &TagPool<L, P, RESERVE> {
    fn allocate(&self) -> Option<NonNull<Bt>> {
        self.locked(|state| state.allocate(self.reserve_start(), RESERVE))
    }

    unsafe fn deallocate(&self, tag: NonNull<Bt>) {
        self.locked(|state| {
            if self.is_reserve(tag) {
                // SAFETY: the caller gives the tag back.
                unsafe { state.reserve.push(tag) };
            } else {
                // SAFETY: the caller gives the tag back, and it is one of that page.
                unsafe { state.deallocate_to_page(page_of(tag), tag) };
            }
            state.counts.free += 1;
            state.counts.in_use -= 1;
        });
    }

    fn done(&self) {
        self.restock();
        self.give_back();
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
            unsafe { self.pages.deallocate_page(page.cast()) };
        }
    }
}

/// A [`PageSupply`] without pages, for a [`TagPool`] that lives on its reserve.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPages;

// SAFETY: there are no pages of which anything could be wrong.
unsafe impl PageSupply for NoPages {
    fn allocate_page(&self) -> Option<NonNull<Page>> {
        None
    }

    unsafe fn deallocate_page(&self, _page: NonNull<Page>) {}
}
