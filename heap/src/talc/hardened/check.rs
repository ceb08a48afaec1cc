//! The walker's part: everything in every heap is as it should be.

use core::ptr::NonNull;

use super::super::binning::Binning;
use super::super::check::{Corruption, Rule};
use super::super::gaps::Gaps;
use super::super::node::Gap;
use super::super::walk::{BATCH, Region};
use super::heaps::Heap;
use super::poison::check_poison;
use super::report::{Misuse, Report};
use super::walk::{Part, word_below, wrong_word};
use crate::span::Span;

impl<B: Binning> Gaps<B> {
    /// Walks every heap, and returns the first thing that is wrong. `listed` gaps are in the lists.
    pub(in super::super) fn check_heaps(&self, listed: usize) -> Result<(), Corruption> {
        let mut walked = 0;
        for heap in self.heaps() {
            walked += self.check_parts(heap).map_err(|report| Corruption {
                address: report.address,
                rule: Rule::Misuse(report.misuse),
            })?;
        }
        if walked == listed {
            Ok(())
        } else {
            Err(Corruption {
                address: self.key(),
                rule: Rule::Listed { listed, walked },
            })
        }
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
                        self.verify(gap.base)?;
                        check_poison(gap, gap.base, gap.end())?;
                        count += usize::from(!gap.is_sliver());
                    }
                    Part::Chunk(base, tail) => {
                        self.check_tag(heap, end, above_is_gap)?;
                        tail.check_filling(base)?;
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
            return Err(Report {
                address: heap_end.addr().get(),
                misuse: Misuse::ForeignPointer,
            });
        };
        match self.parts_down(heap).next() {
            // SAFETY: a gap is there.
            Some(Ok(Part::Gap(gap))) => unsafe { self.verify(gap.base) }.map(|_: Gap| ()),
            Some(Err(report)) => Err(report),
            Some(Ok(Part::Chunk(..))) | None => Ok(()),
        }
    }
}

/// The parts of a heap from its base up.
///
/// They can only be walked down. So each walk keeps the [`BATCH`] lowest that are still to come.
pub(in super::super) struct Parts<'a, B: Binning> {
    gaps: &'a Gaps<B>,
    /// What is still to come, apart from the batch.
    rest: Span,
    /// The highest first, from `next` down; around the end.
    batch: [Region; BATCH],
    next: usize,
    count: usize,
}

impl<'a, B: Binning> Parts<'a, B> {
    pub(in super::super) fn new(gaps: &'a Gaps<B>, tiles: Span) -> Self {
        Self {
            gaps,
            rest: tiles,
            batch: [Region::Run(Span::empty()); BATCH],
            next: 0,
            count: 0,
        }
    }

    fn select(&mut self) {
        let rest = self.rest;
        let heap = self.gaps.heap_that_ends_at(rest.end());
        // What has no part, as the list heads, or cannot be walked any more.
        let mut unknown = rest;
        (self.next, self.count) = (BATCH - 1, 0);
        let mut push = |region| {
            self.next = (self.next + 1) % BATCH;
            self.count = (self.count + 1).min(BATCH);
            self.batch[self.next] = region;
        };
        let parts = heap.into_iter().flat_map(|heap| self.gaps.parts_down(heap));
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

impl<B: Binning> Gaps<B> {
    fn heap_that_ends_at(&self, end: *mut u8) -> Option<Heap> {
        self.heaps().find(|heap| heap.end.as_ptr() == end)
    }
}
