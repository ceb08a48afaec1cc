//! The hash table of allocated segments, by base address.
//!
//! It uses linear hashing (Litwin, VLDB 1980): the table grows and shrinks by one bucket at a time,
//! so no operation pays for a rehash of the whole table. Buckets lie in pages that never move:
//!
//! ```text
//!  bucket   0 … 63 │ 64 … 511 │ 512 … 1023 │ …          (on 64-bit machines)
//!                page 0       │   page 1   │ …   first DIRECT pages, then through directories
//! ```
//!
//! Before the table has page 0, its first 64 buckets lie in the arena itself.
//!
//! Without further pages the table does not grow, and its buckets get longer. After a refusal the
//! arena requests the page again after `RETRY_INSERTIONS` insertions that would have used it.

use core::cell::Cell;
use core::ptr::NonNull;

use super::boundary_tag::TagRef;
use super::tag_supply::{PAGE_SIZE, Page};
use super::{Error, Result};

/// The number of buckets that need no page; a power of two.
const INLINE: usize = 64;
/// The number of buckets, or of pointers to pages, that fit into a page.
const PER_PAGE: usize = PAGE_SIZE / size_of::<usize>();
/// The number of pages of buckets that are reached without a directory.
const DIRECT: usize = 64;
/// The greatest number of directories.
const DIRECTORIES: usize = 16;
/// The number of insertions between a refusal and the next request for the same page.
///
/// It is the number of buckets in a page. The cost of a request is thus spread over many
/// insertions, regardless of the size of the table.
const RETRY_INSERTIONS: usize = PER_PAGE;
const MAX_BUCKETS: usize = (DIRECT + DIRECTORIES * PER_PAGE) * PER_PAGE;

/// The head of a list of segments, linked by `right`.
type Bucket = Cell<Option<TagRef>>;
type Leaf = [Bucket; PER_PAGE];
type Directory = [Cell<Option<NonNull<Leaf>>>; PER_PAGE];

const _: () = assert!(size_of::<Leaf>() == PAGE_SIZE && size_of::<Directory>() == PAGE_SIZE);

/// The hash table of allocated segments.
pub(super) struct Index {
    /// The first buckets, until the table gets page 0.
    inline: [Bucket; INLINE],
    direct: [Option<NonNull<Leaf>>; DIRECT],
    directories: [Option<NonNull<Directory>>; DIRECTORIES],
    /// The number of pages of buckets. They cover all buckets, and may cover more.
    leaves: usize,
    /// With this many buckets or fewer, the last page is idle: see `set_leaves`.
    idle_at: usize,
    /// The number of buckets, at least `INLINE`.
    buckets: usize,
    /// The least 2ⁿ − 1 that is not below `buckets − 1` …
    mask: usize,
    /// … and its highest bit.
    top: usize,
    /// The number of segments.
    len: usize,
    /// With fewer segments than this, the table is sparse: see `set_buckets`.
    sparse_below: usize,
    /// Whether the table needs a page to grow, and the page has not been requested yet.
    growth_due: bool,
    /// Whether a request for a page is in flight.
    request_in_flight: bool,
    /// A countdown after a refusal: the number of insertions until the next request for a page.
    retry_in: usize,
}

impl Index {
    pub(super) const fn new() -> Self {
        Self {
            inline: [const { Cell::new(None) }; INLINE],
            direct: [None; DIRECT],
            directories: [None; DIRECTORIES],
            leaves: 0,
            idle_at: 0,
            buckets: INLINE,
            mask: INLINE - 1,
            top: INLINE / 2,
            len: 0,
            sparse_below: 0,
            growth_due: false,
            request_in_flight: false,
            retry_in: 0,
        }
    }

    /// Returns the number of segments.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of pages of buckets.
    #[cfg(test)]
    pub(super) fn pages(&self) -> usize {
        self.leaves
    }

    /// Returns the allocated segment that starts at `base`. Expected O(1).
    pub(super) fn find(&self, base: usize) -> Option<TagRef> {
        let mut member = self.bucket(self.bucket_of(base)).get();
        while let Some(tag) = member {
            if tag.start.get() == base {
                break;
            }
            member = tag.right.get();
        }
        member
    }

    /// Adds a segment, and up to two buckets.
    #[inline]
    pub(super) fn insert(&mut self, tag: TagRef) {
        push(self.bucket(self.bucket_of(tag.start.get())), tag);
        self.len += 1;
        if self.len > self.buckets {
            self.grow();
        }
    }

    /// Removes and returns the segment that starts at `base`, unless `check` returns an error.
    #[inline]
    pub(super) fn take(
        &mut self,
        base: usize,
        check: impl FnOnce(TagRef) -> Result<()>,
    ) -> Result<TagRef> {
        let bucket = self.bucket(self.bucket_of(base));
        let mut before = None;
        let mut member = bucket.get();
        let tag = loop {
            let tag = member.ok_or(Error::NoSuchAllocation { base })?;
            if tag.start.get() == base {
                break tag;
            }
            before = member;
            member = tag.right.get();
        };
        check(tag)?;
        match before {
            Some(before) => before.right.set(tag.right.get()),
            None => bucket.set(tag.right.get()),
        }
        self.len -= 1;
        Ok(tag)
    }

    /// Returns the number of each bucket that has members, with its first member.
    pub(super) fn heads(&self) -> impl Iterator<Item = (usize, TagRef)> {
        (0..self.buckets).filter_map(|number| Some((number, self.bucket(number).get()?)))
    }

    /// Returns the number of the bucket for segments that start at `base`.
    #[inline]
    pub(super) fn bucket_of(&self, base: usize) -> usize {
        let hash = hash(base);
        let number = hash & self.mask;
        if number < self.buckets {
            number
        } else {
            // This bucket does not exist yet: it will be split from the one returned.
            number - self.top
        }
    }

    #[inline]
    fn bucket(&self, number: usize) -> &Bucket {
        let page = number / PER_PAGE;
        let leaf = match self.direct.get(page) {
            Some(&Some(leaf)) => leaf,
            Some(None) => {
                debug_assert!(number < INLINE, "pages cover the other buckets");
                return &self.inline[number % INLINE];
            }
            None => self.leaf_in_directory(page - DIRECT),
        };
        // SAFETY: `empty_slots` initialised the page when it was installed. The supply keeps the
        // page valid until `take_page` removes it, and all changes go through cells.
        let leaf = unsafe { leaf.as_ref() };
        &leaf[number % PER_PAGE]
    }

    /// Returns a page of buckets beyond the first `DIRECT`.
    #[inline]
    fn leaf_in_directory(&self, page: usize) -> NonNull<Leaf> {
        self.directory(page / PER_PAGE)
            .and_then(|directory| directory[page % PER_PAGE].get())
            .expect("pages cover the buckets")
    }

    #[inline]
    fn directory(&self, number: usize) -> Option<&Directory> {
        let directory = (*self.directories.get(number)?)?;
        // SAFETY: `empty_slots` initialised the directory when it was installed. The supply keeps
        // it valid until `take_page` removes it, and all changes go through cells.
        Some(unsafe { directory.as_ref() })
    }

    /// Adds up to two buckets, so that a table that had to wait for a page catches up.
    #[cold]
    fn grow(&mut self) {
        for _ in 0..2 {
            if self.buckets >= MAX_BUCKETS || self.len <= self.buckets {
                return;
            }
            if self.buckets >= self.leaves * PER_PAGE {
                self.growth_due = !self.request_in_flight && self.retry_in == 0;
                self.retry_in = self.retry_in.saturating_sub(1);
                return;
            }
            self.split();
        }
    }

    fn set_buckets(&mut self, buckets: usize) {
        self.buckets = buckets;
        self.mask = usize::MAX >> (buckets - 1).leading_zeros();
        self.top = self.mask / 2 + 1;
        self.sparse_below = if buckets > INLINE { buckets / 4 } else { 0 };
    }

    /// Adds a bucket, and moves its members there from the bucket that is split.
    fn split(&mut self) {
        let new = self.buckets;
        self.set_buckets(new + 1);
        let old = self.bucket(new - self.top);
        let mut member = old.take();
        while let Some(tag) = member {
            member = tag.right.get();
            push(self.bucket(self.bucket_of(tag.start.get())), tag);
        }
    }

    /// Returns whether the table has more than four buckets for each segment.
    #[inline]
    pub(super) fn is_sparse(&self) -> bool {
        self.len < self.sparse_below
    }

    /// Removes up to four buckets of a sparse table, so that it shrinks as fast as it empties.
    pub(super) fn shrink(&mut self) {
        for _ in 0..4 {
            if self.is_sparse() {
                self.merge();
            }
        }
    }

    /// Removes the last bucket. Its members move back to the bucket that was split for it.
    fn merge(&mut self) {
        let last = self.buckets - 1;
        let into = last - self.top;
        self.set_buckets(last);
        let mut member = self.bucket(last).take();
        let into = self.bucket(into);
        while let Some(tag) = member {
            member = tag.right.get();
            push(into, tag);
        }
    }

    /// Returns whether the table needs a page to grow, and a request is due.
    #[inline]
    pub(super) fn is_growth_due(&self) -> bool {
        self.growth_due
    }

    /// Begins a request for a page, if one is due, and returns whether it did.
    ///
    /// The caller then asks the supply, and passes the answer to `finish_page_request`.
    pub(super) fn begin_page_request(&mut self) -> bool {
        let begins = core::mem::take(&mut self.growth_due);
        self.request_in_flight |= begins;
        begins
    }

    /// Ends a request: installs the page, or schedules another request after a refusal.
    ///
    /// # Safety
    /// The page comes from the arena's supply, and no other code uses it until `take_page` returns
    /// it.
    pub(super) unsafe fn finish_page_request(&mut self, page: Option<NonNull<Page>>) {
        self.request_in_flight = false;
        let Some(page) = page else {
            self.retry_in = RETRY_INSERTIONS;
            return;
        };
        // Only one request is in flight at a time, so this slot is still vacant.
        let number = self.leaves;
        match number.checked_sub(DIRECT) {
            None => {
                // SAFETY: the caller gives us the page.
                let leaf = unsafe { empty_slots(page) };
                self.set_direct(number, Some(leaf));
                self.set_leaves(self.leaves + 1);
            }
            Some(number) => match self.directory(number / PER_PAGE) {
                Some(directory) => {
                    // SAFETY: the caller gives us the page.
                    directory[number % PER_PAGE].set(Some(unsafe { empty_slots(page) }));
                    self.set_leaves(self.leaves + 1);
                }
                // The page becomes a directory, and `grow` requests the page of buckets later.
                None => {
                    // SAFETY: the caller gives us the page.
                    self.directories[number / PER_PAGE] = Some(unsafe { empty_slots(page) });
                }
            },
        }
    }

    /// Returns whether the table has a page that it does not need at this size.
    #[inline]
    pub(super) fn has_idle_page(&self) -> bool {
        self.buckets <= self.idle_at
    }

    fn set_leaves(&mut self, leaves: usize) {
        self.leaves = leaves;
        self.idle_at = match leaves {
            0 => 0,
            1 => INLINE,
            // Hysteresis of half a page, so that a page does not come and go.
            _ => (leaves - 1) * PER_PAGE - PER_PAGE / 2,
        };
    }

    /// Forgets all segments, so that every page is idle.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.set_buckets(INLINE);
        self.take_first();
    }

    /// Empties the first buckets, and returns their first members.
    fn take_first(&self) -> [Option<TagRef>; INLINE] {
        core::array::from_fn(|number| self.bucket(number).take())
    }

    /// Installs or removes a page of buckets, and returns the page that was there. The first
    /// buckets move into page 0 or out of it.
    fn set_direct(&mut self, page: usize, leaf: Option<NonNull<Leaf>>) -> Option<NonNull<Leaf>> {
        if page != 0 {
            return core::mem::replace(&mut self.direct[page], leaf);
        }
        let first = self.take_first();
        let before = core::mem::replace(&mut self.direct[0], leaf);
        for (number, member) in first.into_iter().enumerate() {
            self.bucket(number).set(member);
        }
        before
    }

    /// Removes and returns the last page, which must be idle.
    pub(super) fn take_page(&mut self) -> Option<NonNull<Page>> {
        debug_assert!(self.leaves == 0 || self.has_idle_page());
        // A directory is returned after the first page it points to.
        let directories = self.leaves.saturating_sub(DIRECT).div_ceil(PER_PAGE);
        if let Some(directory) = self.directories.get_mut(directories).and_then(Option::take) {
            return Some(directory.cast());
        }
        let number = self.leaves.checked_sub(1)?;
        let leaf = match number.checked_sub(DIRECT) {
            None => self.set_direct(number, None),
            Some(number) => self.directory(number / PER_PAGE)?[number % PER_PAGE].take(),
        };
        self.set_leaves(number);
        leaf.map(NonNull::cast)
    }
}

/// Returns the hash of a base: Fibonacci hashing, with the bytes swapped.
///
/// The high bits of the product depend on all bits of the base. The low bits of the base are zero,
/// so the swap moves the high bits to where the mask takes them.
#[inline]
fn hash(base: usize) -> usize {
    (base as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .swap_bytes() as usize
}

#[inline]
fn push(bucket: &Bucket, tag: TagRef) {
    tag.right.set(bucket.replace(Some(tag)));
}

/// Initialises a page as an array of empty slots.
///
/// # Safety
/// The page is valid for writes, and no other code uses it.
unsafe fn empty_slots<T>(page: NonNull<Page>) -> NonNull<[Cell<Option<T>>; PER_PAGE]> {
    const { assert!(size_of::<Cell<Option<T>>>() == size_of::<usize>()) };
    let slots = page.cast::<[Cell<Option<T>>; PER_PAGE]>();
    for slot in 0..PER_PAGE {
        // SAFETY: a slot has the size of a `usize`, so `PER_PAGE` slots fit into the page.
        let slot = unsafe { slots.cast::<Cell<Option<T>>>().add(slot) };
        // SAFETY: the caller passes the page valid and unshared, and this slot lies in it.
        unsafe { slot.write(Cell::new(None)) };
    }
    slots
}
