//! Walks through a heap, from its end down, chunk by chunk and gap by gap.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::chunk::{CHUNK_UNIT, chunk_size, distance, unit_floor};
use super::super::free_lists::FreeLists;
use super::super::gap_header::{Gap, word_below};
use super::super::tag::Tag;
use super::heaps::Heap;
use super::redzone::Redzone;
use super::report::{Misuse, Report};

/// A part of a heap: a gap, or a chunk with its redzone.
pub(super) enum Part {
    Gap(Gap),
    Chunk(NonNull<u8>, Redzone),
}

impl Part {
    pub(super) fn base(&self) -> NonNull<u8> {
        match self {
            Part::Gap(gap) => gap.base,
            Part::Chunk(base, _) => *base,
        }
    }
}

/// Returns a report about the last word below an address.
pub(super) fn report_word_below(end: NonNull<u8>, misuse: Misuse) -> Report {
    Report {
        address: end.addr().get() - size_of::<usize>(),
        misuse,
    }
}

impl<B: Binning> FreeLists<B> {
    /// Returns the parts of a heap from its end down. If the heap is damaged, the last item is an
    /// error.
    pub(super) fn parts_from_top(&self, heap: Heap) -> impl Iterator<Item = Result<Part, Report>> {
        let mut end = Some(heap.end).filter(|&end| end > heap.first);
        core::iter::from_fn(move || {
            // SAFETY: a part ends at the heap's end, and each part ends where the one above begins.
            let part = unsafe { self.part_ending_at(heap, end?) };
            end = match &part {
                Ok(part) => Some(part.base()).filter(|&base| base > heap.first),
                Err(_) => None,
            };
            Some(part)
        })
    }

    /// Returns the chunk or gap that ends at `end`, according to the words below. The header of a
    /// gap is not read.
    ///
    /// # Safety
    /// A chunk or a gap of the heap ends at `end`, damaged or not.
    pub(super) unsafe fn part_ending_at(
        &self,
        heap: Heap,
        end: NonNull<u8>,
    ) -> Result<Part, Report> {
        let room = distance(heap.first, end);
        // SAFETY: a chunk or a gap ends at `end`, and both end with a word.
        let found = unsafe { word_below(end) };
        // SAFETY: a chunk or a gap ends at `end`. (A tag is the same word, without its checksum.)
        let tag = unsafe { Tag::ending_at(end) };
        // SAFETY: the smallest chunk, at least, fits between the heap's base and `end`.
        let redzone = (room >= chunk_size(1)).then(|| unsafe { Redzone::ending_at(end) });
        let end_address = end.addr().get();
        let expected_canary =
            redzone.map(|redzone| redzone.expected_canary(self.key(), end_address));
        let has_redzone = redzone
            .is_some_and(|redzone| Some(redzone.canary()) == expected_canary && redzone.fits(room));

        if tag.is_allocated() && found == tag.word(end) {
            return match redzone {
                Some(redzone) if has_redzone => {
                    // SAFETY: the redzone fits the room, so the heap reaches down to the base.
                    Ok(Part::Chunk(unsafe { end.byte_sub(redzone.size) }, redzone))
                }
                _ => Err(Report {
                    address: end_address - super::super::chunk::CHUNK_OVERHEAD,
                    misuse: Misuse::WriteBeyondEnd {
                        block: None,
                        expected: expected_canary.unwrap_or(0),
                        found: redzone.map_or(0, |redzone| redzone.canary()),
                    },
                }),
            };
        }
        let size = unit_floor(found);
        if (CHUNK_UNIT..=room).contains(&size) {
            // SAFETY: the heap has `size` bytes below `end`.
            let gap = Gap::new(unsafe { end.byte_sub(size) }, size, end == heap.end);
            if gap.extent() == found {
                return Ok(Part::Gap(gap));
            }
        }
        Err(if has_redzone {
            // SAFETY: the canary proves that a chunk ends at `end`.
            unsafe { self.diagnose_tag(heap, end) }
        } else {
            report_word_below(
                end,
                Misuse::DamagedGap {
                    expected: None,
                    found,
                },
            )
        })
    }

    /// Returns the report about a damaged tag below `end`.
    ///
    /// # Safety
    /// A chunk or a heap's base ends at `end`.
    pub(super) unsafe fn diagnose_tag(&self, heap: Heap, end: NonNull<u8>) -> Report {
        let above_is_gap = end < heap.end
            // SAFETY: below the heap's end, a part begins where another ends.
            && unsafe { self.gap_at(heap, end) }.is_some();
        // SAFETY: a word lies below each end.
        let found = unsafe { word_below(end) };
        report_word_below(
            end,
            Misuse::DamagedTag {
                expected: self.tag_word(heap, end, above_is_gap),
                found,
            },
        )
    }

    /// Returns the word that an undamaged tag below `end` is.
    pub(super) fn tag_word(&self, heap: Heap, end: NonNull<u8>, above_is_gap: bool) -> usize {
        let mut tag = Tag::ending_chunk(end == heap.end);
        if above_is_gap {
            tag = tag.with(Tag::BELOW_GAP);
        }
        if end == heap.first && !self.is_above_heads(end) {
            tag = tag.with(Tag::HEAP_BASE);
        }
        tag.word(end)
    }

    /// Returns the gap that begins at `base`, if its first and last word agree.
    ///
    /// # Safety
    /// `base` is a multiple of the unit in the heap.
    pub(super) unsafe fn gap_at(&self, heap: Heap, base: NonNull<u8>) -> Option<Gap> {
        // SAFETY: the word is in the heap.
        let gap = unsafe { Gap::at(base) };
        let room = distance(base, heap.end);
        let is_possible = (CHUNK_UNIT..=room).contains(&gap.size())
            && gap == Gap::new(base, gap.size(), gap.size() == room);
        // SAFETY: the heap has as many bytes above `base`.
        let is_one = is_possible && unsafe { word_below(gap.end()) } == gap.extent();
        is_one.then_some(gap)
    }

    /// Returns the first gap of any heap that `is_it` accepts. Walks heaps from their ends.
    pub(super) fn find_in_heaps(&self, is_it: impl Fn(Gap) -> bool) -> Option<Gap> {
        self.heaps()
            .flat_map(|heap| self.parts_from_top(heap))
            .find_map(|part| match part {
                Ok(Part::Gap(gap)) if is_it(gap) => Some(gap),
                _ => None,
            })
    }
}
