//! Verification of gaps and of pointers that are to be freed or resized.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::chunk::{CHUNK_UNIT, chunk_size, distance, unit_floor};
use super::super::free_lists::FreeLists;
use super::super::gap_header::{Gap, Link, word_below};
use super::super::tag::Tag;
use super::heaps::Heap;
use super::redzone::Redzone;
use super::report::{Misuse, Report};
use super::walk::{Part, report_word_below};

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

impl<B: Binning> FreeLists<B> {
    /// Returns the heaps, without the list heads in the first.
    pub(super) fn heaps(&self) -> impl Iterator<Item = Heap> {
        self.heaps.iter().map(|heap| self.heaps.without_heads(heap))
    }

    /// Returns the heap with this number, counted from the latest. O(heaps).
    pub(super) fn heap_at(&self, number: usize) -> Option<Heap> {
        self.heaps().nth(number)
    }

    /// Returns the heap that contains an address. O(1) for the latest heap, otherwise O(heaps).
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

    /// Returns the report for an address in no heap: a foreign pointer, unless heaps are unknown
    /// because their records are damaged.
    #[cold]
    fn diagnose_foreign_pointer(&self, address: usize) -> Report {
        let misuse = Misuse::ForeignPointer;
        match self.heaps.verify() {
            Ok(()) => Report { address, misuse },
            Err(report) => report,
        }
    }

    /// Returns whether the list heads end at `end`.
    pub(super) fn is_above_heads(&self, end: NonNull<u8>) -> bool {
        let heads_end = self
            .heads_address()
            .checked_add(chunk_size(Self::METADATA_SIZE));
        heads_end == Some(end.addr())
    }

    /// Returns the key by which canaries of this allocator differ from those of others.
    pub(super) fn key(&self) -> usize {
        self.heads_address().get()
    }

    /// Verifies all words of a gap that describe it, and the tag below it.
    pub(super) fn verify(&self, base: NonNull<u8>) -> Result<Gap, Report> {
        let address = base.addr().get();
        match self.heap_of(address) {
            Some(heap) if address % CHUNK_UNIT == 0 => self.verify_in(heap, base, None),
            Some(_) => damaged_gap(address, None, address),
            None => Err(self.diagnose_foreign_pointer(address)),
        }
    }

    /// [Verifies](Self::verify) a gap as its last word describes it. A damaged last word may lead
    /// to the base of another gap further down.
    #[inline]
    pub(super) fn verify_part(&self, part: Gap) -> Result<Gap, Report> {
        let gap = self.verify(part.base)?;
        if gap != part {
            let (expected, found) = (None, part.extent());
            return Err(report_word_below(
                part.end(),
                Misuse::DamagedGap { expected, found },
            ));
        }
        Ok(gap)
    }

    /// [Verifies](Self::verify) a gap at a multiple of the unit in a heap. `referrer` is the link
    /// that led to it, if it was compared with the gap's own.
    pub(super) fn verify_in(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        referrer: Option<*mut Link>,
    ) -> Result<Gap, Report> {
        // SAFETY: a unit of the heap begins at `base`.
        let Some(gap) = (unsafe { self.gap_at(heap, base) }) else {
            // SAFETY: `base` is a multiple of the unit in the heap.
            return Err(unsafe { self.diagnose_extent(heap, base) });
        };
        // SAFETY: a word lies below each unit of a heap: the last of another unit, or the base tag.
        let found = unsafe { word_below(base) };
        let expected = self.tag_word(heap, base, true);
        if found != expected {
            let misuse = Misuse::DamagedTag { expected, found };
            return Err(report_word_below(base, misuse));
        }
        if !gap.is_sliver() {
            // SAFETY: the extents of the gap agree, and it has room for a header.
            unsafe { self.verify_links(gap, referrer)? };
        }
        Ok(gap)
    }

    /// Returns which extent of a gap is damaged, and its original.
    ///
    /// # Safety
    /// `base` is a multiple of the unit in this heap.
    #[cold]
    pub(super) unsafe fn diagnose_extent(&self, heap: Heap, base: NonNull<u8>) -> Report {
        // SAFETY: the word is in the heap.
        let at_base = unsafe { Gap::at(base) };
        let address = base.addr().get();
        let found = at_base.extent();
        // (The result may be any number.)
        let last_word = address
            .wrapping_add(at_base.size())
            .wrapping_sub(size_of::<usize>());
        let mut expected = None;
        for part in self.parts_from_top(heap) {
            match part {
                Ok(Part::Gap(gap)) if gap.base == base => expected = Some(gap.extent()),
                Ok(part) if part.base() > base => continue,
                Ok(_) => {}
                Err(Report {
                    address,
                    misuse: Misuse::DamagedGap { found, .. },
                }) if address == last_word => {
                    // The extent in the last word is the damaged one.
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

    /// Verifies that a pointer is an undamaged allocation with this layout, and the memory that it
    /// touches. Returns the gaps beside it.
    ///
    /// Memory outside the heaps is not read.
    pub(super) fn verify_block(&self, ptr: *mut u8, layout: Layout) -> Result<Neighbours, Report> {
        let address = ptr.addr();
        let (Some(heap), Some(base)) = (self.heap_of(address), NonNull::new(ptr)) else {
            return Err(self.diagnose_foreign_pointer(address));
        };
        let size = chunk_size(layout.size());
        let is_possible = address % CHUNK_UNIT == 0 && size <= distance(base, heap.end);
        // SAFETY: the heap has `size` bytes above `base`.
        let end = is_possible.then(|| unsafe { base.byte_add(size) });
        let redzone = Redzone::new(self.key(), address, size, layout);
        // SAFETY: the smallest chunk, at least, lies between `base` and the end.
        let found = end.map(|end| (end, unsafe { Redzone::ending_at(end) }));
        match found {
            Some((end, found)) if found == redzone => {
                // SAFETY: the redzone is that of the allocation at `base`.
                unsafe { redzone.check_filling(base)? };
                // SAFETY: the redzone proves that a chunk lies between `base` and `end`.
                unsafe { self.neighbours(heap, base, end) }
            }
            _ => Err(self.diagnose_pointer(heap, base, layout, || {
                let (end, found) = found?;
                redzone.first_difference(found, end)
            })),
        }
    }

    /// Returns the gaps that a chunk touches, if they and its tag are undamaged.
    ///
    /// # Safety
    /// `base` and `end` delimit a chunk of this heap.
    unsafe fn neighbours(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        end: NonNull<u8>,
    ) -> Result<Neighbours, Report> {
        let mut neighbours = Neighbours::default();
        // SAFETY: the chunk ends at `end`.
        let tag = unsafe { Tag::ending_at(end) };
        let is_below_gap = tag.is_below_gap() && end < heap.end;
        // SAFETY: the chunk ends at `end`, and the range below is whole.
        unsafe { self.verify_tag(heap, end, is_below_gap)? };
        if is_below_gap {
            neighbours.above = Some(self.verify(end)?);
        }
        if base == heap.first {
            // SAFETY: the tag of the heap's base or of the list heads ends at the heap's base.
            unsafe { self.verify_tag(heap, base, false)? };
            if !self.is_above_heads(base) && !self.heaps.has_intact_record(heap) {
                self.heaps.verify()?;
            }
            return Ok(neighbours);
        }
        // SAFETY: above the heap's base, another part of the heap ends where a chunk begins.
        if let Part::Gap(gap) = unsafe { self.part_ending_at(heap, base)? } {
            neighbours.below = Some(self.verify_part(gap)?);
        }
        Ok(neighbours)
    }

    /// Verifies the tag below `end`.
    ///
    /// # Safety
    /// A chunk or the heap's base ends at `end`.
    unsafe fn verify_tag(
        &self,
        heap: Heap,
        end: NonNull<u8>,
        above_is_gap: bool,
    ) -> Result<(), Report> {
        // SAFETY: a chunk or a base tag ends at `end`.
        if unsafe { word_below(end) } == self.tag_word(heap, end, above_is_gap) {
            Ok(())
        } else {
            // SAFETY: a chunk or the heap's base ends at `end`.
            Err(unsafe { self.diagnose_tag(heap, end) })
        }
    }

    /// Returns the report for a pointer that is not an allocation with this layout.
    ///
    /// `redzone_damage` compares the redzone that should be there with the one that is.
    fn diagnose_pointer(
        &self,
        heap: Heap,
        base: NonNull<u8>,
        layout: Layout,
        redzone_damage: impl Fn() -> Option<Report>,
    ) -> Report {
        let address = base.addr().get();
        let in_chunk = |block: NonNull<u8>, redzone: Redzone| {
            let misuse = if block < base {
                Misuse::InteriorPointer {
                    block: block.addr().get(),
                }
            } else {
                Misuse::WrongLayout {
                    expected: redzone.layout(),
                    found: layout,
                }
            };
            Report { address, misuse }
        };
        let mut end = heap.end;
        for part in self.parts_from_top(heap) {
            match part {
                Ok(part) if part.base() > base => end = part.base(),
                Ok(Part::Chunk(block, redzone)) => return in_chunk(block, redzone),
                Ok(Part::Gap(gap)) => {
                    let misuse = Misuse::DoubleFree {
                        from: gap.base.addr().get(),
                        to: gap.end().addr().get(),
                    };
                    return Report { address, misuse };
                }
                Err(report) => {
                    // The heap is damaged here or above. A redzone may still identify the pointer.
                    return match self.first_redzone(heap, base, end) {
                        Some((block, redzone)) if block <= base => in_chunk(block, redzone),
                        _ => redzone_damage().unwrap_or(report),
                    };
                }
            }
        }
        // The walk ends at the heap's first address, and the pointer is not below that.
        let misuse = Misuse::ForeignPointer;
        Report { address, misuse }
    }

    /// Returns the first chunk that has its redzone above `from`, up to `to`.
    fn first_redzone(
        &self,
        heap: Heap,
        from: NonNull<u8>,
        to: NonNull<u8>,
    ) -> Option<(NonNull<u8>, Redzone)> {
        let above = unit_floor(from.addr().get()) + CHUNK_UNIT;
        let first = above.max(heap.first.addr().get() + chunk_size(1));
        (first..=to.addr().get())
            .step_by(CHUNK_UNIT)
            .find_map(|address| {
                // SAFETY: the address is in the heap, or its end.
                let end = unsafe { heap.end.byte_sub(heap.end.addr().get() - address) };
                // SAFETY: the address is at least the smallest chunk's size above the heap's base.
                let redzone = unsafe { Redzone::ending_at(end) };
                let is_redzone = redzone.canary() == redzone.expected_canary(self.key(), address);
                let room = distance(heap.first, end);
                let is_redzone = is_redzone && redzone.fits(room);
                // SAFETY: the heap has `redzone.size` bytes below `end`.
                is_redzone.then(|| (unsafe { end.byte_sub(redzone.size) }, redzone))
            })
    }
}
