//! Segregated free lists: the free segments by size class.
//!
//! Sizes are in quanta. Each size from 1 to 32 has a list of its own. Above that, each power of two
//! is divided into eight size classes. A bitmap of at most eight words marks the nonempty lists.
//!
//! ```text
//!  list   0   1   2  …  31 │   32     33     34  …   39 │   40     41  …
//!  size   1   2   3  …  32 │ 33–35  36–39  40–43 … 60–63│ 64–71  72–79 …
//! ```

use core::num::NonZero;

use super::boundary_tag::TagRef;

/// The number of sizes that have a list of their own.
const EXACT: usize = 1 << EXACT_LOG2;
const EXACT_LOG2: usize = 5;
/// The number of size classes in a power of two.
const CLASSES: usize = 1 << CLASSES_LOG2;
const CLASSES_LOG2: usize = 3;
const LISTS: usize = EXACT + (usize::BITS as usize - EXACT_LOG2) * CLASSES;
/// The number of words in the bitmap, and of slots for list heads. Both are powers of two, so that
/// a remainder replaces each bounds check. At least one slot follows the last list and stays empty,
/// so that a search may begin there.
const BITMAP_WORDS: usize = usize::BITS as usize * CLASSES / 64;
const LIST_SLOTS: usize = BITMAP_WORDS * 64;

/// The free segments of an arena, by size class.
pub(super) struct FreeLists {
    /// The first member of each list. Members are doubly linked by `left` and `right`.
    heads: [Option<TagRef>; LIST_SLOTS],
    /// A bit for each list, set if the list has members.
    bitmap: [u64; BITMAP_WORDS],
    /// A power of two. At and above it, sizes with the same highest four bits share a list.
    coarse_from: usize,
    /// log₂ of the quantum.
    shift: u32,
}

impl FreeLists {
    pub(super) const fn new(shift: u32) -> Self {
        const { assert!(LISTS < LIST_SLOTS && LIST_SLOTS.is_power_of_two()) };
        Self {
            heads: [None; LIST_SLOTS],
            bitmap: [0; BITMAP_WORDS],
            // It saturates with a huge quantum: then no size is this large.
            coarse_from: (2 * EXACT).saturating_mul(1 << shift),
            shift,
        }
    }

    /// Returns the list for segments of this size.
    #[inline]
    pub(super) fn list_of(&self, size: usize) -> usize {
        let quanta_less_one = (size - 1) >> self.shift;
        if quanta_less_one < EXACT {
            quanta_less_one
        } else {
            class_of(size >> self.shift)
        }
    }

    /// Returns whether all members of a list have the same size.
    pub(super) fn has_one_size(list: usize) -> bool {
        list < EXACT
    }

    /// Returns the first list whose members all have at least this size, as do those of all lists
    /// above it.
    #[inline]
    pub(super) fn first_sufficient_list(&self, size: usize) -> usize {
        let quanta_less_one = (size - 1) >> self.shift;
        // It is the list after that for `size - 1`.
        if quanta_less_one <= EXACT {
            quanta_less_one
        } else {
            class_of(quanta_less_one) + 1
        }
    }

    /// Returns a segment of a list whose members are all at least `size`, and this list. O(1).
    ///
    /// On `None`, the list below may still contain a segment that is large enough.
    #[inline]
    pub(super) fn instant_fit(&self, size: usize) -> Option<(usize, TagRef)> {
        self.first_nonempty_from(self.first_sufficient_list(size))
    }

    /// Returns the smallest free segment of at least `size`, and its list.
    #[inline]
    pub(super) fn best_fit(&self, size: usize) -> Option<(usize, TagRef)> {
        let (list, first) = self.first_nonempty_from(self.list_of(size))?;
        if Self::has_one_size(list) {
            Some((list, first))
        } else {
            // All members of this class may be too small. All in the next class are larger.
            smallest_in(list, first, size).or_else(|| {
                let (list, first) = self.first_nonempty_from(list + 1)?;
                smallest_in(list, first, size)
            })
        }
    }

    /// Returns the first nonempty list at or after `list`, and its first member.
    #[inline]
    pub(super) fn first_nonempty_from(&self, list: usize) -> Option<(usize, TagRef)> {
        let mut word = list / 64 % BITMAP_WORDS;
        let mut bits = NonZero::new(self.bitmap[word] & (!0 << (list % 64)));
        while bits.is_none() {
            word += 1;
            bits = NonZero::new(*self.bitmap.get(word)?);
        }
        let list = (word * 64 + bits?.trailing_zeros() as usize) % LIST_SLOTS;
        Some((list, self.heads[list]?))
    }

    /// Returns the members of the last nonempty list.
    pub(super) fn largest(&self) -> impl Iterator<Item = TagRef> {
        let mut bitmap = self.bitmap.iter().enumerate().rev();
        let list = bitmap.find_map(|(word, bits)| Some(word * 64 + bits.checked_ilog2()? as usize));
        members(list.and_then(|list| self.heads[list]))
    }

    /// Returns the nonempty lists at or after `list`, each with its first member.
    pub(super) fn nonempty_lists_from(&self, list: usize) -> impl Iterator<Item = (usize, TagRef)> {
        let mut next = list;
        core::iter::from_fn(move || {
            let (list, first) = self.first_nonempty_from(next)?;
            next = list + 1;
            Some((list, first))
        })
    }

    /// Returns whether the bitmap agrees with the lists.
    pub(super) fn bitmap_agrees(&self) -> bool {
        self.heads.iter().enumerate().all(|(list, first)| {
            first.is_some() == (self.bitmap[list / 64] >> (list % 64) & 1 != 0)
        })
    }

    /// Adds a free segment.
    #[inline]
    pub(super) fn insert(&mut self, tag: TagRef) {
        self.push(tag, self.list_of(tag.size()));
    }

    /// Removes a free segment.
    #[inline]
    pub(super) fn remove(&mut self, tag: TagRef) {
        self.unlink(tag, self.list_of(tag.size()));
    }

    /// Moves a free segment to the list for its size. It is in the list for its size `before`.
    #[inline]
    pub(super) fn relist(&mut self, tag: TagRef, before: usize) {
        if !self.same_list(before, tag.size()) {
            self.move_between_lists(tag, self.list_of(before));
        }
    }

    /// Moves a free segment to the list for its size. It is in `list`, the one for its size
    /// `before`.
    #[inline]
    pub(super) fn relist_from(&mut self, tag: TagRef, before: usize, list: usize) {
        if !self.same_list(before, tag.size()) {
            self.move_between_lists(tag, list);
        }
    }

    /// Returns whether two large sizes share a list, without a computation of either list.
    ///
    /// They usually do: a small segment is carved from a large one, or coalesces with it.
    #[inline]
    fn same_list(&self, one: usize, other: usize) -> bool {
        // They do if their highest four bits are equal.
        one >= self.coarse_from && (one ^ other) <= one >> (CLASSES_LOG2 + 1)
    }

    /// Moves a free segment from the list `from` to the one for its size.
    #[inline(never)]
    fn move_between_lists(&mut self, tag: TagRef, from: usize) {
        let to = self.list_of(tag.size());
        if from != to {
            self.unlink(tag, from);
            self.push(tag, to);
        }
    }

    /// Damages the bitmap, for a test of `check`.
    #[cfg(test)]
    pub(super) fn flip_bit(&mut self, list: usize) {
        self.bitmap[list / 64] ^= 1 << (list % 64);
    }

    #[inline]
    fn push(&mut self, tag: TagRef, list: usize) {
        let after = self.heads[list % LIST_SLOTS].replace(tag);
        tag.left.set(None);
        tag.right.set(after);
        match after {
            Some(after) => after.left.set(Some(tag)),
            None => self.bitmap[list / 64 % BITMAP_WORDS] |= 1 << (list % 64),
        }
    }

    /// Removes a free segment from its list, which is `list`.
    #[inline]
    pub(super) fn unlink(&mut self, tag: TagRef, list: usize) {
        let (before, after) = (tag.left.get(), tag.right.get());
        if let Some(after) = after {
            after.left.set(before);
        }
        if let Some(before) = before {
            before.right.set(after);
            return;
        }
        self.heads[list % LIST_SLOTS] = after;
        if after.is_none() {
            self.bitmap[list / 64 % BITMAP_WORDS] &= !(1 << (list % 64));
        }
    }
}

/// Returns the list for sizes of more than `EXACT` quanta.
#[inline]
fn class_of(quanta: usize) -> usize {
    // The lowest bit does not matter. Setting it makes the number nonzero, so its log exists.
    let log2 = (quanta | 1).ilog2() as usize;
    let class = (quanta >> (log2 - CLASSES_LOG2)) & (CLASSES - 1);
    EXACT + (log2 - EXACT_LOG2) * CLASSES + class
}

/// Returns the smallest segment of at least `size` in a list, given the list's first member.
#[inline(never)]
fn smallest_in(list: usize, first: TagRef, size: usize) -> Option<(usize, TagRef)> {
    let large_enough = members(Some(first)).filter(|segment| segment.size() >= size);
    Some((list, large_enough.min_by_key(|segment| segment.size())?))
}

/// Returns the members of a list, from one of them on.
pub(super) fn members(first: Option<TagRef>) -> impl Iterator<Item = TagRef> {
    core::iter::successors(first, |tag| tag.right.get())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Returns sizes in quanta around every boundary between lists.
    fn sizes() -> impl Iterator<Item = usize> {
        let around = (0..usize::BITS).flat_map(|log2| {
            (0..16).flat_map(move |part| {
                let start = (1usize << log2) + ((part * (1u128 << log2)) / 16) as usize;
                [start - 1, start, start.saturating_add(1)]
            })
        });
        (1..200).chain(around).filter(|&size| size > 0)
    }

    #[test]
    fn a_larger_size_is_never_in_a_lower_list() {
        let lists = FreeLists::new(0);
        let mut sizes: Vec<_> = sizes().collect();
        sizes.sort_unstable();
        for pair in sizes.windows(2) {
            assert!(lists.list_of(pair[0]) <= lists.list_of(pair[1]), "{pair:?}");
        }
        assert_eq!(lists.list_of(usize::MAX), LISTS - 1);
    }

    #[test]
    fn each_size_up_to_32_quanta_has_a_list_of_its_own() {
        let lists = FreeLists::new(12);
        for quanta in 1..=32 {
            assert_eq!(lists.list_of(quanta << 12), quanta - 1);
        }
        assert_eq!(lists.list_of(33 << 12), 32);
    }

    #[test]
    fn the_sizes_of_a_class_differ_by_at_most_an_eighth() {
        let lists = FreeLists::new(0);
        for size in sizes().filter(|&size| size <= usize::MAX - size / 7) {
            assert!(
                lists.list_of(size) < lists.list_of(size + size / 7 + 1),
                "{size}"
            );
        }
    }

    #[test]
    fn the_first_sufficient_list_skips_at_most_one_possible_list() {
        let lists = FreeLists::new(0);
        for size in sizes() {
            let sure = lists.first_sufficient_list(size);
            if size > 1 {
                assert!(lists.list_of(size - 1) < sure, "{size}");
            }
            assert!(sure <= lists.list_of(size) + 1, "{size}");
        }
    }
}
