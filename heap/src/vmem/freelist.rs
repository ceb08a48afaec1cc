//! The free segments by size.
//!
//! Sizes are in quanta. Each size from 1 to 32 has a list of its own; above, each power of two is
//! divided into eight classes. A two-level bit map says which lists have members:
//!
//! ```text
//!  list   0   1   2  …  31 │   32     33     34  …   39 │   40     41  …
//!  size   1   2   3  …  32 │ 33–35  36–39  40–43 … 60–63│ 64–71  72–79 …
//! ```

use super::segment::Tag;

/// How many sizes have a list of their own.
const EXACT: usize = 1 << EXACT_LOG2;
const EXACT_LOG2: usize = 5;
/// Into how many classes a power of two is divided.
const CLASSES: usize = 1 << CLASSES_LOG2;
const CLASSES_LOG2: usize = 3;
const LISTS: usize = EXACT + (usize::BITS as usize - EXACT_LOG2) * CLASSES;
const WORDS: usize = LISTS.div_ceil(64);

/// The free segments of an arena.
pub(super) struct FreeLists {
    /// The first member of each list; members are linked both ways by `left` and `right`.
    heads: [Option<Tag>; LISTS],
    /// A bit for each list that has members.
    words: [u64; WORDS],
    /// A bit for each word that is not zero.
    summary: u64,
    /// A power of two, from which on sizes with the same highest four bits share a list.
    large: usize,
    /// log₂ of the quantum.
    shift: u32,
}

impl FreeLists {
    pub(super) const fn new(shift: u32) -> Self {
        Self {
            heads: [None; LISTS],
            words: [0; WORDS],
            summary: 0,
            // With an absurd quantum, no size is this large.
            large: (2 * EXACT).saturating_mul(1 << shift),
            shift,
        }
    }

    /// The list for segments of this size.
    #[inline]
    pub(super) fn list_of(&self, size: usize) -> usize {
        let quanta_less_one = (size - 1) >> self.shift;
        if quanta_less_one < EXACT {
            quanta_less_one
        } else {
            class_of(size >> self.shift)
        }
    }

    /// Whether all members of a list have the same size.
    pub(super) fn has_one_size(list: usize) -> bool {
        list < EXACT
    }

    /// The first list all of whose members, and those of the lists above, have at least this size.
    #[inline]
    pub(super) fn list_at_least(&self, size: usize) -> usize {
        let quanta_less_one = (size - 1) >> self.shift;
        // One more than the list for the next smaller size.
        if quanta_less_one <= EXACT {
            quanta_less_one
        } else {
            class_of(quanta_less_one) + 1
        }
    }

    /// A segment of at least this size, found at once; there may be others.
    #[inline]
    pub(super) fn at_least(&self, size: usize) -> Option<Tag> {
        let (_, first) = self.first_from(self.list_at_least(size))?;
        Some(first)
    }

    /// A segment than which no other of at least this size is smaller.
    #[inline]
    pub(super) fn smallest_at_least(&self, size: usize) -> Option<Tag> {
        let (list, first) = self.first_from(self.list_of(size))?;
        if Self::has_one_size(list) {
            Some(first)
        } else {
            self.smallest_in(list, first, size)
        }
    }

    /// A segment of this size or the next larger one, given the list for this size.
    #[inline(never)]
    fn smallest_in(&self, list: usize, first: Tag, size: usize) -> Option<Tag> {
        // The class may turn out to have only smaller ones; all in the next class are larger.
        [
            Some(first),
            self.first_from(list + 1).map(|(_, first)| first),
        ]
        .into_iter()
        .find_map(|first| {
            members(first)
                .filter(|segment| segment.size() >= size)
                .min_by_key(|segment| segment.size())
        })
    }

    /// The first list at or after `list` that has members, and the first of these.
    #[inline]
    pub(super) fn first_from(&self, list: usize) -> Option<(usize, Tag)> {
        if list >= LISTS {
            return None;
        }
        let mut word = list / 64;
        let mut bits = self.words[word] & (!0 << (list % 64));
        if bits == 0 {
            let words = self.summary & (!0 << word << 1);
            if words == 0 {
                return None;
            }
            word = words.trailing_zeros() as usize;
            bits = *self.words.get(word)?;
        }
        let list = word * 64 + bits.trailing_zeros() as usize;
        Some((list, (*self.heads.get(list)?)?))
    }

    /// The members of the last list that has any.
    pub(super) fn largest(&self) -> impl Iterator<Item = Tag> {
        let list = self.summary.checked_ilog2().map(|word| {
            let word = word as usize;
            word * 64 + self.words[word].ilog2() as usize
        });
        members(list.and_then(|list| self.heads[list]))
    }

    /// The lists at or after `list` that have members, with the first of each.
    pub(super) fn lists_from(&self, list: usize) -> impl Iterator<Item = (usize, Tag)> {
        core::iter::successors(self.first_from(list), |&(list, _)| {
            self.first_from(list + 1)
        })
    }

    /// Whether the bit maps agree with the lists.
    pub(super) fn bits_agree(&self) -> bool {
        let mut words = self.words.iter().enumerate();
        let mut lists = self.heads.iter().enumerate();
        let bit = |bits: u64, index: usize| bits >> index & 1 != 0;
        words.all(|(word, &bits)| (bits != 0) == bit(self.summary, word))
            && lists.all(|(list, head)| head.is_some() == bit(self.words[list / 64], list % 64))
    }

    /// Adds a free segment.
    #[inline]
    pub(super) fn insert(&mut self, tag: Tag) {
        self.push(tag, self.list_of(tag.size()));
    }

    /// Removes a free segment.
    #[inline]
    pub(super) fn remove(&mut self, tag: Tag) {
        self.unlink(tag, self.list_of(tag.size()));
    }

    /// Moves a free segment, which had size `before`, to the list for the size that it has now.
    #[inline]
    pub(super) fn resized(&mut self, tag: Tag, before: usize) {
        // Mostly something small is carved from a large segment or merged with it. If a change is
        // below the highest four bits of a size, the class is the same.
        if before >= self.large && (before ^ tag.size()) <= before >> (CLASSES_LOG2 + 1) {
            return;
        }
        self.change_list(tag, self.list_of(before), self.list_of(tag.size()));
    }

    #[cold]
    fn change_list(&mut self, tag: Tag, from: usize, to: usize) {
        if from != to {
            self.unlink(tag, from);
            self.push(tag, to);
        }
    }

    /// Damages the bit maps, for a test of `check`.
    #[cfg(test)]
    pub(super) fn flip_bit(&mut self, list: usize) {
        self.words[list / 64] ^= 1 << (list % 64);
    }

    #[inline]
    fn push(&mut self, tag: Tag, list: usize) {
        let after = self.heads[list].replace(tag);
        tag.left.set(None);
        tag.right.set(after);
        match after {
            Some(after) => after.left.set(Some(tag)),
            None => {
                self.words[list / 64] |= 1 << (list % 64);
                self.summary |= 1 << (list / 64);
            }
        }
    }

    #[inline]
    fn unlink(&mut self, tag: Tag, list: usize) {
        let (before, after) = (tag.left.get(), tag.right.get());
        if let Some(after) = after {
            after.left.set(before);
        }
        if let Some(before) = before {
            before.right.set(after);
            return;
        }
        self.heads[list] = after;
        if after.is_none() {
            self.words[list / 64] &= !(1 << (list % 64));
            if self.words[list / 64] == 0 {
                self.summary &= !(1 << (list / 64));
            }
        }
    }
}

/// The list for sizes of more than `EXACT` quanta.
#[inline]
fn class_of(quanta: usize) -> usize {
    let log2 = quanta.ilog2() as usize;
    let class = (quanta >> (log2 - CLASSES_LOG2)) & (CLASSES - 1);
    EXACT + (log2 - EXACT_LOG2) * CLASSES + class
}

/// A list from one of its members on.
pub(super) fn members(first: Option<Tag>) -> impl Iterator<Item = Tag> {
    core::iter::successors(first, |tag| tag.right.get())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Sizes in quanta around every boundary between lists.
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
    fn a_larger_size_never_has_a_lower_list() {
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
    fn a_class_spans_at_most_an_eighth() {
        let lists = FreeLists::new(0);
        for size in sizes().filter(|&size| size <= usize::MAX - size / 7) {
            assert!(
                lists.list_of(size) < lists.list_of(size + size / 7 + 1),
                "{size}"
            );
        }
    }

    #[test]
    fn the_list_at_least_holds_nothing_smaller_and_leaves_out_one_list_at_most() {
        let lists = FreeLists::new(0);
        for size in sizes() {
            let sure = lists.list_at_least(size);
            if size > 1 {
                assert!(lists.list_of(size - 1) < sure, "{size}");
            }
            assert!(sure <= lists.list_of(size) + 1, "{size}");
        }
    }
}
