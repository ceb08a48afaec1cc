//! The walker's part: everything in every heap is as it should be.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::check::{Corruption, Rule};
use super::super::free_lists::FreeLists;
use super::super::gap_header::Gap;
use super::super::tag::Tag;
use super::super::walk::{BATCH, Region};
use super::heaps::Heap;
use super::poison::check_poison;
use super::report::{Misuse, Report};
use super::walk::{Part, word_below, wrong_word};
use crate::span::Span;

/// Gaps that were found, slivers excepted.
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
    /// Looks at everything in every heap, and returns the first thing that is wrong.
    ///
    /// Nothing is followed before it has been verified: first the records that say where heaps are, then what
    /// lies beside chunks and gaps, then these, and last the lists that thread the gaps.
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

    /// The list heads, what is above them in their chunk, and the base tag below them.
    fn check_metadata(&self) -> Result<(), Report> {
        let Some(heap) = self
            .heaps
            .iter()
            .find(|it| it.first.addr() == self.heads_address())
        else {
            return Ok(());
        };
        let expected = Tag::ALLOCATED.with(Tag::HEAP_BASE).word(heap.first);
        // SAFETY: the base tag is below the first chunk of a heap.
        let found = unsafe { word_below(heap.first) };
        if found != expected {
            return Err(wrong_word(
                heap.first,
                Misuse::DamagedTag { expected, found },
            ));
        }
        for bin in 0..B::BIN_COUNT {
            self.verify_head(bin)?;
        }
        let flag = self.owner_flag().cast::<u8>();
        // SAFETY: the flag is above the list heads. Nobody sets it while this allocator is there.
        match unsafe { flag.read() } {
            0 => Ok(()),
            found => Err(Report {
                address: flag.addr(),
                misuse: Misuse::DamagedOwnerFlag { found },
            }),
        }
    }

    /// Follows a list of at most `walked` gaps, of which some were `listed` already.
    fn check_list(&self, bin: u32, walked: usize, listed: &mut Found) -> Result<(), Corruption> {
        let mut link = self.list(bin).0;
        // SAFETY: the link is a list head, then in a gap that was verified.
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
            // SAFETY: gaps in lists have a header.
            link = unsafe { &raw mut (*gap.header().as_ptr()).next };
        }
        Ok(())
    }

    /// Walks a heap, and counts the gaps in it that are in lists.
    fn check_parts(&self, heap: Heap) -> Result<usize, Report> {
        let mut count = 0;
        let mut end = heap.end;
        let mut above_is_gap = false;
        for part in self.parts_down(heap) {
            let part = part?;
            // SAFETY: the parts lead from one to the next, and are looked at in the heap only.
            unsafe {
                match part {
                    Part::Gap(gap) => {
                        self.verify_part(gap)?;
                        check_poison(gap, gap.base, gap.end())?;
                        count += usize::from(!gap.is_sliver());
                    }
                    Part::Chunk(base, redzone) => {
                        self.check_tag(heap, end, above_is_gap)?;
                        redzone.check_filling(base)?;
                    }
                }
            }
            end = part.base();
            above_is_gap = matches!(part, Part::Gap(_));
        }
        // SAFETY: a tag is below the first part, even if there is none.
        unsafe { self.check_tag(heap, end, above_is_gap)? };
        Ok(count)
    }

    /// # Safety
    /// There is a tag under `end`.
    unsafe fn check_tag(
        &self,
        heap: Heap,
        end: NonNull<u8>,
        above_is_gap: bool,
    ) -> Result<(), Report> {
        // SAFETY: the caller's duty.
        let found = unsafe { word_below(end) };
        let expected = self.tag_word(heap, end, above_is_gap);
        if found == expected {
            Ok(())
        } else {
            Err(wrong_word(end, Misuse::DamagedTag { expected, found }))
        }
    }

    /// What ends at a heap's end may be changed.
    pub(super) fn verify_end(&self, heap_end: NonNull<u8>) -> Result<(), Report> {
        let Some(heap) = self.heaps().find(|heap| heap.end == heap_end) else {
            self.heaps.verify()?;
            return Err(Report {
                address: heap_end.addr().get(),
                misuse: Misuse::ForeignPointer,
            });
        };
        match self.parts_down(heap).next() {
            Some(Ok(Part::Gap(gap))) => self.verify_part(gap).map(|_: Gap| ()),
            Some(Err(report)) => Err(report),
            Some(Ok(Part::Chunk(..))) => Ok(()),
            // SAFETY: the tag of a heap's base or of the list heads is below what would be its first part.
            None => unsafe { self.check_tag(heap, heap.end, false) },
        }
    }
}

/// The parts of a heap from its base up.
///
/// They can only be walked down. So each walk keeps the [`BATCH`] lowest that are still to come.
pub(in super::super) struct Parts<'a, B: Binning> {
    free_lists: &'a FreeLists<B>,
    /// What is still to come, apart from the batch.
    rest: Span,
    /// The highest first, from `next` down; around the end.
    batch: [Region; BATCH],
    next: usize,
    count: usize,
}

impl<'a, B: Binning> Parts<'a, B> {
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
        // What has no part, as the list heads, or cannot be walked any more.
        let mut unknown = rest;
        (self.next, self.count) = (BATCH - 1, 0);
        let mut push = |region| {
            self.next = (self.next + 1) % BATCH;
            self.count = (self.count + 1).min(BATCH);
            self.batch[self.next] = region;
        };
        let parts = heap
            .into_iter()
            .flat_map(|heap| self.free_lists.parts_down(heap));
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

impl<B: Binning> Iterator for Parts<'_, B> {
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
