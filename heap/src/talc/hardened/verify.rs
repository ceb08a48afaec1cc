//! Is a gap what it says, is a pointer an allocation?

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::chunk::{CHUNK_UNIT, chunk_size, distance, unit_floor};
use super::super::gaps::Gaps;
use super::super::node::{Gap, Link, Node};
use super::super::tag::Tag;
use super::heaps::Heap;
use super::report::{Misuse, Report};
use super::tail::Tail;
use super::walk::{Part, word_below};

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
        self.heaps.iter().map(|heap| {
            let with_heads = heap.first.addr() == self.heads_address();
            let metadata = if with_heads {
                chunk_size(Self::METADATA_SIZE)
            } else {
                0
            };
            Heap {
                // SAFETY: the list heads' chunk is in the heap.
                first: unsafe { heap.first.byte_add(metadata) },
                end: heap.end,
            }
        })
    }

    /// The heap that an address is in.
    pub(super) fn heap_of(&self, address: usize) -> Option<Heap> {
        self.heaps().find(|heap| heap.contains(address))
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
    ///
    /// # Safety
    /// A gap begins at `base`, or did before it was damaged.
    pub(super) unsafe fn verify(&self, base: NonNull<u8>) -> Result<Gap, Report> {
        let address = base.addr().get();
        let Some(heap) = self.heap_of(address) else {
            let misuse = Misuse::ForeignPointer;
            return Err(Report { address, misuse });
        };
        // SAFETY: a gap begins there.
        let Some(gap) = (unsafe { self.gap_at(heap, base) }) else {
            // SAFETY: as before.
            return Err(unsafe { self.wrong_extent(heap, base) });
        };
        // SAFETY: something ends where a gap begins.
        let found = unsafe { word_below(base) };
        let expected = self.tag_word(heap, base, true);
        if found != expected {
            let misuse = Misuse::DamagedTag { expected, found };
            return Err(super::walk::wrong_word(base, misuse));
        }
        if !gap.is_sliver() {
            // SAFETY: it is a gap.
            unsafe { self.verify_links(gap)? };
        }
        Ok(gap)
    }

    /// Which of its ends is wrong, and what should be there.
    ///
    /// # Safety
    /// A gap begins at `base`, or did before it was damaged.
    unsafe fn wrong_extent(&self, heap: Heap, base: NonNull<u8>) -> Report {
        // SAFETY: the words are in the heap.
        let at_base = unsafe { Gap::at(base) };
        let address = base.addr().get();
        let found = at_base.extent();
        let mut expected = None;
        for part in self.parts_down(heap) {
            match part {
                Ok(Part::Gap(gap)) if gap.base == base => expected = Some(gap.extent()),
                Ok(part) if part.base() > base => continue,
                Ok(_) => {}
                Err(Report {
                    address,
                    misuse: Misuse::DamagedGap { found, .. },
                }) if at_base.end().addr().get().checked_sub(size_of::<usize>())
                    == Some(address) =>
                {
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

    /// # Safety
    /// The gap is one, and no sliver.
    unsafe fn verify_links(&self, gap: Gap) -> Result<(), Report> {
        let base = gap.base.addr().get();
        let node = gap.node().as_ptr();
        // SAFETY: gaps that are no slivers have a header.
        let (Node { next, referrer, .. }, link) = unsafe { (node.read(), &raw mut (*node).next) };
        // SAFETY: only words of heaps and list heads are read.
        let is_referred_to =
            self.may_be_link(referrer) && unsafe { referrer.read() } == Some(gap.node());
        if !is_referred_to {
            // SAFETY: as before.
            let field = unsafe { &raw const (*node).referrer }.addr();
            return damaged_gap(field, self.referrer_to(base), referrer.addr());
        }
        let Some(next) = next else { return Ok(()) };
        let next_base = next.cast::<u8>();
        let next_address = next.addr().get();
        let next_heap = self
            .heap_of(next_address)
            .filter(|_| next_address.is_multiple_of(CHUNK_UNIT));
        if let Some(heap) = next_heap {
            // SAFETY: it is a word of a heap.
            let refers_back = unsafe { &raw const (*next.as_ptr()).referrer };
            // SAFETY: as before. The third word of the last unit would be above the heap.
            let back = next_address + size_of::<Node>() <= heap.end.addr().get()
                && unsafe { refers_back.read() } == link;
            if back {
                return Ok(());
            }
            if let Some(gap) = self.find_in_heaps(|gap| gap.base == next_base) {
                // It is the next gap that is damaged.
                // SAFETY: a gap is there.
                unsafe {
                    if self.gap_at(heap, next_base) != Some(gap) {
                        return Err(self.wrong_extent(heap, next_base));
                    }
                    let found = refers_back.read().addr();
                    return damaged_gap(refers_back.addr(), Some(link.addr()), found);
                }
            }
        }
        // SAFETY: gaps that are no slivers have a header.
        let is_next =
            |gap: Gap| !gap.is_sliver() && unsafe { (*gap.node().as_ptr()).referrer } == link;
        let expected = self
            .find_in_heaps(is_next)
            .map_or(0, |gap| gap.base.addr().get());
        damaged_gap(link.addr(), Some(expected), next_address)
    }

    /// Whether a link may be there.
    fn may_be_link(&self, referrer: *mut Link) -> bool {
        let address = referrer.addr();
        let in_heads = (address.wrapping_sub(self.key())) < Self::HEADS_SIZE;
        referrer.is_aligned() && (in_heads || self.heap_of(address).is_some())
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

    /// Whether a pointer is an allocation with this layout, undamaged, and so is what it touches.
    ///
    /// Memory outside the heaps is not looked at.
    pub(super) fn verify_block(&self, ptr: *mut u8, layout: Layout) -> Result<Neighbours, Report> {
        let address = ptr.addr();
        let (Some(heap), Some(base)) = (self.heap_of(address), NonNull::new(ptr)) else {
            let misuse = Misuse::ForeignPointer;
            return Err(Report { address, misuse });
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
            } else if let Part::Gap(gap) = self.part_ending_at(heap, base)? {
                neighbours.below = Some(self.verify(gap.base)?);
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
                // SAFETY: so far down the chunk reaches, as its canary vouches.
                is_tail.then(|| (unsafe { end.byte_sub(tail.size) }, tail))
            })
    }
}
