//! Address space layout randomisation of the heap: the window of its addresses lies at random, so
//! that an attacker has to guess the addresses of blocks. They are as hard to guess as the seed:
//! see [`entropy`](crate::entropy).
//!
//! ```text
//! 63      48 47      39 38      30 29           0
//! ┌─────────┬──────────┬──────────┬──────────────┐
//! │ 1 … 1   │ 1xxxxxxx │ 0xxxxxxx │ 0 …        0 │   the first address of the window, 256 GiB long
//! └─────────┴──────────┴──────────┴──────────────┘
//!            level 4    level 3: 0 to 255
//!            entry: one that maps nothing
//! ```
//!
//! Steps of 1 GiB reduce the number of possible addresses. In return, the heap needs the same page
//! tables at all of them: two runs can be compared down to single frames and instructions.

use core::fmt;
use core::ops::Range;

use x86_64::structures::paging::{Page, PageTableIndex};

use super::PAGE_SIZE;
use crate::entropy::Seed;

/// The size of the window: half of the range that one level 4 entry covers, so that the window can
/// move in this range.
pub const SIZE: usize = 1 << 38;

/// The first level 4 entry of the higher half.
const HIGHER_HALF: u16 = 256;

/// The level 3 entries that the window may begin at.
const STARTS: u64 = 256;

/// The heap's window of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first page.
    start: Page,
    /// The seed that chose the address.
    pub seed: Seed,
}

impl Window {
    /// Chooses a window under an unused level 4 entry of the higher half. Returns `None` if all
    /// entries are in use.
    pub fn choose(seed: Seed, is_unused: impl Fn(PageTableIndex) -> bool) -> Option<Self> {
        let unused = || {
            (HIGHER_HALF..512)
                .map(PageTableIndex::new)
                .filter(|&index| is_unused(index))
        };
        let (random, count) = (seed.mixed(), unused().count() as u64);
        // The upper bits choose the entry (of `count`, if any), the lower bits the offset.
        let upper = unused().nth((random >> 32).checked_rem(count)? as usize)?;
        let lower = PageTableIndex::new((random % STARTS) as u16);
        let zero = PageTableIndex::new(0);
        Some(Self {
            start: Page::from_page_table_indices(upper, lower, zero, zero),
            seed,
        })
    }

    /// Returns the addresses of the window.
    pub fn addresses(&self) -> Range<usize> {
        let start = self.start.start_address().as_u64() as usize;
        start..start + SIZE
    }

    /// Returns the leading guard: the first page, which is allocated for ever and never mapped.
    ///
    /// An access just below the lowest span faults there. Below every other span lies the guard
    /// page of another span.
    pub fn leading_guard(&self) -> Range<usize> {
        let start = self.addresses().start;
        start..start + PAGE_SIZE
    }

    /// Returns the level 4 entry that covers the window, and no other mapping.
    pub fn level_4_entry(&self) -> PageTableIndex {
        self.start.p4_index()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.addresses();
        write!(f, "{start:#x} to {end:#x}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn choose(seed: u64, is_unused: impl Fn(u16) -> bool) -> Option<Window> {
        Window::choose(Seed::of_host(seed), |index| is_unused(index.into()))
    }

    #[test]
    fn all_unused_entries_are_chosen_and_no_others() {
        let is_unused = |index: u16| index.is_multiple_of(3);
        let chosen: BTreeSet<u16> = (0..5000)
            .filter_map(|seed| choose(seed, is_unused))
            .map(|window| window.level_4_entry().into())
            .collect();
        assert!(
            chosen
                .iter()
                .copied()
                .eq((256..512).filter(|&index| is_unused(index)))
        );
    }

    #[test]
    fn a_window_is_aligned_and_covered_by_one_entry() {
        let starts: BTreeSet<usize> = (0..10_000)
            .filter_map(|seed| choose(seed, |_| true))
            .map(|window| {
                let Range { start, end } = window.addresses();
                assert_eq!(start % (1 << 30), 0);
                assert_eq!(end - start, SIZE);
                assert_eq!(start >> 39, (end - 1) >> 39);
                assert!(
                    start >> 47 == 0x1_ffff,
                    "not in the higher half: {start:#x}"
                );
                start
            })
            .collect();
        // 10,000 draws from 65,536 equally likely addresses give about 9,274 different ones.
        assert!(
            (9_200..9_350).contains(&starts.len()),
            "{} addresses",
            starts.len()
        );
    }

    #[test]
    fn a_seed_gives_the_same_window_each_time() {
        assert_eq!(choose(7, |_| true), choose(7, |_| true));
        assert_ne!(choose(7, |_| true), choose(8, |_| true));
    }

    #[test]
    fn without_an_unused_entry_no_window_is_chosen() {
        assert_eq!(choose(1, |_| false), None);
    }
}
