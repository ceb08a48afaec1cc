//! The pages of a tag pool: each has a header and an array of tags.
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

use core::ptr::NonNull;

use super::super::BoundaryTag;
use super::super::tag_supply::{PAGE_SIZE, Page};

/// The number of tags in a page.
pub(super) const PER_PAGE: usize = (PAGE_SIZE - size_of::<Header>()) / size_of::<BoundaryTag>();

/// The header of a page of tags.
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(super) struct Header {
    free: FreeTags,
    in_use: usize,
    /// The previous page in the list of pages with free tags.
    before: Option<NonNull<Header>>,
    /// The next page in that list.
    after: Option<NonNull<Header>>,
}

const _: () = assert!(size_of::<Header>() % align_of::<BoundaryTag>() == 0);

/// A stack of free tags. The memory of each contains a pointer to the next.
struct FreeTags(Option<NonNull<BoundaryTag>>);

impl FreeTags {
    /// Adds a tag.
    ///
    /// # Safety
    /// The memory of the tag is valid, and no other code uses it until it is popped.
    unsafe fn push(&mut self, tag: NonNull<BoundaryTag>) {
        // SAFETY: a tag is larger than a pointer and at least as aligned, and the caller passes its
        // memory unshared.
        unsafe { tag.cast::<Option<NonNull<BoundaryTag>>>().write(self.0) };
        self.0 = Some(tag);
    }

    /// Removes a tag, if there is one.
    fn pop(&mut self) -> Option<NonNull<BoundaryTag>> {
        let tag = self.0?;
        // SAFETY: `push` wrote the pointer, and no other code has used the memory since.
        self.0 = unsafe { tag.cast::<Option<NonNull<BoundaryTag>>>().read() };
        Some(tag)
    }
}

/// The list of pages with free tags. Pages without tags in use come last.
///
/// The headers of listed pages are valid, and only this list accesses them.
pub(super) struct TagPages {
    first: Option<NonNull<Header>>,
    last: Option<NonNull<Header>>,
}

impl TagPages {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            last: None,
        }
    }

    /// Adds a page.
    ///
    /// # Safety
    /// [`format`] initialised the page, and no other code uses it until
    /// [`take_empty`](Self::take_empty) returns it.
    pub(super) unsafe fn add(&mut self, page: NonNull<Header>) {
        self.push_back(page);
    }

    /// Takes a tag, from a page in use if possible.
    pub(super) fn allocate(&mut self) -> Option<NonNull<BoundaryTag>> {
        let mut page = self.first?;
        // SAFETY: the header of a listed page is valid, and `&mut self` makes the access unique.
        let header = unsafe { page.as_mut() };
        let tag = header.free.pop();
        header.in_use += 1;
        if header.free.0.is_none() {
            self.remove(page);
        }
        tag
    }

    /// Returns a tag to its page.
    ///
    /// # Safety
    /// The tag came from [`allocate`](Self::allocate), and is no longer in use.
    pub(super) unsafe fn deallocate(&mut self, tag: NonNull<BoundaryTag>) {
        let mut page = page_of(tag);
        // SAFETY: a page with a tag in use is valid, and `&mut self` makes the access unique.
        let header = unsafe { page.as_mut() };
        let was_full = header.free.0.is_none();
        // SAFETY: the caller returns the tag, so its memory is valid and has no other user.
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

    /// Removes and returns a page without tags in use. It then belongs to the caller.
    pub(super) fn take_empty(&mut self) -> Option<NonNull<Page>> {
        let page = self.last?;
        // SAFETY: the header of a listed page is valid.
        if unsafe { page.as_ref() }.in_use != 0 {
            return None;
        }
        self.remove(page);
        Some(page.cast())
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
        // SAFETY: the callers pass a page with a valid header, which is about to be listed.
        let header = unsafe { page.as_mut() };
        header.before = before;
        header.after = after;
        self.set_after(before, Some(page));
        self.set_before(after, Some(page));
    }

    fn remove(&mut self, page: NonNull<Header>) {
        // SAFETY: the header of a listed page is valid.
        let header = unsafe { page.as_ref() };
        let (before, after) = (header.before, header.after);
        self.set_after(before, after);
        self.set_before(after, before);
    }

    /// Sets the page after `page`; without `page`, the first page.
    fn set_after(&mut self, page: Option<NonNull<Header>>, after: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the header of a listed page is valid.
            Some(mut page) => unsafe { page.as_mut() }.after = after,
            None => self.first = after,
        }
    }

    /// Sets the page before `page`; without `page`, the last page.
    fn set_before(&mut self, page: Option<NonNull<Header>>, before: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the header of a listed page is valid.
            Some(mut page) => unsafe { page.as_mut() }.before = before,
            None => self.last = before,
        }
    }
}

/// Initialises a page of free tags.
///
/// # Safety
/// The page is valid for writes, and no other code uses it.
pub(super) unsafe fn format(page: NonNull<Page>) -> NonNull<Header> {
    let mut free = FreeTags(None);
    // SAFETY: a header fits into the page. Its size is a multiple of a tag's alignment.
    let tags = unsafe { page.cast::<Header>().add(1) }.cast::<BoundaryTag>();
    for number in (0..PER_PAGE).rev() {
        // SAFETY: `PER_PAGE` tags fit into the page after the header.
        let tag = unsafe { tags.add(number) };
        // SAFETY: the caller passes the page unshared, and no other tag lies in this part of it.
        unsafe { free.push(tag) };
    }
    let header = page.cast::<Header>();
    // SAFETY: the caller passes the page valid and unshared, and it is larger than a header.
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

/// Returns the page that contains a tag.
fn page_of(tag: NonNull<BoundaryTag>) -> NonNull<Header> {
    let offset = tag.addr().get() % PAGE_SIZE;
    // SAFETY: a page begins at a multiple of its size and contains the tag, so the result is the
    // start of the same page.
    unsafe { tag.byte_sub(offset) }.cast()
}
