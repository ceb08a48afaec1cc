//! Consistency checks: the invariants of heaps and free lists.

use core::fmt;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::CHUNK_UNIT;
use super::source::Source;
use super::tag::{HEAP_END, Tag};
use super::walk::allocatable;
#[cfg(not(feature = "hardened"))]
use super::{
    free_lists::FreeLists,
    gap_header::{Gap, GapHeader, Link},
    tag::MAX_GAP,
};
use crate::span::Span;

/// An invariant that does not hold, and its address: see the diagram of [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    /// The address of the gap, list head, run or heap.
    pub address: usize,
    /// The invariant that is broken there.
    pub rule: Rule,
}

/// An invariant of a heap, with the values that break it.
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
/// `Counters` concerns all free lists together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The bit of a bin is set exactly when its free list contains a gap.
    Availability {
        /// The number of the free list.
        bin: u32,
        /// The bit, which has the wrong value.
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
    /// A gap is in the free list of its bin.
    Bin {
        /// The list in which the gap is.
        found: u32,
        /// The list in which a gap of its size belongs.
        expected: u32,
    },
    /// A gap's extent is the same at both ends.
    Extent {
        /// The extent in the header.
        at_base: usize,
        /// The extent in the last word.
        at_end: usize,
    },
    /// Below a gap lies a chunk or the heap's base, whose tag says that a gap is above.
    TagBelowGap,
    /// The base tag lies below the first chunk or gap of a heap, and nowhere else.
    HeapBase,
    /// The last chunk or gap of a heap is marked as the last, and no other is.
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
    /// With `hardened`: no misuse has left a trace.
    #[cfg(feature = "hardened")]
    Misuse(super::hardened::Misuse),
    /// With `hardened`: all gaps, slivers excepted, are in free lists.
    #[cfg(feature = "hardened")]
    Listed {
        /// The number of gaps in free lists.
        listed: usize,
        /// The number of gaps in heaps.
        walked: usize,
    },
    /// The record that a source keeps of a heap agrees with the heap: see [`Source::check`].
    Record(&'static str),
    /// The counters agree with the lists.
    Counters {
        /// The value in the free lists.
        found: usize,
        /// The value of the counter.
        counted: usize,
    },
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Checks every gap of every heap: the availability bits, the links in both directions, bins,
    /// sizes, and the tags below gaps.
    ///
    /// Takes time in proportion to the number of gaps and lists; with `hardened`, to all memory of
    /// the heaps.
    ///
    /// By default, pointers in the heap are trusted to lead to memory, because the allocator does
    /// not know where its heaps are. The bit of the list, the alignment and the referrer are
    /// checked before a link is followed. Nevertheless a pointer that was overwritten with an
    /// address outside all memory causes a fault. A list that leads back into itself is found.
    ///
    /// With `hardened`, pointers are verified before they are followed. All heaps are walked too,
    /// and every redzone, tag, list head and heap record is checked, and all free memory for writes
    /// after free. Random damage is found and never causes a fault.
    ///
    /// # Errors
    /// The first [`Rule`] that is broken, with its address.
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
        // SAFETY: `check` calls this only with established list heads.
        let mut link = unsafe { head.read() };
        ensure(
            link.is_some() == available,
            head.addr(),
            Rule::Availability { bin, available },
        )?;
        while let Some(at) = link {
            let address = at.addr().get();
            ensure(address % CHUNK_UNIT == 0, address, Rule::Misaligned)?;
            // SAFETY: a link of a list leads to the header of a gap. (A link that is damaged but
            // aligned may fault: see the documentation of `check`.)
            let header = unsafe { at.read() };
            // This check also ends the walk of a list that leads back into itself: the gap where it
            // does has one referrer, but two pointers lead to it.
            let (found, expected) = (header.referrer.addr(), referrer.addr());
            ensure(
                found == expected,
                address,
                Rule::Referrer { found, expected },
            )?;
            // SAFETY: the gap names the pointer that leads to it, so its header is one.
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
            // SAFETY: a gap of this size belongs in this list, so its end is approximately right
            // and in memory.
            let at_end = unsafe { gap.last_word().read() };
            ensure(
                header.extent == at_end,
                address,
                Rule::Extent {
                    at_base: header.extent,
                    at_end,
                },
            )?;
            // SAFETY: a tag lies below every gap.
            let below = unsafe { Tag::ending_at(gap.base) };
            let below_is_right =
                below.is_allocated() && below.is_below_gap() && !below.is_heap_end();
            ensure(below_is_right, address, Rule::TagBelowGap)?;
            visit(gap);
            referrer = GapHeader::next_field(at);
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

    /// Walks a heap from its base to its end, gap by gap. Checks the base and end marks, the tags
    /// on both sides of each gap, and that gaps and runs of chunks tile the heap. Trusts the free
    /// lists: call [`check`](Talc::check) first.
    ///
    /// `heap` extends from the base that was given to [`claim`](Talc::claim) to the heap's current
    /// end. The cost is that of [`gaps_in`](Talc::gaps_in).
    ///
    /// # Errors
    /// The first [`Rule`] that is broken, with its address.
    ///
    /// # Safety
    /// `heap` is the extent of a heap of this allocator, as described above.
    pub unsafe fn check_heap(&self, heap: Span) -> Result<(), Corruption> {
        let tiles = allocatable(heap);
        let (first, heap_end) = (tiles.base().addr(), tiles.end().addr());
        ensure(!tiles.is_empty(), heap.base().addr(), Rule::HeapEnd)?;
        // SAFETY: the base tag lies below the first chunk or gap.
        let base_tag = unsafe { tag_at(tiles.base()) };
        let is_base = base_tag.is_allocated() && base_tag.is_heap_base() && !base_tag.is_heap_end();
        ensure(is_base, first, Rule::HeapBase)?;

        let mut rest = tiles;
        for gap in self.gaps_by_address(tiles) {
            let (base, end) = (gap.base.addr().get(), gap.end().addr().get());
            // SAFETY: a tag lies below every gap.
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
            // If two gaps touch, the end of the lower one is no tag.
            ensure(
                below.is_allocated() && below.is_below_gap(),
                base,
                Rule::TagBelowGap,
            )?;
            rest = rest.above(gap.end().as_ptr());
        }
        if !rest.is_empty() {
            // The heap ends with a run of chunks, or with a sliver above one.
            // SAFETY: a chunk or a gap ends where the heap does.
            let last = unsafe { tag_at(rest.end()) };
            if last.is_allocated() {
                ensure(!last.is_below_gap(), heap_end, Rule::TagOfRun)?;
                ensure(last.is_heap_end(), heap_end, Rule::HeapEnd)?;
            } else {
                // SAFETY: the rest is at least one unit.
                let sliver = unsafe { is_sliver(rest.end().wrapping_sub(CHUNK_UNIT), HEAP_END) };
                ensure(sliver, heap_end, Rule::TagOfRun)?;
            }
        }
        // Without a gap or a sliver at the heap's base, the base tag must not announce one.
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

/// Returns whether a sliver with this flag begins at `base`, and the tag below it says so.
///
/// # Safety
/// `base` is a multiple of the unit in a heap but not its end.
unsafe fn is_sliver(base: *mut u8, flag: usize) -> bool {
    // SAFETY: a unit, aligned and of two words, begins at `base`.
    let extents = unsafe { base.cast::<[usize; 2]>().read() };
    // SAFETY: a tag lies below every sliver.
    extents == [CHUNK_UNIT | flag; 2] && unsafe { tag_at(base) }.is_below_gap()
}

/// # Safety
/// A chunk, a gap or a heap's base tag ends at `end`.
unsafe fn tag_at(end: *mut u8) -> Tag {
    // SAFETY: memory lies below `end`, which therefore is not null.
    let end = unsafe { NonNull::new_unchecked(end) };
    // SAFETY: a chunk, a gap or a base tag ends at `end`.
    unsafe { Tag::ending_at(end) }
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
            } => write!(f, "bin {bin} is empty, but marked as not empty"),
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
            Rule::Record(what) => write!(f, "a source's record of a heap is wrong: {what}"),
            Rule::Counters { found, counted } => write!(f, "{found} found, but {counted} counted"),
        }
    }
}

impl core::error::Error for Corruption {}
