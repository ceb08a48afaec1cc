//! The location of the table of frames: memory that is usable by the memory map.

use core::ops::Range;

use super::{FRAME_SIZE, LOWEST_ADDRESS};

/// Returns a range of `bytes` bytes for the table that begins with a frame. Returns `None` if no
/// usable range has room.
///
/// The table lies at the highest possible address of the first range of `usable` with room. The
/// ranges of a memory map may overlap: memory in a range of `reserved` counts as reserved.
///
/// O(usable · reserved²): the search steps over each reserved range at most once per usable range.
pub(in crate::memory) fn locate_table(
    mut usable: impl Iterator<Item = Range<u64>>,
    reserved: impl Iterator<Item = Range<u64>> + Clone,
    bytes: u64,
) -> Option<Range<u64>> {
    usable.find_map(|range| {
        let lowest = range.start.max(LOWEST_ADDRESS);
        let mut end = range.end;
        loop {
            let start = end.checked_sub(bytes)? & !(FRAME_SIZE - 1);
            if start < lowest {
                return None;
            }
            let table = start..start + bytes;
            let in_the_way = reserved.clone().find(|other| {
                !other.is_empty() && other.start < table.end && table.start < other.end
            });
            match in_the_way {
                // A range that overlaps the table begins below `end`, so that `end` decreases.
                Some(other) => end = other.start,
                None => return Some(table),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn locate(usable: &[Range<u64>], reserved: &[Range<u64>], bytes: u64) -> Option<Range<u64>> {
        locate_table(usable.iter().cloned(), reserved.iter().cloned(), bytes)
    }

    #[test]
    fn the_table_lies_at_the_end_of_the_first_range_with_room() {
        let usable = [0..MIB, MIB..MIB + 0x2000, 4 * MIB..8 * MIB + 0x123];
        assert_eq!(locate(&usable, &[], 0x2000), Some(MIB..MIB + 0x2000));
        let start = 8 * MIB - 0x2000;
        assert_eq!(locate(&usable, &[], 0x2100), Some(start..start + 0x2100));
        assert_eq!(locate(&usable, &[], 5 * MIB), None);
    }

    #[test]
    fn the_table_avoids_reserved_memory_that_overlaps() {
        // The last range is empty: no table fits.
        let usable = [MIB..8 * MIB, 8 * MIB..8 * MIB];
        let end = 7 * MIB + 0x800;
        // One range at the end and one that overlaps the rest below it, not in order.
        let reserved = [6 * MIB + 1..6 * MIB + 2, end..9 * MIB, 2 * MIB..2 * MIB];
        let below = locate(&usable, &reserved, 0x1000).unwrap();
        assert_eq!(below, 7 * MIB - 0x1000..7 * MIB);
        let lower = locate(&usable, &reserved, MIB).unwrap();
        assert_eq!(lower, 5 * MIB..6 * MIB);
        assert_eq!(locate(&usable, &reserved, 6 * MIB), None);
    }

    #[test]
    fn a_range_that_is_entirely_reserved_is_skipped() {
        let usable = [MIB..2 * MIB, 4 * MIB..5 * MIB];
        for reserved in [MIB..2 * MIB, 0..3 * MIB, MIB + 0x1000..4 * MIB] {
            let table = locate(&usable, &[reserved], 0x1800).unwrap();
            assert_eq!(table, 5 * MIB - 0x2000..5 * MIB - 0x800);
        }
        let everything = 0..u64::MAX;
        assert_eq!(locate(&usable, &[everything], 1), None);
    }

    #[test]
    fn the_table_avoids_all_overlaps_of_two_reserved_ranges() {
        const PAGE: u64 = FRAME_SIZE / 2;
        let at = |pages: u64| MIB + pages * PAGE;
        let ranges = || (0..9).flat_map(move |from| (from..9).map(move |to| at(from)..at(to)));
        // The last range is empty: no table fits.
        let usable = [at(0)..at(8), at(8)..at(8)];
        for first in ranges() {
            for second in ranges() {
                for bytes in [1, PAGE, 3 * PAGE] {
                    let reserved = [first.clone(), second.clone()];
                    let is_free = |table: &Range<u64>| {
                        reserved.iter().all(|it| {
                            it.is_empty() || it.end <= table.start || table.end <= it.start
                        })
                    };
                    let found = locate(&usable, &reserved, bytes);
                    assert!(
                        found
                            .iter()
                            .all(|table| table.end <= at(8) && is_free(table))
                    );
                    // The highest of all positions at the beginning of a frame.
                    let best = (0..8)
                        .rev()
                        .filter(|page| page % 2 == 0)
                        .map(|page| at(page)..at(page) + bytes)
                        .find(|table| table.end <= at(8) && is_free(table));
                    assert_eq!(found, best, "{reserved:x?}, {bytes} bytes");
                }
            }
        }
    }
}
