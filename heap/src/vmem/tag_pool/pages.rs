//! The pages of a tag pool.
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

/// How many tags a page holds.
pub(super) const PER_PAGE: usize = (PAGE_SIZE - size_of::<Header>()) / size_of::<BoundaryTag>();

/// What a page of tags begins with.
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
pub(super) struct Header {
    free: FreeTags,
    in_use: usize,
    /// Links in the list of pages with free tags.
    before: Option<NonNull<Header>>,
    after: Option<NonNull<Header>>,
}

const _: () = assert!(size_of::<Header>() % align_of::<BoundaryTag>() == 0);

/// Free tags; the memory of each holds a pointer to the next.
struct FreeTags(Option<NonNull<BoundaryTag>>);

impl FreeTags {
    /// Adds a tag.
    ///
    /// # Safety
    /// The memory of the tag is valid, and nobody else uses it until it is popped.
    unsafe fn push(&mut self, tag: NonNull<BoundaryTag>) {
        // SAFETY: the caller gives us the memory, which is larger than a pointer and aligned.
        unsafe { tag.cast::<Option<NonNull<BoundaryTag>>>().write(self.0) };
        self.0 = Some(tag);
    }

    fn pop(&mut self) -> Option<NonNull<BoundaryTag>> {
        let tag = self.0?;
        // SAFETY: `push` wrote the pointer, and the memory has been ours since.
        self.0 = unsafe { tag.cast::<Option<NonNull<BoundaryTag>>>().read() };
        Some(tag)
    }
}

/// The pages with free tags; those without tags in use come last.
///
/// Their headers are valid, and reached from here only.
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
    /// `format` made it, and nobody else uses it until [`take_empty`](Self::take_empty) returns it.
    pub(super) unsafe fn add(&mut self, page: NonNull<Header>) {
        self.push_back(page);
    }

    /// Takes a tag, from a page in use if there is one.
    pub(super) fn allocate(&mut self) -> Option<NonNull<BoundaryTag>> {
        let mut page = self.first?;
        // SAFETY: the page is listed, so its header is valid.
        let header = unsafe { page.as_mut() };
        let tag = header.free.pop();
        header.in_use += 1;
        if header.free.0.is_none() {
            self.remove(page);
        }
        tag
    }

    /// Puts a tag back.
    ///
    /// # Safety
    /// It came from [`allocate`](Self::allocate), and nobody uses it any more.
    pub(super) unsafe fn deallocate(&mut self, tag: NonNull<BoundaryTag>) {
        let mut page = page_of(tag);
        // SAFETY: the page of a tag in use is valid, and its header reached from here only.
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

    /// Removes a page without tags in use, which is the caller's then.
    pub(super) fn take_empty(&mut self) -> Option<NonNull<Page>> {
        let page = self.last?;
        // SAFETY: the page is listed, so its header is valid.
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
        // SAFETY: the page is about to be listed: its header is valid.
        let header = unsafe { page.as_mut() };
        header.before = before;
        header.after = after;
        self.set_after(before, Some(page));
        self.set_before(after, Some(page));
    }

    fn remove(&mut self, page: NonNull<Header>) {
        // SAFETY: the page is listed, so its header is valid.
        let header = unsafe { page.as_ref() };
        let (before, after) = (header.before, header.after);
        self.set_after(before, after);
        self.set_before(after, before);
    }

    /// Sets what comes after a page, or first.
    fn set_after(&mut self, page: Option<NonNull<Header>>, after: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the page is listed, so its header is valid.
            Some(mut page) => unsafe { page.as_mut() }.after = after,
            None => self.first = after,
        }
    }

    /// Sets what comes before a page, or last.
    fn set_before(&mut self, page: Option<NonNull<Header>>, before: Option<NonNull<Header>>) {
        match page {
            // SAFETY: the page is listed, so its header is valid.
            Some(mut page) => unsafe { page.as_mut() }.before = before,
            None => self.last = before,
        }
    }
}

/// Makes a page of free tags.
///
/// # Safety
/// The page is valid, and ours alone.
pub(super) unsafe fn format(page: NonNull<Page>) -> NonNull<Header> {
    let mut free = FreeTags(None);
    for number in (0..PER_PAGE).rev() {
        // SAFETY: the header is a multiple of the alignment of a tag, and there is room in the page
        // for this many after it.
        let tag = unsafe {
            page.cast::<Header>()
                .add(1)
                .cast::<BoundaryTag>()
                .add(number)
        };
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

/// The page of a tag that lies in one.
fn page_of(tag: NonNull<BoundaryTag>) -> NonNull<Header> {
    let offset = tag.addr().get() % PAGE_SIZE;
    // SAFETY: a page starts at a multiple of its size, and the tag lies behind its header.
    unsafe { tag.byte_sub(offset) }.cast()
}
