//! The lists of gaps, one for each bin.

use core::ptr::{self, NonNull};

use super::allocate::Request;
use super::binning::Binning;
use super::bitfield::BitField;
use super::node::{Gap, Link, Node};

/// Every gap of every heap, in a doubly linked list for its bin, latest first.
pub(super) struct Gaps<B: Binning> {
    /// `BIN_COUNT` list heads, in memory of the first heap that was claimed; null before that.
    heads: *mut Link,
    /// Bit *n* is set exactly when list *n* has a gap in it.
    available: B::AvailabilityBitField,
}

impl<B: Binning> Gaps<B> {
    /// Bytes that the list heads take.
    pub(super) const HEADS_SIZE: usize = {
        assert!(B::BIN_COUNT > 0 && B::BIN_COUNT <= B::AvailabilityBitField::BITS);
        B::BIN_COUNT as usize * size_of::<Link>()
    };

    /// No lists, which is to say that they are all empty.
    pub(super) const fn new() -> Self {
        Self {
            heads: ptr::null_mut(),
            available: B::AvailabilityBitField::ZEROES,
        }
    }

    /// Puts the list heads at `heads`.
    ///
    /// # Safety
    /// * `heads` is aligned for pointers and its [`HEADS_SIZE`](Self::HEADS_SIZE) bytes belong to
    ///   this value from now on.
    /// * This is done once, before the first [`insert`](Self::insert).
    pub(super) unsafe fn establish(&mut self, heads: NonNull<u8>) {
        self.heads = heads.cast().as_ptr();
        for bin in 0..B::BIN_COUNT {
            // SAFETY: the caller gives room for so many heads.
            unsafe { self.head(bin).write(None) };
        }
    }

    /// The bin of gaps of `size` bytes.
    #[inline]
    fn bin_of(size: usize) -> u32 {
        B::size_to_bin(size).min(B::BIN_COUNT - 1)
    }

    /// Where the pointer to the first gap of list `bin` is, which is less than `BIN_COUNT`. There is
    /// something there once the heads are established.
    #[inline]
    fn head(&self, bin: u32) -> *mut Link {
        self.heads.wrapping_add(bin as usize)
    }

    /// Enters a free range into its list. It becomes a gap.
    ///
    /// # Safety
    /// * The range is free memory of a heap, in no list, and at least one unit.
    /// * The list heads are established.
    #[inline]
    pub(super) unsafe fn insert(&mut self, gap: Gap) {
        let bin = Self::bin_of(gap.size());
        let head = self.head(bin);
        let node = gap.node();
        // SAFETY: the range has room for a header and nobody else uses it; head and successor are
        // ours, and no reference to them is alive.
        unsafe {
            gap.write_extent();
            let next = head.read();
            (&raw mut (*node.as_ptr()).next).write(next);
            (&raw mut (*node.as_ptr()).referrer).write(head);
            match next {
                Some(next) => (*next.as_ptr()).referrer = &raw mut (*node.as_ptr()).next,
                None => self.available.set_bit(bin),
            }
            head.write(Some(node));
        }
    }

    /// Takes a gap out of its list. It remains free memory, and its header remains readable.
    ///
    /// # Safety
    /// The gap is in a list.
    #[inline]
    pub(super) unsafe fn remove(&mut self, gap: Gap) {
        // SAFETY: a gap in a list has a valid header, and what that points to is ours.
        unsafe {
            let Node { next, referrer, .. } = gap.node().read();
            referrer.write(next);
            match next {
                Some(next) => (*next.as_ptr()).referrer = referrer,
                None => self.note_removal_of_last(referrer),
            }
        }
    }

    /// The last gap of a list was removed. If it was the only one, its referrer is the list's head,
    /// and that says which list.
    #[inline]
    fn note_removal_of_last(&mut self, referrer: *mut Link) {
        // A referrer in a gap below the heads wraps to a large number.
        let offset = referrer.addr().wrapping_sub(self.heads.addr());
        if offset < Self::HEADS_SIZE {
            self.available
                .clear_bit((offset / size_of::<Link>()) as u32);
        }
    }

    /// A gap in which the request fits: the first of the first list whose gaps all certainly do, or
    /// else the first that does among about `looks` gaps which may. The latest gap of each list is
    /// among them: what a source has just granted is found, if it fits.
    #[inline]
    pub(super) fn find(&self, request: &Request, looks: usize) -> Option<Gap> {
        let certain = B::size_to_bin_ceil(request.size_for_certain);
        // The last bin may hold anything from its lower bound up.
        if certain < B::BIN_COUNT - 1 {
            let bin = self.available.bit_scan_forward(certain);
            if bin < B::BIN_COUNT {
                return self.first(bin);
            }
        }
        self.find_among_uncertain(request, certain, looks)
    }

    /// The second half of [`find`](Self::find): no list from `certain` up has a gap in it, unless
    /// that is the last.
    #[cold]
    fn find_among_uncertain(&self, request: &Request, certain: u32, looks: usize) -> Option<Gap> {
        let bins_end = if certain < B::BIN_COUNT - 1 {
            certain
        } else {
            B::BIN_COUNT
        };
        let first_bin = Self::bin_of(request.size);
        let bins = bins_end.saturating_sub(first_bin).max(1);
        let looks_each = looks.div_ceil(bins as usize);
        self.bins_from(first_bin)
            .take_while(|&bin| bin < bins_end)
            .flat_map(|bin| self.iter_bin(bin).take(looks_each))
            .find(|&gap| request.fits(gap))
    }

    /// Which lists from `bin` up have a gap in them.
    fn bins_from(&self, bin: u32) -> impl Iterator<Item = u32> {
        let first_from = |bin: u32| {
            // Scans must begin within the field.
            let next = if bin < B::BIN_COUNT {
                self.available.bit_scan_forward(bin)
            } else {
                bin
            };
            Some(next).filter(|&next| next < B::BIN_COUNT)
        };
        core::iter::successors(first_from(bin), move |&bin| first_from(bin + 1))
    }

    /// The first gap of list `bin`, whose bit is set.
    #[inline]
    fn first(&self, bin: u32) -> Option<Gap> {
        // SAFETY: bits are only set when the heads are established, and what is in a list is a gap.
        unsafe { self.head(bin).read().map(|node| Gap::at(node.cast())) }
    }

    /// The gaps of list `bin`, whose bit is set, in the order of the list.
    fn iter_bin(&self, bin: u32) -> impl Iterator<Item = Gap> {
        core::iter::successors(self.first(bin), |gap| {
            // SAFETY: what is in a list is a gap with a valid header, and nothing in a list changes
            // while `self` is borrowed.
            unsafe { (*gap.node().as_ptr()).next.map(|node| Gap::at(node.cast())) }
        })
    }

    /// Every gap, list by list.
    pub(super) fn iter(&self) -> impl Iterator<Item = Gap> {
        self.bins_from(0).flat_map(|bin| self.iter_bin(bin))
    }

    /// Whether the list heads are where they will stay.
    pub(super) fn is_established(&self) -> bool {
        !self.heads.is_null()
    }

    /// The parts that the checker looks at: list head and bit of a bin. Only once established.
    pub(super) fn list(&self, bin: u32) -> (*mut Link, bool) {
        (self.head(bin), self.available.read_bit(bin))
    }

    /// The bin in which the checker expects a gap of `size` bytes.
    pub(super) fn expected_bin(size: usize) -> u32 {
        Self::bin_of(size)
    }
}
