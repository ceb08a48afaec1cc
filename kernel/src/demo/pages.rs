//! Counts the pages that hold at least one live byte: those that no allocator of pages could do
//! without.

use heap::Span;
use kernel::memory::PAGE_SIZE;

use super::region::Table;

/// A counter of the pages that blocks touch.
///
/// ```text
/// page       0           1           2           3           4
///            ├───────────┼───────────┼───────────┼───────────┤
/// blocks       ▓▓▓  ▓▓▓▓▓▓▓▓▓                      ▓▓           3 pages: 0, 1 and 3
/// ```
pub(crate) struct PageCounter {
    /// The first and the last page of each block, as page numbers.
    blocks: Table<(usize, usize)>,
}

impl PageCounter {
    /// Creates a counter for up to `blocks` blocks. Returns `None` if no memory is left for its
    /// table, which does not lie on the heap.
    pub(crate) fn new(blocks: usize) -> Option<Self> {
        Some(PageCounter {
            blocks: Table::new(blocks, (0, 0))?,
        })
    }

    /// Returns the number of pages that `blocks` touch. No block is empty. Sorts the blocks by
    /// address: O(blocks · log blocks). Allocates nothing.
    ///
    /// # Panics
    /// Panics if there are more blocks than the counter was created for.
    pub(crate) fn count(&mut self, blocks: impl Iterator<Item = Span>) -> usize {
        let mut len = 0;
        for block in blocks {
            let last = block.end().addr() - 1;
            self.blocks[len] = (block.base().addr() / PAGE_SIZE, last / PAGE_SIZE);
            len += 1;
        }
        let blocks = &mut self.blocks[..len];
        blocks.sort_unstable();
        let (mut pages, mut uncounted) = (0, 0);
        for &(first, last) in &*blocks {
            pages += (last + 1).saturating_sub(first.max(uncounted));
            uncounted = uncounted.max(last + 1);
        }
        pages
    }
}
