//! The lists of gaps, one for each bin.

use core::hint;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicBool;

use super::allocate::Request;
use super::binning::Binning;
use super::bitfield::BitField;
use super::gap_header::{Gap, GapHeader, Link};
use super::hardened::{Findings, Heaps};

/// So many gaps that may fit are looked at before one that certainly does is taken.
const MAX_NEAR_PROBES: usize = 4;

/// Every gap of every heap, slivers excepted, in a doubly linked list for its bin, latest first.
pub(super) struct FreeLists<B: Binning> {
    /// A list head for each bin, in memory of the first heap that was claimed; null before that.
    heads: *mut Link,
    /// Bit *n* is set exactly when list *n* has a gap in it.
    available: B::AvailabilityBitField,
    /// Where gaps can be.
    pub(super) heaps: Heaps,
}

impl<B: Binning> FreeLists<B> {
    /// Bytes that the list heads take.
    pub(super) const HEADS_SIZE: usize = {
        assert!(B::BIN_COUNT > 0 && B::BIN_COUNT <= B::AvailabilityBitField::BITS);
        B::BIN_COUNT as usize * size_of::<Link>()
    };

    /// Bytes that the list heads take, and the flag above them, which is set when the allocator is gone.
    pub(super) const METADATA_SIZE: usize = Self::HEADS_SIZE + size_of::<AtomicBool>();

    /// No lists, which is to say that they are all empty.
    pub(super) const fn new() -> Self {
        Self {
            heads: ptr::null_mut(),
            available: B::AvailabilityBitField::ZEROES,
            heaps: Heaps::new(),
        }
    }

    /// Puts the list heads and the flag at `heads`.
    ///
    /// # Safety
    /// * `heads` is aligned for pointers and its [`METADATA_SIZE`](Self::METADATA_SIZE) bytes belong
    ///   to this value from now on.
    /// * This is done once, before the first [`insert`](Self::insert).
    pub(super) unsafe fn establish(&mut self, heads: NonNull<u8>) {
        self.heads = heads.cast().as_ptr();
        for bin in 0..B::BIN_COUNT {
            // SAFETY: the caller gives room for so many heads.
            unsafe { self.head(bin).write(None) };
        }
        // SAFETY: and for the flag.
        unsafe { self.owner_flag().write(AtomicBool::new(false)) };
    }

    /// The flag that is set when the allocator is gone. It is there once the list heads are.
    pub(super) fn owner_flag(&self) -> *mut AtomicBool {
        self.heads.wrapping_byte_add(Self::HEADS_SIZE).cast()
    }

    /// The bin of gaps of `size` bytes, below [`BIN_COUNT`](Binning::BIN_COUNT). The binning may
    /// return anything.
    #[inline]
    fn bin_of(size: usize) -> u32 {
        // Not unwinding: lists may be half changed when this is called.
        #[inline]
        extern "C" fn abort_on_panic<B: Binning>(size: usize) -> u32 {
            B::size_to_bin(size)
        }
        abort_on_panic::<B>(size).min(B::BIN_COUNT - 1)
    }

    /// The lowest bin in which every gap has at least `size` bytes, or the last bin. The binning may
    /// return anything.
    fn bin_ceil_of(size: usize) -> u32 {
        // Not unwinding: a `GlobalAlloc` must not.
        extern "C" fn abort_on_panic<B: Binning>(size: usize) -> u32 {
            B::size_to_bin_ceil(size)
        }
        abort_on_panic::<B>(size).min(B::BIN_COUNT - 1)
    }

    /// Where the pointer to the first gap of list `bin` is, which is less than
    /// [`BIN_COUNT`](Binning::BIN_COUNT). There is something there once the heads are established.
    #[inline]
    fn head(&self, bin: u32) -> *mut Link {
        self.heads.wrapping_add(bin as usize)
    }

    /// Enters a free range into its list. It becomes a gap.
    ///
    /// # Safety
    /// * The range is free memory of a heap, in no list, and no sliver.
    /// * The list heads are established.
    #[inline]
    pub(super) unsafe fn insert(&mut self, gap: Gap) {
        // SAFETY: the caller's duty.
        unsafe { self.insert_into(Self::bin_of(gap.size()), gap) }
    }

    /// [Inserts](Self::insert) a gap whose bin is known.
    ///
    /// # Safety
    /// As for `insert`.
    #[inline]
    unsafe fn insert_into(&mut self, bin: u32, gap: Gap) {
        // SAFETY: the caller's duty.
        if !unsafe { self.can_enter(bin, gap) } {
            return;
        }
        let head = self.head(bin);
        // SAFETY: head and successor are ours; the caller vouches for the range.
        unsafe {
            let next = head.read();
            match Self::link(head, gap, next) {
                Some(referrer) => referrer.write(&raw mut (*gap.header().as_ptr()).next),
                None => self.available.set_bit(bin),
            }
        }
    }

    /// Makes `gap` the first gap of the list at `head`, and `next` the second. Returns where the second
    /// has its referrer, which is still to be changed.
    ///
    /// # Safety
    /// The range is free memory of a heap, and no sliver; `head` and `next` are as described.
    #[inline]
    unsafe fn link(head: *mut Link, gap: Gap, next: Link) -> Option<*mut *mut Link> {
        let header = gap.header().as_ptr();
        // SAFETY: the range has room for a header and nobody else uses it, and no reference to the
        // list's parts is alive.
        unsafe {
            gap.write_extent();
            (&raw mut (*header).next).write(next);
            (&raw mut (*header).referrer).write(head);
            head.write(Some(gap.header()));
            next.map(|next| &raw mut (*next.as_ptr()).referrer)
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
            let GapHeader { next, referrer, .. } = gap.header().read();
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

    /// The first gap of the first list in which there may be one of `size` bytes, if it has so many,
    /// and the list's head. Most requests need no more than this.
    #[inline]
    pub(super) fn first_for(&self, size: usize) -> Option<(*mut Link, Gap)> {
        #[cfg(test)]
        super::probe_tests::count_probe();
        let bin = self.available.first_from(Self::bin_of(size))?;
        let gap = self.first(bin);
        gap.has(size).then_some((self.head(bin), gap))
    }

    /// The first gap of the first list after that of gaps of `size` bytes, and the list's head. (It has so
    /// many, if the binning keeps its promises.)
    #[inline]
    pub(super) fn first_beyond(&self, size: usize) -> Option<(*mut Link, Gap)> {
        let bin = self.bins_from(Self::bin_of(size) + 1).next()?;
        let gap = self.first(bin);
        gap.has(size).then_some((self.head(bin), gap))
    }

    /// Takes `first` out of the list at `head`.
    ///
    /// # Safety
    /// It is the first gap there.
    #[inline]
    pub(super) unsafe fn remove_first(&mut self, head: *mut Link, first: NonNull<GapHeader>) {
        // SAFETY: a gap in a list has a valid header, and what that points to is ours.
        unsafe {
            let next = (*first.as_ptr()).next;
            head.write(next);
            match next {
                Some(next) => (*next.as_ptr()).referrer = head,
                None => {
                    let bin = head.offset_from(self.heads) as u32;
                    hint::assert_unchecked(bin < B::BIN_COUNT);
                    self.available.clear_bit(bin);
                }
            }
        }
    }

    /// Takes `first` out of the list at `head`, and enters `rest`, which is a part of it, into its
    /// list. That often is the same.
    ///
    /// # Safety
    /// `first` is the first gap there, and `rest` is free and no sliver.
    #[inline]
    pub(super) unsafe fn replace_first(
        &mut self,
        head: *mut Link,
        first: NonNull<GapHeader>,
        rest: Gap,
    ) {
        let rest_bin = Self::bin_of(rest.size());
        // SAFETY: a gap in a list has a valid header, and what that points to is ours. The rest is
        // free memory of a heap.
        unsafe {
            if self.head(rest_bin) == head {
                let next = (*first.as_ptr()).next;
                if let Some(referrer) = Self::link(head, rest, next) {
                    referrer.write(&raw mut (*rest.header().as_ptr()).next);
                }
            } else {
                self.remove_first(head, first);
                self.insert_into(rest_bin, rest);
            }
        }
    }

    /// A gap in which the request fits: one of the first in the lowest list that may have one; or
    /// else the first of the first list whose gaps all certainly do; or else the first that does
    /// among about `looks` gaps which may. The latest gap of each list is among them: what a source
    /// has just granted is found, if it fits.
    pub(super) fn find(&self, request: &Request, looks: usize) -> Option<Gap> {
        let floor = Self::bin_of(request.footprint.chunk_size());
        let certain = Self::bin_ceil_of(request.footprint.max_size());
        let fits = |gap: &Gap| request.fits(*gap);
        // SAFETY: links in the lists lead to gaps.
        let follow = |link| unsafe { request.findings.sound_gap(self, link) };
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
                    .flat_map(|bin| self.iter_bin(bin, follow).take(looks.div_ceil(bins)))
                    .find(fits)
            })
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
    fn first(&self, bin: u32) -> Gap {
        // SAFETY: bits are only set when the heads are established, and exactly for lists that are
        // not empty; what is in a list is a gap.
        unsafe { Gap::at(self.head(bin).read().unwrap_unchecked().cast()) }
    }

    /// The gaps of list `bin` in the order of the list, as far as its links can be followed.
    fn iter_bin(
        &self,
        bin: u32,
        follow: impl Fn(*mut Link) -> Option<Gap>,
    ) -> impl Iterator<Item = Gap> {
        let head = self.available.read_bit(bin).then(|| self.head(bin));
        core::iter::successors(head.and_then(&follow), move |gap| {
            // SAFETY: what is in a list is a gap with a valid header, and nothing in a list changes
            // while `self` is borrowed.
            follow(unsafe { &raw mut (*gap.header().as_ptr()).next })
        })
    }

    /// Every gap, list by list.
    pub(super) fn iter(&self) -> impl Iterator<Item = Gap> {
        // SAFETY: links in the lists lead to gaps.
        let follow = |link| unsafe { Findings::new().sound_gap(self, link) };
        self.bins_from(0)
            .flat_map(move |bin| self.iter_bin(bin, follow))
    }

    /// Forgets the gaps of a list. They are in no list then. Only once established.
    #[cfg(feature = "hardened")]
    pub(super) fn empty_list(&mut self, bin: u32) {
        self.available.clear_bit(bin);
        // SAFETY: the list heads are this value's.
        unsafe { self.head(bin).write(None) };
    }

    /// Where the list heads are. Only once established.
    #[cfg(feature = "hardened")]
    pub(super) fn heads_address(&self) -> core::num::NonZero<usize> {
        // SAFETY: they are not at null then.
        unsafe { NonNull::new_unchecked(self.heads) }.addr()
    }

    /// Whether the list heads are where they will stay.
    pub(super) const fn is_established(&self) -> bool {
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
