//! Size classes: the bins by which gaps are sorted into free lists.

use super::bitfield::BitField;
use super::chunk::CHUNK_UNIT;
use super::tag::MAX_GAP;

/// A division of gap sizes into bins (size classes). Each bin has a free list.
///
/// ```text
///     size in units         1     2     3     4     5     6     7     8     9 …
///     size_to_bin           0     1     2     2     3     3     3     4     4 …    for example
///     size_to_bin_ceil      0     1     2     3     3     4     4     4     5 …
///                                             └ 4 units: list 2 has gaps of 3 and of 4
/// ```
///
/// Finer bins fit better and need more metadata: one word for each bin.
///
/// The trait is safe to implement: memory safety never depends on it. A binning that breaks the
/// promises below wastes memory or time, and [`Talc::check`](super::Talc::check) reports gaps in
/// the wrong list. A binning that panics aborts the program, because an operation that is half done
/// cannot unwind. (The [`BitField`] is trusted: it is an unsafe trait.)
pub trait Binning: Sized {
    /// The set of bins that are not empty.
    type AvailabilityBitField: BitField;

    /// The number of bins: at least one, and at most `AvailabilityBitField::BITS`. Other numbers do
    /// not compile. Each bin has a list head.
    const BIN_COUNT: u32 = <Self::AvailabilityBitField>::BITS;

    /// Returns the bin of gaps of `size` bytes. A result of [`BIN_COUNT`](Binning::BIN_COUNT) or
    /// more means the last bin.
    ///
    /// `size` is a multiple of [`CHUNK_UNIT`] above zero; when called by the provided
    /// [`size_to_bin_ceil`](Binning::size_to_bin_ceil), it is one less than such a multiple.
    ///
    /// The result depends only on `size`, never decreases as `size` grows, and is `u32::MAX` only
    /// for sizes below [`CHUNK_UNIT`].
    fn size_to_bin(size: usize) -> u32;

    /// Returns the lowest bin in which every gap has at least `size` bytes, a multiple of
    /// [`CHUNK_UNIT`].
    ///
    /// If the result is the last bin or beyond, its gaps may be smaller, and that bin is searched
    /// gap by gap in linear time. Bins that cover every size avoid that.
    #[inline]
    fn size_to_bin_ceil(size: usize) -> u32 {
        Self::size_to_bin(size - 1).wrapping_add(1)
    }
}

/// Returns the bin of `size` in a hybrid binning: one bin for each chunk size below `DIVISIONS *
/// EXTENT` units, and from there on `DIVISIONS` bins of equal width between each power of two and
/// the next.
///
/// ```text
///     DIVISIONS = 4, EXTENT = 4
///
///     size in units    1   2   3  …  15   16…19   20…23   24…27   28…31   32…39   40…47 …
///     bin              0   1   2  …  14     15      16      17      18      19      20  …
///                      exact ──────────┤ 4 bins of 4 units ───────────┤ 4 bins of 8 ───
/// ```
///
/// Both parameters are powers of two: `DIVISIONS` is at most 2¹⁶, `EXTENT` at most 2¹². More
/// divisions mean a better fit and more bins: `DIVISIONS` for each power of two. A larger `EXTENT`
/// has `DIVISIONS * (EXTENT - 1)` exact bins instead of `DIVISIONS * log2(EXTENT)`. It only pays
/// where chunks that differ by a few units must not share a bin.
///
/// `size` is in bytes and is rounded down to whole units. Sizes below [`CHUNK_UNIT`] yield
/// `u32::MAX`. O(1).
///
/// The second level of TLSF's lists divides powers of two in the same way (Masmano and others,
/// 2004).
///
/// ```
/// use heap::talc::base::CHUNK_UNIT;
/// use heap::talc::base::binning::*;
///
/// let bin = |units: usize| {
///     linear_extent_then_linearly_divided_exponential_binning::<4, 4>(units * CHUNK_UNIT)
/// };
/// assert_eq!([1, 2, 15].map(bin), [0, 1, 14]);
/// assert_eq!([16, 19, 20, 31].map(bin), [15, 15, 16, 18]);
/// assert_eq!([32, 39, 40].map(bin), [19, 19, 20]);
/// assert_eq!(bin(0), u32::MAX);
/// ```
#[inline]
pub const fn linear_extent_then_linearly_divided_exponential_binning<
    const DIVISIONS: usize,
    const EXTENT: u32,
>(
    size: usize,
) -> u32 {
    const {
        assert!(DIVISIONS.is_power_of_two() && EXTENT.is_power_of_two());
        assert!(DIVISIONS <= 1 << 16 && EXTENT <= 1 << 12);
    }
    let units = size / CHUNK_UNIT;
    let linear = DIVISIONS * EXTENT as usize;
    let bin_above = if units < linear {
        units as u32
    } else {
        // units = 0b1ddd…: the position of the last of the log2(DIVISIONS) digits after the first
        // one, and all digits up to there.
        //
        //     units = linear      : shift = log2(EXTENT), step = DIVISIONS
        //     units = linear × 2  : shift is one more, and step back at DIVISIONS
        let shift = (units / DIVISIONS).ilog2();
        let step = (units >> shift) as u32;
        let at_linear = const { (EXTENT.ilog2() + 1) * DIVISIONS as u32 };
        shift * DIVISIONS as u32 + step + (linear as u32 - at_linear)
    };
    bin_above.wrapping_sub(1)
}

/// Exact bins for small chunks, and ever fewer bins to each power of two for larger ones, up to the
/// largest possible gap.
///
/// ```text
///  bytes    32   48   64  …  1008   1024…1136   1152…1264  …  1920…2032   2048…2288   2304…2544 …
///  bin       2    3    4  …    63          64          65  …         71          72          73 …
///           one size each ───────┤ 8 bins of 8 sizes ─────────────────┤ 8 bins of 16 sizes ───
/// ```
///
/// | from, on 64-bit machines | from, on 32-bit machines | bins in each power of two |
/// |---|---|---|
/// | one unit | one unit | one for each size |
/// | 1 KiB | 256 bytes | 8 |
/// | 16 KiB | 1 KiB | 4 |
/// | 2 MiB | 16 KiB | 2 |
/// | 4 PiB | 128 MiB | 1 |
///
/// Recorded programs request few sizes above 16 KiB, and finer bins for those improve neither the
/// fit nor the number of instructions. No bin is a catch-all. Bins 0 and 1 are always empty, so
/// that an exact bin is the number of units. That saves an instruction each time a bin is computed.
///
/// On 64-bit machines there are 190 bins, whose list heads take 1,520 bytes of a chunk of 1,536; on
/// 32-bit machines 94 bins, whose heads take 376. The owner flag and a tag take the rest.
///
/// ```
/// use heap::talc::base::{CHUNK_UNIT, binning::Binning};
/// use heap::talc::DefaultBinning;
///
/// # #[cfg(target_pointer_width = "64")] {
/// let bin = |units| DefaultBinning::size_to_bin(units * CHUNK_UNIT);
/// assert_eq!([2, 3, 63].map(bin), [2, 3, 63]);
/// assert_eq!([64, 71, 72, 127].map(bin), [64, 64, 65, 71]);
/// assert_eq!([128, 143, 144].map(bin), [72, 72, 73]);
/// // In list 64 are gaps of 64 to 71 units, so what needs 65 is certain to fit from list 65 on.
/// let ceil = |units| DefaultBinning::size_to_bin_ceil(units * CHUNK_UNIT);
/// assert_eq!([64, 65, 71, 72].map(ceil), [64, 65, 65, 65]);
/// assert_eq!(DefaultBinning::BIN_COUNT, 190);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultBinning;

impl Binning for DefaultBinning {
    type AvailabilityBitField = [usize; 3];

    const BIN_COUNT: u32 = DIVISION.bins;

    #[inline]
    fn size_to_bin(size: usize) -> u32 {
        let units = size / CHUNK_UNIT;
        // The compiler sees that a bin is below BIN_COUNT, so that callers need not check.
        if units < EXACT {
            units as u32
        } else {
            let power = POWERS[units.ilog2() as usize];
            power.bin_of(units).min(Self::BIN_COUNT - 1)
        }
    }
}

/// Chunks of fewer units have one bin for each size.
const EXACT: usize = if usize::BITS == 64 { 64 } else { 32 };

/// Every gap has fewer than 2 to the power of this many units.
const POWER_COUNT: u32 = (MAX_GAP / CHUNK_UNIT).ilog2();

/// Returns the number of bins for 2ⁿ to 2ⁿ⁺¹ units, a power of two. `power` is n.
const fn bins_in(power: u32) -> u32 {
    // The powers of two, in units, at which the rows of the table above begin.
    let [fours, twos, ones] = if usize::BITS == 64 {
        [10, 17, 48]
    } else {
        [7, 11, 24]
    };
    match power {
        _ if power < fours => 8,
        _ if power < twos => 4,
        _ if power < ones => 2,
        _ => 1,
    }
}

/// The division of one power of two into bins.
///
/// ```text
///     bits   15 … 6                                     5 … 0
///          ┌──────────────────────────────────────────┬──────────────────────────┐
///          │ the first bin, less the number of bins   │ log2(units in each bin)  │
///          └──────────────────────────────────────────┴──────────────────────────┘
/// ```
///
/// Bins 64 to 71 for 64 to 127 units are encoded as 56 and 3: 72 units are in bin 56 + (72 >> 3) =
/// 65.
#[derive(Clone, Copy)]
struct Power(u16);

impl Power {
    const fn new(power: u32, bins: u32, first_bin: u32) -> Self {
        Self(((first_bin - bins) << 6 | (power - bins.ilog2())) as u16)
    }

    #[inline]
    const fn bin_of(self, units: usize) -> u32 {
        // The shift is less than the width of a word, so that wrapping costs nothing and changes
        // nothing.
        units.wrapping_shr(self.0 as u32) as u32 + (self.0 >> 6) as u32
    }
}

/// The division of all powers of two. A single load returns everything that is needed of it.
static POWERS: [Power; usize::BITS as usize] = DIVISION.powers;

struct Division {
    powers: [Power; usize::BITS as usize],
    bins: u32,
}

const DIVISION: Division = {
    let mut powers = [Power(0); usize::BITS as usize];
    let mut bins = EXACT as u32;
    let mut power = EXACT.ilog2();
    while power < usize::BITS {
        if power < POWER_COUNT {
            powers[power as usize] = Power::new(power, bins_in(power), bins);
            bins += bins_in(power);
        } else {
            // Gaps of this size are impossible, but requests are not.
            powers[power as usize] = Power::new(power, 1, bins - 1);
        }
        power += 1;
    }
    Division { powers, bins }
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    /// Returns multiples of the unit around every size at which a binning by powers of two might
    /// break.
    fn interesting_sizes() -> impl Iterator<Item = usize> {
        let small = (1..=4096).map(|units| units * CHUNK_UNIT);
        let large = (CHUNK_UNIT.ilog2() + 12..usize::BITS).flat_map(|power| {
            (0..64).flat_map(move |step| {
                let size = (1_usize << power) + (step << (power - 6));
                [size - CHUNK_UNIT, size, size + CHUNK_UNIT]
            })
        });
        let mut random = Random::new(0xb1225);
        let random = core::iter::repeat_with(move || {
            ((random.word() as usize) >> random.below(usize::BITS as usize - 8)).max(CHUNK_UNIT)
                & !(CHUNK_UNIT - 1)
        });
        small.chain(large).chain(random.take(10_000))
    }

    fn assert_keeps_promises<B: Binning>() {
        assert!(B::BIN_COUNT <= B::AvailabilityBitField::BITS);
        let mut sizes: std::vec::Vec<_> = interesting_sizes().collect();
        sizes.sort_unstable();
        for pair in sizes.windows(2) {
            let (low, high) = (B::size_to_bin(pair[0]), B::size_to_bin(pair[1]));
            assert!(
                low <= high,
                "bin({:#x}) = {low} > bin({:#x}) = {high}",
                pair[0],
                pair[1]
            );
        }
        for size in sizes {
            let floor = B::size_to_bin(size);
            let ceil = B::size_to_bin_ceil(size);
            assert!(
                floor != u32::MAX && (floor == ceil || floor + 1 == ceil),
                "{size:#x}"
            );
            // Rounding up is right exactly when a gap that is one unit smaller is in a lower bin.
            if size > CHUNK_UNIT {
                assert!(B::size_to_bin(size - CHUNK_UNIT) < ceil, "{size:#x}");
            }
            assert_eq!(
                floor == ceil,
                size == CHUNK_UNIT || B::size_to_bin(size - CHUNK_UNIT) < floor
            );
        }
    }

    struct Sparse;
    impl Binning for Sparse {
        type AvailabilityBitField = u32;
        fn size_to_bin(size: usize) -> u32 {
            linear_extent_then_linearly_divided_exponential_binning::<2, 1>(size)
        }
    }

    struct Wide;
    impl Binning for Wide {
        type AvailabilityBitField = [u64; 4];
        fn size_to_bin(size: usize) -> u32 {
            linear_extent_then_linearly_divided_exponential_binning::<4, 16>(size)
        }
    }

    #[test]
    fn bins_grow_with_sizes_and_rounding_up_is_certain() {
        assert_keeps_promises::<DefaultBinning>();
        assert_keeps_promises::<Sparse>();
        assert_keeps_promises::<Wide>();
    }

    #[test]
    fn the_smallest_first_heap_has_at_most_1600_bytes() {
        use crate::talc::min_first_heap_size;
        if cfg!(not(feature = "hardened")) {
            let most = if usize::BITS == 64 { 1600 } else { 420 };
            assert!(min_first_heap_size::<DefaultBinning>() <= most);
        }
    }

    #[test]
    fn default_bins_are_all_used_and_cover_every_size() {
        let mut sizes: std::vec::Vec<_> =
            interesting_sizes().filter(|&size| size < MAX_GAP).collect();
        sizes.sort_unstable();
        let mut next = DefaultBinning::size_to_bin(CHUNK_UNIT);
        for size in sizes {
            let bin = DefaultBinning::size_to_bin(size);
            assert!(bin <= next, "bin {next} is skipped before {size:#x}");
            next = next.max(bin + 1);
        }
        assert_eq!(next, DefaultBinning::BIN_COUNT, "no bin is left over");
    }

    #[test]
    fn every_size_has_a_bin_below_bin_count() {
        let all = interesting_sizes().chain([usize::MAX & !(CHUNK_UNIT - 1)]);
        let last = all.map(DefaultBinning::size_to_bin).max();
        assert_eq!(last, Some(DefaultBinning::BIN_COUNT - 1));
    }

    #[test]
    fn each_size_of_the_linear_part_has_its_own_bin() {
        for units in 1..=64 {
            assert_eq!(Wide::size_to_bin(units * CHUNK_UNIT), units as u32 - 1);
        }
        for units in 1..=EXACT {
            let bin = DefaultBinning::size_to_bin(units * CHUNK_UNIT);
            assert_eq!(bin, units as u32);
        }
    }
}
