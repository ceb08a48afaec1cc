//! `check` with `hardened`: verifies everything in every heap.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::check::{Corruption, Rule};
use super::super::free_lists::FreeLists;
use super::super::gap_header::{Gap, GapHeader, word_below};
use super::super::tag::Tag;
use super::super::walk::{BATCH, Region};
use super::heaps::Heap;
use super::poison::check_poison;
use super::report::{Misuse, Report};
use super::walk::{Part, report_word_below};
use crate::span::Span;

/// Gaps in free lists, slivers excepted.
#[derive(Default)]
pub(in super::super) struct Found {
    pub(in super::super) gaps: usize,
    pub(in super::super) bytes: usize,
}

impl From<Report> for Corruption {
    fn from(report: Report) -> Self {
        Self {
            address: report.address,
            rule: Rule::Misuse(report.misuse),
        }
    }
}

impl<B: Binning> FreeLists<B> {
    /// Verifies everything in every heap.
    ///
    /// Pointers are verified before they are followed. The order is: the records of heaps, the
    /// metadata beside chunks and gaps, chunks and gaps themselves, and last the free lists.
    pub(in super::super) fn check_all(&self) -> Result<Found, Corruption> {
        self.heaps.verify()?;
        self.check_metadata()?;
        let mut walked = 0;
        for heap in self.heaps() {
            walked += self.check_parts(heap)?;
        }
        let mut listed = Found::default();
        for bin in 0..B::BIN_COUNT {
            self.check_list(bin, walked, &mut listed)?;
        }
        if walked == listed.gaps {
            Ok(listed)
        } else {
            let listed = listed.gaps;
            Err(Corruption {
                address: self.key(),
                rule: Rule::Listed { listed, walked },
            })
        }
    }

    /// Verifies the list heads, the owner flag above them, and the base tag below them.
    fn check_metadata(&self) -> Result<(), Report> {
        let Some(heap) = self
            .heaps
            .iter()
            .find(|it| it.first.addr() == self.heads_address())
        else {
            return Ok(());
        };
        let expected = Tag::ALLOCATED.with(Tag::HEAP_BASE).word(heap.first);
        // SAFETY: the base tag lies below the first chunk of a heap.
        let found = unsafe { word_below(heap.first) };
        if found != expected {
            return Err(report_word_below(
                heap.first,
                Misuse::DamagedTag { expected, found },
            ));
        }
        for bin in 0..B::BIN_COUNT {
            self.verify_head(bin)?;
        }
        let flag = self.owner_flag().cast::<u8>();
        // SAFETY: the flag lies above the list heads. It is set only when this allocator is
        // dropped.
        match unsafe { flag.read() } {
            0 => Ok(()),
            found => Err(Report {
                address: flag.addr(),
                misuse: Misuse::DamagedOwnerFlag { found },
            }),
        }
    }

    /// Follows a free list, and adds its gaps to `listed`. All lists together may contain `walked`
    /// gaps.
    fn check_list(&self, bin: u32, walked: usize, listed: &mut Found) -> Result<(), Corruption> {
        let mut link = self.list(bin).0;
        // SAFETY: the link is a list head, or in a gap that was verified.
        while let Some(gap) = unsafe { self.verify_link(link)? } {
            let address = gap.base.addr().get();
            let expected = Self::expected_bin(gap.size());
            let found = bin;
            if found != expected {
                let rule = Rule::Bin { found, expected };
                return Err(Corruption { address, rule });
            }
            listed.gaps += 1;
            listed.bytes += gap.size();
            if listed.gaps > walked {
                let listed = listed.gaps;
                let rule = Rule::Listed { listed, walked };
                return Err(Corruption { address, rule });
            }
            link = GapHeader::next_field(gap.header());
        }
        Ok(())
    }

    /// Walks a heap, and returns the number of gaps that belong in free lists.
    fn check_parts(&self, heap: Heap) -> Result<usize, Report> {
        let mut count = 0;
        let mut end = heap.end;
        let mut above_is_gap = false;
        for part in self.parts_from_top(heap) {
            let part = part?;
            match part {
                Part::Gap(gap) => {
                    self.verify_part(gap)?;
                    // SAFETY: the gap was verified, and its ends are multiples of the unit.
                    unsafe { check_poison(gap, gap.base, gap.end())? };
                    count += usize::from(!gap.is_sliver());
                }
                Part::Chunk(base, redzone) => {
                    // SAFETY: the chunk ends where the part above begins, or where the heap ends.
                    unsafe { self.check_tag(heap, end, above_is_gap)? };
                    // SAFETY: the redzone is that of the chunk at `base`.
                    unsafe { redzone.check_filling(base)? };
                }
            }
            end = part.base();
            above_is_gap = matches!(part, Part::Gap(_));
        }
        // SAFETY: a tag lies below the first part, even if the heap has no parts.
        unsafe { self.check_tag(heap, end, above_is_gap)? };
        Ok(count)
    }

    /// # Safety
    /// A tag lies below `end`.
    unsafe fn check_tag(
        &self,
        heap: Heap,
        end: NonNull<u8>,
        above_is_gap: bool,
    ) -> Result<(), Report> {
        // SAFETY: a tag lies below `end`.
        let found = unsafe { word_below(end) };
        let expected = self.tag_word(heap, end, above_is_gap);
        if found == expected {
            Ok(())
        } else {
            Err(report_word_below(
                end,
                Misuse::DamagedTag { expected, found },
            ))
        }
    }

    /// Verifies that a heap ends at `heap_end`, and the part or tag below.
    pub(super) fn verify_end(&self, heap_end: NonNull<u8>) -> Result<(), Report> {
        let Some(heap) = self.heaps().find(|heap| heap.end == heap_end) else {
            self.heaps.verify()?;
            return Err(Report {
                address: heap_end.addr().get(),
                misuse: Misuse::ForeignPointer,
            });
        };
        match self.parts_from_top(heap).next() {
            Some(Ok(Part::Gap(gap))) => self.verify_part(gap).map(|_: Gap| ()),
            Some(Err(report)) => Err(report),
            Some(Ok(Part::Chunk(..))) => Ok(()),
            // SAFETY: in a heap without parts, the tag of its base or of its list heads lies below
            // its end.
            None => unsafe { self.check_tag(heap, heap.end, false) },
        }
    }
}

/// An iterator over the regions of a heap, from its base up.
///
/// A heap can only be walked down. Each walk therefore keeps the [`BATCH`] lowest regions that are
/// still to come.
pub(in super::super) struct RegionsByAddress<'a, B: Binning> {
    free_lists: &'a FreeLists<B>,
    /// The addresses that are still to come, apart from the batch.
    rest: Span,
    /// A ring: the lowest region is at `next`, higher ones precede it.
    batch: [Region; BATCH],
    next: usize,
    count: usize,
}

impl<'a, B: Binning> RegionsByAddress<'a, B> {
    pub(in super::super) fn new(free_lists: &'a FreeLists<B>, tiles: Span) -> Self {
        Self {
            free_lists,
            rest: tiles,
            batch: [Region::Run(Span::empty()); BATCH],
            next: 0,
            count: 0,
        }
    }

    fn select(&mut self) {
        let rest = self.rest;
        let heap = self.free_lists.heap_that_ends_at(rest.end());
        // The addresses below the parts that were visited: in the end those without parts, such as
        // the list heads, or those that a walk cannot reach because of damage.
        let mut unknown = rest;
        (self.next, self.count) = (BATCH - 1, 0);
        let mut push = |region| {
            self.next = (self.next + 1) % BATCH;
            self.count = (self.count + 1).min(BATCH);
            self.batch[self.next] = region;
        };
        let parts = heap
            .into_iter()
            .flat_map(|heap| self.free_lists.parts_from_top(heap));
        for part in parts.map_while(Result::ok) {
            let part_base = part.base().as_ptr();
            if part_base < rest.base() {
                break;
            }
            let span = unknown.above(part_base);
            unknown = unknown.below(part_base);
            push(match part {
                Part::Gap(gap) if !gap.is_sliver() => Region::Gap(span),
                _ => Region::Run(span),
            });
        }
        if !unknown.is_empty() {
            push(Region::Run(unknown));
        }
        let highest = (self.next + BATCH + 1 - self.count.max(1)) % BATCH;
        self.rest = self.rest.above(self.batch[highest].span().end());
    }
}

impl<B: Binning> Iterator for RegionsByAddress<'_, B> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        if self.count == 0 {
            if self.rest.is_empty() {
                return None;
            }
            self.select();
        }
        let region = self.batch[self.next];
        self.next = (self.next + BATCH - 1) % BATCH;
        self.count -= 1;
        Some(region)
    }
}

impl<B: Binning> FreeLists<B> {
    fn heap_that_ends_at(&self, end: *mut u8) -> Option<Heap> {
        self.heaps().find(|heap| heap.end.as_ptr() == end)
    }
}
