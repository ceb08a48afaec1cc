//! The walker: does every invariant hold?

use core::fmt;

use super::Talc;
use super::binning::Binning;
use super::chunk::CHUNK_UNIT;
use super::source::Source;
use super::tag::{HEAP_END, Tag};
use super::walk::allocatable;
#[cfg(not(feature = "hardened"))]
use super::{
    free_lists::FreeLists,
    gap_header::{Gap, Link},
    tag::MAX_GAP,
};
use crate::span::Span;

/// An invariant that does not hold, and where: see the diagram of [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    /// Of the gap, list head, run or heap.
    pub address: usize,
    /// What is wrong there.
    pub rule: Rule,
}

/// What a heap must be like, and how it is not.
///
/// ```text
///       bit n, list head n ───┐
///     ┌─┬─────────────────┬─┬─v──────┬──────┬──────────┬───┬────────┬────────────────┬─┐
///     │t│ a run of chunks │t│ extent │ next │ referrer │ … │ extent │ a run          │t│
///     └─┴─────────────────┴─┴────────┴──────┴──────────┴───┴────────┴────────────────┴─┘
///      a                   b c                d             e                         f
///
///     a HeapBase     b TagBelowGap     c Misaligned, Bin     c and e Extent     d Referrer
///     e GapEnd       f HeapEnd, TagOfRun                     bit and head Availability
/// ```
///
/// `Counters` holds for all lists together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The bit of a bin is set exactly when its list has a gap in it.
    Availability {
        /// The number of the list.
        bin: u32,
        /// The bit, which is wrong.
        available: bool,
    },
    /// Gaps begin at multiples of [`CHUNK_UNIT`](super::base::CHUNK_UNIT).
    Misaligned,
    /// A gap's referrer is the address of the pointer that leads to the gap.
    Referrer {
        /// The address found in the gap.
        found: usize,
        /// The address of the pointer that led here.
        expected: usize,
    },
    /// A gap is in the list of its bin.
    Bin {
        /// The list that the gap is in.
        found: u32,
        /// The list that its size demands.
        expected: u32,
    },
    /// A gap's extent is the same at both ends.
    Extent {
        /// As the header has it.
        at_base: usize,
        /// As the last word has it.
        at_end: usize,
    },
    /// Below a gap is a chunk or the heap's base, and its tag says that a gap is above it.
    TagBelowGap,
    /// Below the first chunk or gap of a heap is the base tag, and nowhere else.
    HeapBase,
    /// The last chunk or gap of a heap is marked as the last, and no other.
    HeapEnd,
    /// A heap that does not end with a gap ends with a tag that says so, or with a sliver.
    TagOfRun,
    /// Gaps end within their heap.
    GapEnd {
        /// Where the gap ends.
        found: usize,
        /// Where the heap ends.
        heap_end: usize,
    },
    /// With `hardened`: there is no trace of misuse.
    #[cfg(feature = "hardened")]
    Misuse(super::hardened::Misuse),
    /// With `hardened`: all gaps, slivers excepted, are in lists.
    #[cfg(feature = "hardened")]
    Listed {
        /// Gaps in lists.
        listed: usize,
        /// Gaps in heaps.
        walked: usize,
    },
    /// What a source has noted of a heap is so: see [`Source::check`].
    Record(&'static str),
    /// The counters agree with the lists.
    Counters {
        /// What the lists have.
        found: usize,
        /// What was counted.
        counted: usize,
    },
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Looks at every gap of every heap, and returns the first invariant that does not hold: the
    /// availability bits, the links in both directions, bins, sizes, and the tags below.
    ///
    /// In proportion to the gaps and lists; with `hardened`, to all memory of the heaps.
    ///
    /// This trusts pointers in the heap to lead to memory: the allocator does not know where its heaps are.
    /// A pointer that was overwritten by an address outside all memory faults, although the list's
    /// bit, the alignment and the referrer are looked at before what comes next. Lists that lead back
    /// into themselves are found.
    ///
    /// With `hardened` nothing is followed before it has been verified. All heaps are walked too, and it
    /// is looked at every tail and tag, at the list heads and the records of heaps, and whether anybody has
    /// written to free memory. What was damaged at random is found, and never faults.
    ///
    /// # Errors
    /// The first [`Rule`] that is broken, with the address where it is.
    pub fn check(&self) -> Result<(), Corruption> {
        if !self.is_metadata_established() {
            S::check(self)?;
            return self.check_counters(0, 0);
        }
        #[cfg(feature = "hardened")]
        let (count, bytes) = self
            .free_lists
            .check_all()
            .map(|found| (found.gaps, found.bytes))?;
        #[cfg(not(feature = "hardened"))]
        let (count, bytes) = {
            let (mut count, mut bytes) = (0, 0);
            for bin in 0..B::BIN_COUNT {
                self.check_list(bin, |gap| {
                    count += 1;
                    bytes += gap.size();
                })?;
            }
            (count, bytes)
        };
        S::check(self)?;
        self.check_counters(count, bytes)
    }

    #[cfg(not(feature = "hardened"))]
    fn check_list(&self, bin: u32, mut visit: impl FnMut(Gap)) -> Result<(), Corruption> {
        let (head, available) = self.free_lists.list(bin);
        let mut referrer: *mut Link = head;
        // SAFETY: the list heads are established.
        let mut link = unsafe { head.read() };
        ensure(
            link.is_some() == available,
            head.addr(),
            Rule::Availability { bin, available },
        )?;
        while let Some(at) = link {
            let address = at.addr().get();
            ensure(address % CHUNK_UNIT == 0, address, Rule::Misaligned)?;
            // SAFETY: what a list leads to is the header of a gap, or the heap is damaged beyond
            // what can be told.
            let header = unsafe { at.read() };
            // This also ends the walk of a list that leads back into itself: where it does, a gap
            // has two pointers to it and one referrer.
            let (found, expected) = (header.referrer.addr(), referrer.addr());
            ensure(
                found == expected,
                address,
                Rule::Referrer { found, expected },
            )?;
            // SAFETY: as before.
            let gap = unsafe { Gap::at(at.cast()) };
            let expected = FreeLists::<B>::expected_bin(gap.size());
            let size_is_possible = gap.size() != 0 && gap.size() < MAX_GAP;
            ensure(
                size_is_possible && bin == expected,
                address,
                Rule::Bin {
                    found: bin,
                    expected,
                },
            )?;
            // SAFETY: the size belongs in this list, so the end is about where it should be.
            let at_end = unsafe { gap.end().cast::<usize>().sub(1).read() };
            ensure(
                header.extent == at_end,
                address,
                Rule::Extent {
                    at_base: header.extent,
                    at_end,
                },
            )?;
            // SAFETY: there is a tag below each gap.
            let below = unsafe { Tag::ending_at(gap.base) };
            let below_is_right =
                below.is_allocated() && below.is_below_gap() && !below.is_heap_end();
            ensure(below_is_right, address, Rule::TagBelowGap)?;
            visit(gap);
            // SAFETY: the header is what it should be.
            referrer = unsafe { &raw mut (*at.as_ptr()).next };
            link = header.next;
        }
        Ok(())
    }

    #[cfg(feature = "counters")]
    fn check_counters(&self, count: usize, bytes: usize) -> Result<(), Corruption> {
        let counters = self.counters();
        for (found, counted) in [
            (count, counters.fragment_count),
            (bytes, counters.available_bytes),
        ] {
            ensure(
                found == counted,
                (&raw const *counters).addr(),
                Rule::Counters { found, counted },
            )?;
        }
        Ok(())
    }

    #[cfg(not(feature = "counters"))]
    fn check_counters(&self, _count: usize, _bytes: usize) -> Result<(), Corruption> {
        Ok(())
    }

    /// Walks a heap from its base to its end, gap by gap, and returns the first invariant that does
    /// not hold: base and end marks, the tags on both sides of each gap, and that gaps and runs of
    /// chunks tile the heap. Trusts the lists: [`check`](Talc::check) comes first.
    ///
    /// `heap` reaches from the base that was given to [`claim`](Talc::claim) up to the heap's
    /// current end. Its cost is that of [`gaps_in`](Talc::gaps_in).
    ///
    /// # Errors
    /// As for [`check`](Talc::check).
    ///
    /// # Safety
    /// `heap` is, as described, a heap of this allocator.
    pub unsafe fn check_heap(&self, heap: Span) -> Result<(), Corruption> {
        let tiles = allocatable(heap);
        let (first, heap_end) = (tiles.base().addr(), tiles.end().addr());
        ensure(!tiles.is_empty(), heap.base().addr(), Rule::HeapEnd)?;
        // SAFETY: the base tag is below the first chunk or gap.
        let base_tag = unsafe { tag_at(tiles.base()) };
        let is_base = base_tag.is_allocated() && base_tag.is_heap_base() && !base_tag.is_heap_end();
        ensure(is_base, first, Rule::HeapBase)?;

        let mut rest = tiles;
        for gap in self.gaps_by_address(tiles) {
            let (base, end) = (gap.base.addr().get(), gap.end().addr().get());
            // SAFETY: there is a tag below each gap.
            let below = unsafe { tag_at(gap.base.as_ptr()) };
            ensure(rest.contains(gap.base.as_ptr()), base, Rule::TagBelowGap)?;
            ensure(
                end <= heap_end,
                base,
                Rule::GapEnd {
                    found: end,
                    heap_end,
                },
            )?;
            ensure(gap.is_heap_end() == (end == heap_end), base, Rule::HeapEnd)?;
            ensure(
                below.is_heap_base() == (base == first),
                base,
                Rule::HeapBase,
            )?;
            // Two gaps that touch: the end of the lower one is no tag.
            ensure(
                below.is_allocated() && below.is_below_gap(),
                base,
                Rule::TagBelowGap,
            )?;
            rest = rest.above(gap.end().as_ptr());
        }
        if !rest.is_empty() {
            // The heap ends with a run of chunks, or with a sliver above one.
            // SAFETY: something ends where the heap does.
            let last = unsafe { tag_at(rest.end()) };
            if last.is_allocated() {
                ensure(!last.is_below_gap(), heap_end, Rule::TagOfRun)?;
                ensure(last.is_heap_end(), heap_end, Rule::HeapEnd)?;
            } else {
                // SAFETY: the rest is at least one unit.
                let sliver = unsafe { is_sliver(rest.end().byte_sub(CHUNK_UNIT), HEAP_END) };
                ensure(sliver, heap_end, Rule::TagOfRun)?;
            }
        }
        // Without a gap or a sliver at the heap's base, its tag must not claim that there is one.
        let first_is_gap = self
            .gaps_by_address(tiles)
            .next()
            .is_some_and(|gap| gap.base.as_ptr() == tiles.base());
        let flag = if tiles.size() == CHUNK_UNIT {
            HEAP_END
        } else {
            0
        };
        // SAFETY: the heap is at least one unit.
        let first_is_free = first_is_gap || unsafe { is_sliver(tiles.base(), flag) };
        ensure(
            base_tag.is_below_gap() && first_is_free || !base_tag.is_below_gap() && !first_is_gap,
            first,
            Rule::HeapBase,
        )
    }
}

/// Whether there is a sliver, with such a flag, and the tag below it says so.
///
/// # Safety
/// `base` is a multiple of the unit in a heap but not its end.
unsafe fn is_sliver(base: *mut u8, flag: usize) -> bool {
    let first: *const usize = base.cast();
    let last = first.wrapping_byte_add(CHUNK_UNIT).wrapping_sub(1);
    // SAFETY: the unit's first and last word.
    let extents = unsafe { [first.read(), last.read()] };
    // SAFETY: below a sliver there is a tag.
    extents == [CHUNK_UNIT | flag; 2] && unsafe { tag_at(base) }.is_below_gap()
}

/// # Safety
/// A chunk, a gap or a heap's base tag ends at `end`.
unsafe fn tag_at(end: *mut u8) -> Tag {
    // SAFETY: the caller's duty; nothing ends at the null address.
    unsafe { Tag::ending_at(core::ptr::NonNull::new_unchecked(end)) }
}

fn ensure(holds: bool, address: usize, rule: Rule) -> Result<(), Corruption> {
    if holds {
        Ok(())
    } else {
        Err(Corruption { address, rule })
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heap corrupted at {:#x}: {}", self.address, self.rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Rule::Availability {
                bin,
                available: true,
            } => write!(f, "bin {bin} is empty, but marked as not"),
            Rule::Availability { bin, .. } => write!(f, "bin {bin} is marked as empty, but is not"),
            Rule::Misaligned => write!(f, "a gap is misaligned"),
            Rule::Referrer { found, expected } => {
                write!(
                    f,
                    "a gap is referred to from {expected:#x}, but names {found:#x}"
                )
            }
            Rule::Bin { found, expected } => {
                write!(f, "a gap is in bin {found} instead of {expected}")
            }
            Rule::Extent { at_base, at_end } => {
                write!(
                    f,
                    "a gap's extent is {at_base:#x} at its base, but {at_end:#x} at its end"
                )
            }
            Rule::TagBelowGap => write!(f, "the tag below a gap is wrong"),
            Rule::HeapBase => write!(f, "the heap's base is marked wrongly"),
            Rule::HeapEnd => write!(f, "the heap's end is marked wrongly"),
            Rule::TagOfRun => write!(f, "the last tag of a run of chunks is wrong"),
            Rule::GapEnd { found, heap_end } => {
                write!(f, "a gap ends at {found:#x}, but the heap at {heap_end:#x}")
            }
            #[cfg(feature = "hardened")]
            Rule::Misuse(misuse) => write!(f, "{misuse}"),
            #[cfg(feature = "hardened")]
            Rule::Listed { listed, walked } => {
                write!(f, "{walked} gaps in heaps, but {listed} in lists")
            }
            Rule::Record(what) => write!(f, "what a source noted of its heap is wrong: {what}"),
            Rule::Counters { found, counted } => write!(f, "{found} found, but {counted} counted"),
        }
    }
}

impl core::error::Error for Corruption {}
