//! The free lists: one list of gaps for each bin.
//!
//! ```text
//!      Talc                   the first chunk of the first heap
//!     ┌─────────────────┐    ┌────────┬────────┬┄┄┬─────────────────────┬────────────┬┄┄┄┬─────┐
//!     │ heads ───────────────> head 0 │ head 1 │  │ head BIN_COUNT - 1  │ owner flag │   │ tag │
//!     │ available: bits │    └────────┴───│────┴┄┄┴─────────────────────┴────────────┴┄┄┄┴─────┘
//!     └─────────────────┘     1 word      │                              1 byte
//!      bit 1 is set                       v        next            next
//!                                         gap ────────> gap ────────────> null
//! ```

use core::hint;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicBool;

use super::allocate::Request;
use super::binning::Binning;
use super::bitfield::BitField;
use super::gap_header::{Gap, GapHeader, Link};
use super::hardened::{Findings, Heaps};

/// The number of probes in the lowest list where a gap may fit, before a gap that certainly fits is
/// taken from a higher list.
const MAX_NEAR_PROBES: usize = 4;

/// The free lists of all heaps: a doubly linked list of gaps for each bin, latest first. Slivers
/// are in none.
pub(super) struct FreeLists<B: Binning> {
    /// A list head for each bin, in memory of the heap that was claimed first; null before that.
    heads: *mut Link,
    /// Bit *n* is set exactly when list *n* contains a gap.
    available: B::AvailabilityBitField,
    /// The heaps in which gaps can be.
    pub(super) heaps: Heaps,
}

impl<B: Binning> FreeLists<B> {
    /// Bytes of the list heads.
    pub(super) const HEADS_SIZE: usize = {
        assert!(B::BIN_COUNT > 0 && B::BIN_COUNT <= B::AvailabilityBitField::BITS);
        B::BIN_COUNT as usize * size_of::<Link>()
    };

    /// Bytes of the list heads and of the owner flag above them, which is set when the allocator is
    /// dropped.
    pub(super) const METADATA_SIZE: usize = Self::HEADS_SIZE + size_of::<AtomicBool>();

    /// Returns empty lists, without memory for their heads.
    pub(super) const fn new() -> Self {
        Self {
            heads: ptr::null_mut(),
            available: B::AvailabilityBitField::ZEROES,
            heaps: Heaps::new(),
        }
    }

    /// Places empty list heads and the owner flag at `heads`.
    ///
    /// # Safety
    /// * `heads` is aligned for pointers and its [`METADATA_SIZE`](Self::METADATA_SIZE) bytes
    ///   belong to this value from now on.
    /// * This is done once, before the first [`insert`](Self::insert).
    pub(super) unsafe fn establish(&mut self, heads: NonNull<u8>) {
        self.heads = heads.cast().as_ptr();
        for bin in 0..B::BIN_COUNT {
            // SAFETY: `heads` has room for `BIN_COUNT` heads.
            unsafe { self.head(bin).write(None) };
        }
        // SAFETY: `METADATA_SIZE` includes the flag above the heads.
        unsafe { self.owner_flag().write(AtomicBool::new(false)) };
    }

    /// Returns the owner flag, which is set when the allocator is dropped. It is valid once the
    /// list heads are established.
    pub(super) fn owner_flag(&self) -> *mut AtomicBool {
        self.heads.wrapping_byte_add(Self::HEADS_SIZE).cast()
    }

    /// Returns the bin of gaps of `size` bytes, below [`BIN_COUNT`](Binning::BIN_COUNT) for any
    /// result of the binning.
    #[inline]
    fn bin_of(size: usize) -> u32 {
        // A panic must not unwind from here: the lists may be half changed.
        #[inline]
        extern "C" fn abort_on_panic<B: Binning>(size: usize) -> u32 {
            B::size_to_bin(size)
        }
        abort_on_panic::<B>(size).min(B::BIN_COUNT - 1)
    }

    /// Returns the lowest bin in which every gap has at least `size` bytes, or the last bin: for
    /// any result of the binning.
    fn bin_ceil_of(size: usize) -> u32 {
        // A panic must not unwind from here into a `GlobalAlloc`.
        extern "C" fn abort_on_panic<B: Binning>(size: usize) -> u32 {
            B::size_to_bin_ceil(size)
        }
        abort_on_panic::<B>(size).min(B::BIN_COUNT - 1)
    }

    /// Returns where the head of list `bin` lies, which is below [`BIN_COUNT`](Binning::BIN_COUNT).
    /// It is valid once the heads are established.
    #[inline]
    fn head(&self, bin: u32) -> *mut Link {
        self.heads.wrapping_add(bin as usize)
    }

    /// Inserts a gap into its list, and writes its header and last word.
    ///
    /// # Safety
    /// * The range is free memory of a heap, in no list, and no sliver.
    /// * The list heads are established.
    #[inline]
    pub(super) unsafe fn insert(&mut self, gap: Gap) {
        // SAFETY: the caller passes a free range that is in no list, and the heads are established.
        unsafe { self.insert_into(Self::bin_of(gap.size()), gap) }
    }

    /// [Inserts](Self::insert) a gap into the list of its `bin`.
    ///
    /// # Safety
    /// As for `insert`.
    #[inline]
    unsafe fn insert_into(&mut self, bin: u32, gap: Gap) {
        // SAFETY: the caller passes a free range that is in no list.
        if !unsafe { self.can_insert(bin, gap) } {
            return;
        }
        let head = self.head(bin);
        // SAFETY: the heads are established.
        let next = unsafe { head.read() };
        // SAFETY: the gap is a free range in no list. A head leads to the first gap of its list.
        unsafe { Self::link(head, gap, next) };
        if next.is_none() {
            self.available.set_bit(bin);
        }
    }

    /// Makes `gap` the first gap of the list at `head`, and `next` the second.
    ///
    /// # Safety
    /// `gap` is free memory of a heap, and no sliver; `head` is a list's head, and `next` leads to
    /// a gap of that list, or to none.
    #[inline]
    unsafe fn link(head: *mut Link, gap: Gap, next: Link) {
        // SAFETY: the gap is free memory, and no sliver.
        unsafe { gap.write_header(next, head) };
        // SAFETY: only the lists use their heads, and no reference to a head is alive.
        unsafe { head.write(Some(gap.header())) };
        if let Some(next) = next {
            // SAFETY: a gap in a list has a valid header.
            unsafe { (*next.as_ptr()).referrer = GapHeader::next_field(gap.header()) };
        }
    }

    /// Removes a gap from its list. It remains free memory, and its header remains readable.
    ///
    /// # Safety
    /// The gap is in a list.
    #[inline]
    pub(super) unsafe fn remove(&mut self, gap: Gap) {
        // SAFETY: a gap in a list has a valid header.
        let GapHeader { next, referrer, .. } = unsafe { gap.header().read() };
        // SAFETY: the referrer is the list's head, or in the header of another gap of the list.
        unsafe { referrer.write(next) };
        match next {
            // SAFETY: the next gap is in the list, and so has a valid header.
            Some(next) => unsafe { (*next.as_ptr()).referrer = referrer },
            None => self.clear_bit_if_empty(referrer),
        }
    }

    /// Clears the bit of a list that has become empty, after the gap at the end of the list was
    /// removed. If that was the only gap, its referrer is the list head and identifies the list.
    #[inline]
    fn clear_bit_if_empty(&mut self, referrer: *mut Link) {
        // For a referrer in a gap below the heads, the difference wraps to a large number.
        let offset = referrer.addr().wrapping_sub(self.heads.addr());
        if offset < Self::HEADS_SIZE {
            self.available
                .clear_bit((offset / size_of::<Link>()) as u32);
        }
    }

    /// Returns the first gap of the lowest list that is not empty and may contain gaps of `size`
    /// bytes, with the list's head. Returns `None` if that gap is too small. Most requests need no
    /// more.
    #[inline]
    pub(super) fn first_for(&self, size: usize) -> Option<(*mut Link, Gap)> {
        #[cfg(test)]
        super::probe_tests::count_probe();
        let bin = self.available.first_from(Self::bin_of(size))?;
        let gap = self.first(bin);
        gap.has(size).then_some((self.head(bin), gap))
    }

    /// Returns the first gap of the lowest list that is not empty and lies above that of gaps of
    /// `size` bytes, with the list's head. (The gap is large enough, if the binning keeps its
    /// promises.)
    #[inline]
    pub(super) fn first_in_larger_bin(&self, size: usize) -> Option<(*mut Link, Gap)> {
        let bin = self.bins_from(Self::bin_of(size) + 1).next()?;
        let gap = self.first(bin);
        gap.has(size).then_some((self.head(bin), gap))
    }

    /// Removes `first` from the list at `head`.
    ///
    /// # Safety
    /// `first` is the first gap of that list.
    #[inline]
    pub(super) unsafe fn remove_first(&mut self, head: *mut Link, first: NonNull<GapHeader>) {
        // SAFETY: a gap in a list has a valid header.
        let next = unsafe { (*first.as_ptr()).next };
        // SAFETY: a list that has a gap has a head.
        unsafe { head.write(next) };
        match next {
            // SAFETY: the next gap is in the list, and so has a valid header.
            Some(next) => unsafe { (*next.as_ptr()).referrer = head },
            None => {
                // SAFETY: `head` is one of the heads, which lie side by side.
                let bin = unsafe { head.offset_from(self.heads) } as u32;
                // SAFETY: `BIN_COUNT` is the number of the heads.
                unsafe { hint::assert_unchecked(bin < B::BIN_COUNT) };
                self.available.clear_bit(bin);
            }
        }
    }

    /// Removes `first` from the list at `head`, and inserts `rest`, a part of it, into its own
    /// list: often the same.
    ///
    /// # Safety
    /// `first` is the first gap of that list. `rest` is free and no sliver.
    #[inline]
    pub(super) unsafe fn replace_first(
        &mut self,
        head: *mut Link,
        first: NonNull<GapHeader>,
        rest: Gap,
    ) {
        let rest_bin = Self::bin_of(rest.size());
        if self.head(rest_bin) == head {
            // SAFETY: a gap in a list has a valid header.
            let next = unsafe { (*first.as_ptr()).next };
            // SAFETY: the rest is free and no sliver, and `next` leads to the list's second gap.
            unsafe { Self::link(head, rest, next) };
        } else {
            // SAFETY: `first` is the first gap of the list at `head`.
            unsafe { self.remove_first(head, first) };
            // SAFETY: the rest is free, no sliver, and in no list. A list with a gap has a head.
            unsafe { self.insert_into(rest_bin, rest) };
        }
    }

    /// Returns a gap in which the request fits. Three searches follow each other. The first probes
    /// a few gaps of the lowest list in which one may fit. The second takes the first gap of the
    /// lowest list whose gaps all fit. The third probes about `max_probes` gaps of all lists in
    /// which one may fit. Each search begins with the latest gap of a list, so that memory which a
    /// source has just granted is found.
    pub(super) fn find(&self, request: &Request, max_probes: usize) -> Option<Gap> {
        let floor = Self::bin_of(request.requirement.chunk_size());
        let certain = Self::bin_ceil_of(request.requirement.max_size());
        let fits = |gap: &Gap| request.fits(*gap);
        // SAFETY: each link that is followed is a list head, or in a gap that this function found.
        let follow = |link| unsafe { request.findings.follow_link(self, link) };
        self.iter_bin(floor, follow)
            .take(MAX_NEAR_PROBES)
            .find(fits)
            .or_else(|| {
                self.bins_from(certain)
                    .find_map(|bin| follow(self.head(bin)))
            })
            .filter(fits)
            .or_else(|| {
                let bins = certain.saturating_sub(floor) as usize + 1;
                self.bins_from(floor)
                    .take_while(|&bin| bin <= certain)
                    .flat_map(|bin| self.iter_bin(bin, follow).take(max_probes.div_ceil(bins)))
                    .find(fits)
            })
    }

    /// Returns the lists from `bin` up that are not empty.
    fn bins_from(&self, bin: u32) -> impl Iterator<Item = u32> {
        let first_from = |bin: u32| {
            // A scan must begin at a bit of the field.
            let next = if bin < B::BIN_COUNT {
                self.available.bit_scan_forward(bin)
            } else {
                bin
            };
            Some(next).filter(|&next| next < B::BIN_COUNT)
        };
        core::iter::successors(first_from(bin), move |&bin| first_from(bin + 1))
    }

    /// Returns the first gap of list `bin`, whose bit is set.
    #[inline]
    fn first(&self, bin: u32) -> Gap {
        // SAFETY: a bit is set only when the heads are established.
        let first = unsafe { self.head(bin).read() };
        // SAFETY: a bit is set only when its list is not empty.
        let first = unsafe { first.unwrap_unchecked() };
        // SAFETY: each entry of a list is a gap.
        unsafe { Gap::at(first.cast()) }
    }

    /// Returns the gaps of list `bin` in the order of the list, as far as `follow` follows its
    /// links.
    fn iter_bin(
        &self,
        bin: u32,
        follow: impl Fn(*mut Link) -> Option<Gap>,
    ) -> impl Iterator<Item = Gap> {
        let head = self.available.read_bit(bin).then(|| self.head(bin));
        core::iter::successors(head.and_then(&follow), move |gap| {
            // The lists do not change while `self` is borrowed.
            follow(GapHeader::next_field(gap.header()))
        })
    }

    /// Returns every gap, list by list.
    pub(super) fn iter(&self) -> impl Iterator<Item = Gap> {
        // SAFETY: each link that is followed is a list head, or in a gap that was found before it.
        let follow = |link| unsafe { Findings::new().follow_link(self, link) };
        self.bins_from(0)
            .flat_map(move |bin| self.iter_bin(bin, follow))
    }

    /// Returns the gaps from list `bin` up, without the first `passed` gaps of that list. With each
    /// comes its list, and how many gaps of the list have been returned or passed.
    pub(super) fn numbered_from(
        &self,
        bin: u32,
        passed: usize,
    ) -> impl Iterator<Item = (Gap, u32, usize)> {
        // SAFETY: each link that is followed is a list head, or in a gap that was found before it.
        let follow = |link| unsafe { Findings::new().follow_link(self, link) };
        self.bins_from(bin).flat_map(move |list| {
            let passed = if list == bin { passed } else { 0 };
            self.iter_bin(list, follow)
                .enumerate()
                .skip(passed)
                .map(move |(index, gap)| (gap, list, index + 1))
        })
    }

    /// Empties a list without changing its gaps, which are then in no list. The heads must be
    /// established.
    #[cfg(feature = "hardened")]
    pub(super) fn empty_list(&mut self, bin: u32) {
        self.available.clear_bit(bin);
        // SAFETY: the established heads belong to this value.
        unsafe { self.head(bin).write(None) };
    }

    /// Returns the address of the list heads, which must be established.
    #[cfg(feature = "hardened")]
    pub(super) fn heads_address(&self) -> core::num::NonZero<usize> {
        // SAFETY: established heads are not at null.
        unsafe { NonNull::new_unchecked(self.heads) }.addr()
    }

    /// Returns whether the list heads have been placed.
    pub(super) const fn is_established(&self) -> bool {
        !self.heads.is_null()
    }

    /// Returns the head and the bit of list `bin`, for `check`. The heads must be established.
    pub(super) fn list(&self, bin: u32) -> (*mut Link, bool) {
        (self.head(bin), self.available.read_bit(bin))
    }

    /// Returns the bin in which `check` expects a gap of `size` bytes.
    pub(super) fn expected_bin(size: usize) -> u32 {
        Self::bin_of(size)
    }
}
