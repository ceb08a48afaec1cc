//! Links and list heads: may they be followed?
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
//! A link is followed when a gap may begin where it leads to (in a heap, aligned, with room), and what is
//! there names the link as its referrer. For a list head its bit must agree too, which is not in the heap:
//! so a head is sealed by what is around it.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::chunk::{CHUNK_UNIT, MIN_CHUNK};
use super::super::gaps::Gaps;
use super::super::node::{Gap, Link, Node};
use super::heaps::Heap;
use super::report::{Misuse, Report};

impl<B: Binning> Gaps<B> {
    /// The heap in which a gap with links may begin at `node`: it is aligned, and there is room.
    #[inline]
    fn heap_for(&self, node: NonNull<Node>) -> Option<Heap> {
        let address = node.addr().get();
        let heap = self.heap_of(address)?;
        let has_room = heap.end.addr().get() - address >= MIN_CHUNK;
        (has_room && address.is_multiple_of(CHUNK_UNIT)).then_some(heap)
    }

    /// Whether a gap's referrer leads to it, and what comes next in the list names it.
    ///
    /// # Safety
    /// The extents of the gap agree, and it is no sliver. A `known` referrer is the gap's, and leads to it.
    pub(super) unsafe fn verify_links(
        &self,
        gap: Gap,
        known: Option<*mut Link>,
    ) -> Result<(), Report> {
        let node = gap.node().as_ptr();
        // SAFETY: gaps that are no slivers have a header.
        let (Node { next, referrer, .. }, link) = unsafe { (node.read(), &raw mut (*node).next) };
        if known.is_none() {
            let is_referred_to = self.may_be_link(referrer) && {
                // SAFETY: it is a word of a heap or a list head, as was seen above.
                unsafe { referrer.read() == Some(gap.node()) }
            };
            if !is_referred_to {
                // SAFETY: the extents of the gap agree, and it is no sliver.
                return Err(unsafe { self.wrong_referrer(gap) });
            }
        }
        match next {
            // SAFETY: the link is in the gap.
            Some(next) if !self.leads_back(next, link) => Err(unsafe { self.wrong_link(link) }),
            _ => Ok(()),
        }
    }

    /// Whether a gap may begin at `node`, and names `link` as its referrer.
    #[inline]
    fn leads_back(&self, node: NonNull<Node>, link: *mut Link) -> bool {
        // SAFETY: it is a word of a heap.
        self.heap_for(node).is_some() && unsafe { (*node.as_ptr()).referrer } == link
    }

    /// What is wrong when the referrer of a gap does not lead to it: the referrer, or a list head.
    ///
    /// # Safety
    /// The extents of the gap agree, and it is no sliver.
    #[cold]
    unsafe fn wrong_referrer(&self, gap: Gap) -> Report {
        // SAFETY: gaps that are no slivers have a header.
        let (field, found) = unsafe {
            let field = &raw const (*gap.node().as_ptr()).referrer;
            (field.addr(), field.read())
        };
        if let Some(bin) = self.bin_of_head(found)
            && bin == Self::expected_bin(gap.size())
            && let Err(report) = self.verify_head(bin)
        {
            return report;
        }
        let misuse = Misuse::DamagedGap {
            expected: self.referrer_to(gap.base.addr().get()),
            found: found.addr(),
        };
        Report {
            address: field,
            misuse,
        }
    }

    /// The number of the list whose head is there.
    fn bin_of_head(&self, link: *mut Link) -> Option<u32> {
        let offset = link.addr().wrapping_sub(self.key());
        let is_head = link.is_aligned() && offset < Self::HEADS_SIZE;
        is_head.then_some((offset / size_of::<Link>()) as u32)
    }

    /// Whether a link may be there.
    fn may_be_link(&self, referrer: *mut Link) -> bool {
        let in_heads = referrer.addr().wrapping_sub(self.key()) < Self::HEADS_SIZE;
        referrer.is_aligned() && (in_heads || self.heap_of(referrer.addr()).is_some())
    }

    /// Whether the head of a list is as its bit says, and the gap that it leads to names it.
    ///
    /// This is what seals a head: the bit is in the allocator, not in the heap, and of all places where a gap
    /// may begin only that of the first gap has the head's address as its referrer.
    #[inline]
    pub(super) fn has_sound_head(&self, bin: u32) -> bool {
        let (head, available) = self.list(bin);
        // SAFETY: the list heads are established.
        match unsafe { head.read() } {
            Some(node) => available && self.leads_back(node, head),
            None => !available,
        }
    }

    /// What is wrong with the head of a list, or with the gap that it leads to.
    pub(super) fn verify_head(&self, bin: u32) -> Result<(), Report> {
        if self.has_sound_head(bin) {
            return Ok(());
        }
        // SAFETY: the list heads are established.
        Err(unsafe { self.wrong_link(self.list(bin).0) })
    }

    /// The gap that a link leads to, if there is one, and all that it says about itself is true.
    ///
    /// # Safety
    /// `link` is a list head, or in a gap that was [verified](Self::verify).
    pub(super) unsafe fn verify_link(&self, link: *mut Link) -> Result<Option<Gap>, Report> {
        // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
        if let Some(node) = unsafe { link.read() }
            && let Some(heap) = self.heap_for(node)
            // SAFETY: it is a word of a heap.
            && unsafe { (*node.as_ptr()).referrer } == link
        {
            return self.verify_in(heap, node.cast(), Some(link)).map(Some);
        }
        // SAFETY: the link is a list head or in a gap that was verified.
        unsafe { self.unfollowed(link) }
    }

    /// What is wrong with a link that cannot be followed; nothing, if it is the last of its list.
    ///
    /// # Safety
    /// As for [`verify_link`](Self::verify_link).
    #[inline(never)]
    unsafe fn unfollowed(&self, link: *mut Link) -> Result<Option<Gap>, Report> {
        match self.bin_of_head(link) {
            Some(bin) => self.verify_head(bin).map(|()| None),
            // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
            None if unsafe { link.read() }.is_none() => Ok(None),
            // SAFETY: the link is a list head or in a gap that was verified.
            None => Err(unsafe { self.wrong_link(link) }),
        }
    }

    /// What is wrong when what a link leads to does not name it: the link, or the gap that is there.
    ///
    /// # Safety
    /// As for [`verify_link`](Self::verify_link).
    #[cold]
    unsafe fn wrong_link(&self, link: *mut Link) -> Report {
        // SAFETY: a list head, or the link of a verified gap, is memory of a heap.
        let found = unsafe { link.read() };
        let gap = found.and_then(|node| self.find_in_heaps(|gap| gap.node() == node));
        if let Some(gap) = gap.filter(|gap| !gap.is_sliver()) {
            let heap = self.heap_of(gap.base.addr().get());
            // SAFETY: a gap is there, as its end says.
            let (is_whole, field) = unsafe {
                let is_whole = heap.is_some_and(|heap| self.gap_at(heap, gap.base) == Some(gap));
                (is_whole, &raw const (*gap.node().as_ptr()).referrer)
            };
            // SAFETY: the gap is no sliver, so it has a header.
            let referrer = unsafe { field.read() };
            let is_elsewhere = referrer != link && self.may_be_link(referrer) && {
                // SAFETY: it is a word of a heap or a list head, as was seen above.
                unsafe { referrer.read() == found }
            };
            match heap {
                // SAFETY: a gap is there.
                Some(heap) if !is_whole => return unsafe { self.wrong_extent(heap, gap.base) },
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
        let is_next = |gap: Gap| {
            // SAFETY: gaps that are no slivers have a header.
            !gap.is_sliver() && unsafe { (*gap.node().as_ptr()).referrer == link }
        };
        let next = self.find_in_heaps(is_next).map(|gap| gap.base.addr().get());
        let found = found.map_or(0, |node| node.addr().get());
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

    /// Where the pointer to a gap is.
    fn referrer_to(&self, base: usize) -> Option<usize> {
        let leads_to = |link: *mut Link| {
            // SAFETY: the links are those in list heads and gaps.
            unsafe { link.read() }.is_some_and(|node| node.addr().get() == base)
        };
        let in_heads = (0..B::BIN_COUNT)
            .map(|bin| self.list(bin).0)
            .find(|&head| leads_to(head));
        // SAFETY: gaps that are no slivers have a header.
        let link_in = |gap: Gap| unsafe { &raw mut (*gap.node().as_ptr()).next };
        in_heads
            .or_else(|| {
                self.find_in_heaps(|gap| !gap.is_sliver() && leads_to(link_in(gap)))
                    .map(link_in)
            })
            .map(|link| link.addr())
    }
}
