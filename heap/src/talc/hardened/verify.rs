//! Is a gap what it says, is a pointer an allocation?

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::bitfield::BitField;
use super::super::chunk::{CHUNK_UNIT, MIN_CHUNK, chunk_size, distance, unit_floor};
use super::super::gaps::Gaps;
use super::super::node::{Gap, Link, Node};
use super::super::tag::Tag;
use super::heaps::Heap;
use super::report::{Misuse, Report};
use super::tail::Tail;
use super::walk::{Part, word_below, wrong_word};

/// The gaps that an allocation touches.
#[derive(Default)]
pub(super) struct Neighbours {
    pub(super) below: Option<Gap>,
    pub(super) above: Option<Gap>,
}

fn damaged_gap<T>(address: usize, expected: Option<usize>, found: usize) -> Result<T, Report> {
    let misuse = Misuse::DamagedGap { expected, found };
    Err(Report { address, misuse })
}

impl<B: Binning> Gaps<B> {
    /// The heaps, without the list heads that lie in the first.
    pub(super) fn heaps(&self) -> impl Iterator<Item = Heap> {
        self.heaps.iter().map(|heap| self.heaps.without_heads(heap))
    }

    /// The heap with this number, from the latest on. O(heaps).
    pub(super) fn heap_at(&self, number: usize) -> Option<Heap> {
        self.heaps().nth(number)
    }

    /// The heap that an address is in. O(1) in the latest heap, otherwise O(heaps).
    #[inline]
    pub(super) fn heap_of(&self, address: usize) -> Option<Heap> {
        match self.heaps.latest_with(address) {
            None => self.older_heap_of(address),
            heap => heap,
        }
    }

    #[inline(never)]
    fn older_heap_of(&self, address: usize) -> Option<Heap> {
        self.heaps().find(|heap| heap.contains(address))
    }

    /// The heap in which a gap with links may begin at `node`: it is aligned, and there is room.
    #[inline]
    fn heap_for(&self, node: NonNull<Node>) -> Option<Heap> {
        let address = node.addr().get();
        let heap = self.heap_of(address)?;
        let has_room = heap.end.addr().get() - address >= MIN_CHUNK;
        (has_room && address.is_multiple_of(CHUNK_UNIT)).then_some(heap)
    }

    /// What is wrong with an address that is in no heap: nothing, unless heaps are missing because their
    /// records are damaged.
    #[cold]
    fn foreign(&self, address: usize) -> Report {
        let misuse = Misuse::ForeignPointer;
        match self.heaps.verify() {
            Ok(()) => Report { address, misuse },
            Err(report) => report,
        }
    }

    /// Whether the list heads end there.
    pub(super) fn is_above_heads(&self, end: NonNull<u8>) -> bool {
        let heads_end = self
            .heads_address()
            .checked_add(chunk_size(Self::METADATA_SIZE));
        heads_end == Some(end.addr())
    }

    /// What makes canaries this allocator's.
    pub(super) fn key(&self) -> usize {
        self.heads_address().get()
    }

    /// Whether all that a gap says about itself is true, and so is the tag below it.
    pub(super) fn verify(&self, base: NonNull<u8>) -> Result<Gap, Report> {
        let address = base.addr().get();
        match self.heap_of(address) {
            Some(heap) if address.is_multiple_of(CHUNK_UNIT) => self.verify_in(heap, base, None),
            Some(_) => damaged_gap(address, None, address),
            None => Err(self.foreign(address)),
        }
    }

    /// [Verifies](Self::verify) a gap as its last word describes it. That word may have changed so that it
    /// leads to the base of another gap, farther down.
    #[inline]
    pub(super) fn verify_part(&self, part: Gap) -> Result<Gap, Report> {
        let gap = self.verify(part.base)?;
        if gap != part {
            let (expected, found) = (None, part.extent());
            return Err(wrong_word(
                part.end(),
                Misuse::DamagedGap { expected, found },
            ));
        }
        Ok(gap)
    }

    /// [Verifies](Self::verify) a gap at a multiple of the unit in a heap. `referrer` is the link that led to
    /// it, if it has been compared with the gap's.
    fn verify_in(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        referrer: Option<*mut Link>,
    ) -> Result<Gap, Report> {
        // SAFETY: the place is a unit of the heap.
        let Some(gap) = (unsafe { self.gap_at(heap, base) }) else {
            // SAFETY: as above.
            return Err(unsafe { self.wrong_extent(heap, base) });
        };
        // SAFETY: each unit of a heap has a word below it: the last of another, or the base tag.
        let found = unsafe { word_below(base) };
        let expected = self.tag_word(heap, base, true);
        if found != expected {
            let misuse = Misuse::DamagedTag { expected, found };
            return Err(wrong_word(base, misuse));
        }
        if !gap.is_sliver() {
            // SAFETY: its extents agree, and there is room for a header.
            unsafe { self.verify_links(gap, referrer)? };
        }
        Ok(gap)
    }

    /// Which of its ends is wrong, and what should be there.
    ///
    /// # Safety
    /// `base` is a multiple of the unit in this heap.
    #[cold]
    unsafe fn wrong_extent(&self, heap: Heap, base: NonNull<u8>) -> Report {
        // SAFETY: the word is in the heap.
        let at_base = unsafe { Gap::at(base) };
        let address = base.addr().get();
        let found = at_base.extent();
        // (It may be any number.)
        let last_word = address
            .wrapping_add(at_base.size())
            .wrapping_sub(size_of::<usize>());
        let mut expected = None;
        for part in self.parts_down(heap) {
            match part {
                Ok(Part::Gap(gap)) if gap.base == base => expected = Some(gap.extent()),
                Ok(part) if part.base() > base => continue,
                Ok(_) => {}
                Err(Report {
                    address,
                    misuse: Misuse::DamagedGap { found, .. },
                }) if address == last_word => {
                    // It is the upper end that is wrong.
                    let expected = Some(at_base.extent());
                    let misuse = Misuse::DamagedGap { expected, found };
                    return Report { address, misuse };
                }
                Err(report) => return report,
            }
            break;
        }
        let misuse = Misuse::DamagedGap { expected, found };
        Report { address, misuse }
    }

    /// Whether a gap's referrer leads to it, and what comes next in the list names it.
    ///
    /// # Safety
    /// The extents of the gap agree, and it is no sliver. A `known` referrer is the gap's, and leads to it.
    unsafe fn verify_links(&self, gap: Gap, known: Option<*mut Link>) -> Result<(), Report> {
        let node = gap.node().as_ptr();
        // SAFETY: gaps that are no slivers have a header.
        let (Node { next, referrer, .. }, link) = unsafe { (node.read(), &raw mut (*node).next) };
        if known.is_none() {
            // SAFETY: only words of heaps and list heads are read.
            let is_referred_to =
                self.may_be_link(referrer) && unsafe { referrer.read() } == Some(gap.node());
            if !is_referred_to {
                // SAFETY: as above.
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
        // SAFETY: the caller's duty.
        if let Some(node) = unsafe { link.read() }
            && let Some(heap) = self.heap_for(node)
            // SAFETY: it is a word of a heap.
            && unsafe { (*node.as_ptr()).referrer } == link
        {
            return self.verify_in(heap, node.cast(), Some(link)).map(Some);
        }
        // SAFETY: the caller's duty.
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
            // SAFETY: the caller's duty.
            None if unsafe { link.read() }.is_none() => Ok(None),
            // SAFETY: as above.
            None => Err(unsafe { self.wrong_link(link) }),
        }
    }

    /// What is wrong when what a link leads to does not name it: the link, or the gap that is there.
    ///
    /// # Safety
    /// As for [`verify_link`](Self::verify_link).
    #[cold]
    unsafe fn wrong_link(&self, link: *mut Link) -> Report {
        // SAFETY: the caller's duty.
        let found = unsafe { link.read() };
        let gap = found.and_then(|node| self.find_in_heaps(|gap| gap.node() == node));
        if let Some(gap) = gap.filter(|gap| !gap.is_sliver()) {
            let heap = self.heap_of(gap.base.addr().get());
            // SAFETY: a gap is there, as its end says.
            let (is_whole, field) = unsafe {
                let is_whole = heap.is_some_and(|heap| self.gap_at(heap, gap.base) == Some(gap));
                (is_whole, &raw const (*gap.node().as_ptr()).referrer)
            };
            // SAFETY: as above.
            let referrer = unsafe { field.read() };
            // SAFETY: only words of heaps and list heads are read.
            let is_elsewhere = referrer != link
                && self.may_be_link(referrer)
                && unsafe { referrer.read() } == found;
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
        // SAFETY: gaps that are no slivers have a header.
        let is_next =
            |gap: Gap| !gap.is_sliver() && unsafe { (*gap.node().as_ptr()).referrer } == link;
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
        let in_heads = (0..B::AvailabilityBitField::BITS)
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

    /// Whether a pointer is an allocation with this layout, undamaged, and so is what it touches.
    ///
    /// Memory outside the heaps is not looked at.
    pub(super) fn verify_block(&self, ptr: *mut u8, layout: Layout) -> Result<Neighbours, Report> {
        let address = ptr.addr();
        let (Some(heap), Some(base)) = (self.heap_of(address), NonNull::new(ptr)) else {
            return Err(self.foreign(address));
        };
        let size = chunk_size(layout.size());
        let is_possible = address.is_multiple_of(CHUNK_UNIT) && size <= distance(base, heap.end);
        // SAFETY: so far up there is heap.
        let end = is_possible.then(|| unsafe { base.byte_add(size) });
        let tail = Tail::new(self.key(), address, size, layout);
        // SAFETY: below the end there is as much heap as the smallest chunk has.
        let found = end.map(|end| (end, unsafe { Tail::ending_at(end) }));
        match found {
            Some((end, found)) if found == tail => {
                // SAFETY: the tail is that of a chunk there.
                unsafe {
                    tail.check_filling(base)?;
                    self.neighbours(heap, base, end)
                }
            }
            _ => Err(self.diagnose(heap, base, layout, || {
                let (end, found) = found?;
                tail.first_difference(found, end)
            })),
        }
    }

    /// The gaps that a chunk touches, if they and its tag are as they should be.
    ///
    /// # Safety
    /// It is a chunk of this heap.
    unsafe fn neighbours(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        end: NonNull<u8>,
    ) -> Result<Neighbours, Report> {
        let mut neighbours = Neighbours::default();
        // SAFETY: chunks and gaps begin and end where this one ends and begins.
        unsafe {
            let tag = Tag::ending_at(end);
            let is_below_gap = tag.is_below_gap() && end < heap.end;
            if word_below(end) != self.tag_word(heap, end, is_below_gap) {
                return Err(self.wrong_tag(heap, end));
            }
            if is_below_gap {
                neighbours.above = Some(self.verify(end)?);
            }
            if base == heap.first {
                if word_below(base) != self.tag_word(heap, base, false) {
                    return Err(self.wrong_tag(heap, base));
                }
                if !self.is_above_heads(base) && !self.heaps.has_sound_record(heap) {
                    self.heaps.verify()?;
                }
            } else if let Part::Gap(gap) = self.part_ending_at(heap, base)? {
                neighbours.below = Some(self.verify_part(gap)?);
            }
        }
        Ok(neighbours)
    }

    /// What is wrong with a pointer that is no allocation with this layout.
    ///
    /// `tail_damage` tells how the tail differs that should be there.
    fn diagnose(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        layout: Layout,
        tail_damage: impl Fn() -> Option<Report>,
    ) -> Report {
        let address = base.addr().get();
        let in_chunk = |block: NonNull<u8>, tail: Tail| {
            let misuse = if block < base {
                Misuse::InteriorPointer {
                    block: block.addr().get(),
                }
            } else {
                Misuse::WrongLayout {
                    expected: tail.layout(),
                    found: layout,
                }
            };
            Report { address, misuse }
        };
        let mut end = heap.end;
        for part in self.parts_down(heap) {
            match part {
                Ok(part) if part.base() > base => end = part.base(),
                Ok(Part::Chunk(block, tail)) => return in_chunk(block, tail),
                Ok(Part::Gap(gap)) => {
                    let misuse = Misuse::DoubleFree {
                        from: gap.base.addr().get(),
                        to: gap.end().addr().get(),
                    };
                    return Report { address, misuse };
                }
                Err(report) => {
                    // The heap is damaged here or above. Is there a tail that knows the pointer?
                    return match self.first_tail(heap, base, end) {
                        Some((block, tail)) if block <= base => in_chunk(block, tail),
                        _ => tail_damage().unwrap_or(report),
                    };
                }
            }
        }
        // The parts reach down to the heap's first address, and the pointer is not below that.
        let misuse = Misuse::ForeignPointer;
        Report { address, misuse }
    }

    /// The first chunk that has its tail above `from`, up to `to`.
    fn first_tail(
        &self,
        heap: Heap,
        from: NonNull<u8>,
        to: NonNull<u8>,
    ) -> Option<(NonNull<u8>, Tail)> {
        let above = unit_floor(from.addr().get()) + CHUNK_UNIT;
        let first = above.max(heap.first.addr().get() + chunk_size(1));
        (first..=to.addr().get())
            .step_by(CHUNK_UNIT)
            .find_map(|address| {
                // SAFETY: the address is in the heap or its end, and there is as much heap under it as
                // the smallest chunk has.
                let (end, tail) = unsafe {
                    let end = heap.end.byte_sub(heap.end.addr().get() - address);
                    (end, Tail::ending_at(end))
                };
                let is_tail = tail.canary() == tail.expected_canary(self.key(), address);
                let room = distance(heap.first, end);
                let is_tail = is_tail && tail.fits(room);
                // SAFETY: so far down there is heap.
                is_tail.then(|| (unsafe { end.byte_sub(tail.size) }, tail))
            })
    }
}
