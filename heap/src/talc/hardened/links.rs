//! Verification of links and list heads before they are followed.
//!
//! ```text
//!     Talc            list heads          a gap
//!    ┌──────────┐    ┌───┬───┬───┐       ┌────────┬──────┬──────────┬───┄
//!    │ bit n    │    │   │ n ────────────> extent │ next │ referrer │
//!    └──────────┘    └───┴─^─┴───┘       └────────┴──────┴───│──────┴───┄
//!     set if there is      └─────────────────────────────────┘
//!     a gap in list n
//! ```
//!
//! A link is followed under two conditions: a gap may begin where it leads (in a heap, aligned,
//! with enough room), and the gap names the link as its referrer. For a list head, the bit of the
//! list must agree too. The bit lies in the allocator, not in the heap, and so protects the head.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::chunk::{CHUNK_UNIT, MIN_CHUNK};
use super::super::free_lists::FreeLists;
use super::super::gap_header::{Gap, GapHeader, Link};
use super::heaps::Heap;
use super::report::{Misuse, Report};

impl<B: Binning> FreeLists<B> {
    /// Returns the heap in which a gap with links may begin at `header`: an aligned address with
    /// enough room.
    #[inline]
    fn heap_with_room_at(&self, header: NonNull<GapHeader>) -> Option<Heap> {
        let address = header.addr().get();
        let heap = self.heap_of(address)?;
        let has_room = heap.end.addr().get() - address >= MIN_CHUNK;
        (has_room && address % CHUNK_UNIT == 0).then_some(heap)
    }

    /// Verifies that a gap's referrer leads to it, and that the next gap in the list names it.
    ///
    /// # Safety
    /// The extents of the gap agree, and it is no sliver. A `known` referrer is the gap's own, and
    /// leads to it.
    pub(super) unsafe fn verify_links(
        &self,
        gap: Gap,
        known: Option<*mut Link>,
    ) -> Result<(), Report> {
        // SAFETY: a gap that is no sliver has a header.
        let GapHeader { next, referrer, .. } = unsafe { gap.header().read() };
        let link = GapHeader::next_field(gap.header());
        if known.is_none() {
            // SAFETY: a possible link is a word of a heap or a list head.
            let is_referred_to =
                self.is_possible_link(referrer) && unsafe { referrer.read() } == Some(gap.header());
            if !is_referred_to {
                // SAFETY: the extents of the gap agree, and it is no sliver.
                return Err(unsafe { self.diagnose_referrer(gap) });
            }
        }
        match next {
            // SAFETY: the link is in the header of this gap.
            Some(next) if !self.leads_back(next, link) => Err(unsafe { self.diagnose_link(link) }),
            _ => Ok(()),
        }
    }

    /// Returns whether a gap may begin at `header` and names `link` as its referrer.
    #[inline]
    fn leads_back(&self, header: NonNull<GapHeader>, link: *mut Link) -> bool {
        // SAFETY: a heap has room for a header there.
        self.heap_with_room_at(header).is_some() && unsafe { (*header.as_ptr()).referrer } == link
    }

    /// Returns what is damaged when the referrer of a gap does not lead to it: the referrer, or a
    /// list head.
    ///
    /// # Safety
    /// The extents of the gap agree, and it is no sliver.
    #[cold]
    unsafe fn diagnose_referrer(&self, gap: Gap) -> Report {
        let field = GapHeader::referrer_field(gap.header());
        // SAFETY: a gap that is no sliver has a header.
        let found = unsafe { field.read() };
        let bin = self.bin_of_head(found);
        let bin = bin.filter(|&bin| bin == Self::expected_bin(gap.size()));
        if let Some(Err(report)) = bin.map(|bin| self.verify_head(bin)) {
            return report;
        }
        let misuse = Misuse::DamagedGap {
            expected: self.referrer_to(gap.base.addr().get()),
            found: found.addr(),
        };
        Report {
            address: field.addr(),
            misuse,
        }
    }

    /// Returns the number of the list whose head `link` is, if any.
    fn bin_of_head(&self, link: *mut Link) -> Option<u32> {
        let offset = link.addr().wrapping_sub(self.key());
        let is_head = link.is_aligned() && offset < Self::HEADS_SIZE;
        is_head.then_some((offset / size_of::<Link>()) as u32)
    }

    /// Returns whether `referrer` is the address of a possible link: of a list head, or in a heap.
    fn is_possible_link(&self, referrer: *mut Link) -> bool {
        let in_heads = referrer.addr().wrapping_sub(self.key()) < Self::HEADS_SIZE;
        referrer.is_aligned() && (in_heads || self.heap_of(referrer.addr()).is_some())
    }

    /// Returns whether the head of a list agrees with the list's bit, and the gap that the head
    /// leads to names it.
    ///
    /// The check suffices, because the bit lies in the allocator and not in the heap. Of all places
    /// where a gap may begin, only the first gap of the list has the head's address as its
    /// referrer.
    #[inline]
    pub(super) fn has_intact_head(&self, bin: u32) -> bool {
        let (head, available) = self.list(bin);
        // SAFETY: lists are verified only once their heads are established.
        match unsafe { head.read() } {
            Some(header) => available && self.leads_back(header, head),
            None => !available,
        }
    }

    /// Returns an error if the head of a list, or the gap that it leads to, is damaged.
    pub(super) fn verify_head(&self, bin: u32) -> Result<(), Report> {
        if self.has_intact_head(bin) {
            return Ok(());
        }
        // SAFETY: the link is a list head.
        Err(unsafe { self.diagnose_link(self.list(bin).0) })
    }

    /// Returns the gap that a link leads to, if the link is not null and the gap is intact.
    ///
    /// # Safety
    /// `link` is a list head, or in a gap that was [verified](Self::verify).
    pub(super) unsafe fn verify_link(&self, link: *mut Link) -> Result<Option<Gap>, Report> {
        // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
        if let Some(header) = unsafe { link.read() } {
            if let Some(heap) = self.heap_with_room_at(header) {
                // SAFETY: the header is in a heap, which has room for it.
                if unsafe { (*header.as_ptr()).referrer } == link {
                    return self.verify_in(heap, header.cast(), Some(link)).map(Some);
                }
            }
        }
        // SAFETY: the link is a list head or in a gap that was verified.
        unsafe { self.diagnose_unfollowed(link) }
    }

    /// Returns what is damaged when a link cannot be followed; `None` if it is the last of its
    /// list.
    ///
    /// # Safety
    /// As for [`verify_link`](Self::verify_link).
    #[inline(never)]
    unsafe fn diagnose_unfollowed(&self, link: *mut Link) -> Result<Option<Gap>, Report> {
        match self.bin_of_head(link) {
            Some(bin) => self.verify_head(bin).map(|()| None),
            // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
            None if unsafe { link.read() }.is_none() => Ok(None),
            // SAFETY: the link is a list head or in a gap that was verified.
            None => Err(unsafe { self.diagnose_link(link) }),
        }
    }

    /// Returns what is damaged when the gap that a link leads to does not name the link: the link
    /// or the gap.
    ///
    /// # Safety
    /// As for [`verify_link`](Self::verify_link).
    #[cold]
    unsafe fn diagnose_link(&self, link: *mut Link) -> Report {
        // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
        let found = unsafe { link.read() };
        let gap = found.and_then(|header| self.find_in_heaps(|gap| gap.header() == header));
        if let Some(gap) = gap.filter(|gap| !gap.is_sliver()) {
            let heap = self.heap_of(gap.base.addr().get());
            // SAFETY: the last word of the gap says that a gap begins at `gap.base`.
            let gap_there = heap.and_then(|heap| unsafe { self.gap_at(heap, gap.base) });
            let is_whole = gap_there == Some(gap);
            let field = GapHeader::referrer_field(gap.header());
            // SAFETY: the gap is no sliver, so it has a header.
            let referrer = unsafe { field.read() };
            // SAFETY: a possible link is a word of a heap or a list head.
            let is_elsewhere = referrer != link
                && self.is_possible_link(referrer)
                && unsafe { referrer.read() } == found;
            match heap {
                // SAFETY: a gap begins at its base, a multiple of the unit.
                Some(heap) if !is_whole => return unsafe { self.diagnose_extent(heap, gap.base) },
                _ if !is_elsewhere && referrer != link => {
                    let misuse = Misuse::DamagedGap {
                        expected: Some(link.addr()),
                        found: referrer.addr(),
                    };
                    let address = field.addr();
                    return Report { address, misuse };
                }
                _ => {}
            }
        }
        // SAFETY: gaps that are no slivers have a header.
        let is_next =
            |gap: Gap| !gap.is_sliver() && unsafe { (*gap.header().as_ptr()).referrer } == link;
        let next = self.find_in_heaps(is_next).map(|gap| gap.base.addr().get());
        let found = found.map_or(0, |header| header.addr().get());
        let misuse = match self.bin_of_head(link) {
            Some(bin) => Misuse::DamagedListHead {
                bin,
                expected: if self.list(bin).1 { next } else { Some(0) },
                found,
            },
            None => Misuse::DamagedGap {
                expected: Some(next.unwrap_or(0)),
                found,
            },
        };
        let address = link.addr();
        Report { address, misuse }
    }

    /// Returns the address of the pointer that leads to a gap.
    fn referrer_to(&self, base: usize) -> Option<usize> {
        let leads_to = |link: *mut Link| {
            // SAFETY: each link is a list head or in the header of a gap.
            unsafe { link.read() }.is_some_and(|header| header.addr().get() == base)
        };
        let in_heads = (0..B::BIN_COUNT)
            .map(|bin| self.list(bin).0)
            .find(|&head| leads_to(head));
        let link_in = |gap: Gap| GapHeader::next_field(gap.header());
        in_heads
            .or_else(|| {
                self.find_in_heaps(|gap| !gap.is_sliver() && leads_to(link_in(gap)))
                    .map(link_in)
            })
            .map(|link| link.addr())
    }
}
