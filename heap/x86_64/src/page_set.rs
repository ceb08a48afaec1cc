//! Sets of pages that the page tables change together.

use x86_64::structures::paging::Page;
use x86_64::structures::paging::page::PageRangeInclusive;

/// The number of pages that are mapped or unmapped while the page tables are locked once.
pub const BATCH: usize = 16;

/// A set of at most [`BATCH`] pages.
///
/// ```text
/// first   + 1     + 2     + 3
/// │ page  │       │ page  │ page  │         bits 0b1101
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageSet {
    first: Page,
    /// Bit n stands for the page `first + n`.
    bits: u64,
}

const _: () = assert!(BATCH <= u64::BITS as usize);

impl PageSet {
    /// Returns the set of `count` pages from `first` on.
    ///
    /// # Panics
    /// Panics if `count` is 0 or more than [`BATCH`].
    pub(crate) fn all(first: Page, count: usize) -> Self {
        assert!(0 < count && count <= BATCH);
        let bits = u64::MAX >> (u64::BITS as usize - count);
        Self { first, bits }
    }

    /// Returns the set without pages, among those from `first` on.
    pub(crate) fn none(first: Page) -> Self {
        Self { first, bits: 0 }
    }

    /// Adds a page, which is one of the [`BATCH`] pages from the first on.
    pub(crate) fn insert(&mut self, page: Page) {
        debug_assert!(page - self.first < BATCH as u64);
        self.bits |= 1 << (page - self.first);
    }

    /// Returns the number of pages.
    pub(crate) fn len(self) -> usize {
        self.bits.count_ones() as usize
    }

    /// Returns the pages below `end`.
    pub(crate) fn below(self, end: Page) -> Self {
        let bits = self.bits & ((1 << (end - self.first)) - 1);
        Self { bits, ..self }
    }

    /// Returns the range from the lowest to the highest page.
    ///
    /// # Panics
    /// Panics if the set is empty.
    pub(crate) fn range(self) -> PageRangeInclusive {
        PageRangeInclusive {
            start: self.first + u64::from(self.bits.trailing_zeros()),
            end: self.first + u64::from(self.bits.ilog2()),
        }
    }

    /// Returns the pages, the lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = Page> {
        (0..BATCH as u64)
            .filter(move |index| self.bits >> index & 1 != 0)
            .map(move |index| self.first + index)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use x86_64::VirtAddr;

    use super::*;

    #[test]
    fn a_set_has_the_pages_that_were_inserted() {
        let first = Page::containing_address(VirtAddr::new(0x7000));
        let mut pages = PageSet::none(first);
        let last = BATCH as u64 - 1;
        for index in [0, 2, last] {
            pages.insert(first + index);
        }
        assert_eq!(pages.len(), 3);
        assert_eq!(
            pages.iter().collect::<Vec<_>>(),
            [first, first + 2, first + last]
        );
        assert_eq!(
            (pages.range().start, pages.range().end),
            (first, first + last)
        );
        let below = pages.below(first + last);
        assert_eq!((below.len(), below.range().end), (2, first + 2));
        assert_eq!(pages.below(first).len(), 0);
        assert_eq!(PageSet::all(first, BATCH).len(), BATCH);
        assert_eq!(PageSet::all(first, 1).range().end, first);
    }
}
