//! Which gaps share a list.

use super::bitfield::BitField;
use super::chunk::CHUNK_UNIT;
use super::tag::MAX_GAP;

/// A division of gap sizes into bins, each of which is a list of gaps.
///
/// The finer the bins, the better the fit and the larger the metadata: one word for each bin.
pub trait Binning: Sized {
    /// Remembers which bins have a gap in them.
    type AvailabilityBitField: BitField;

    /// How many bins there are, at most `AvailabilityBitField::BITS`.
    const BIN_COUNT: u32 = <Self::AvailabilityBitField>::BITS;

    /// The bin of gaps of `size` bytes. A result of [`BIN_COUNT`](Binning::BIN_COUNT) or more means
    /// the last bin.
    ///
    /// `size` is a multiple of [`CHUNK_UNIT`] above zero, unless the call comes from the provided
    /// [`size_to_bin_ceil`](Binning::size_to_bin_ceil): then it is one less than such a multiple.
    ///
    /// The result depends on `size` alone, never decreases as `size` grows, and is `u32::MAX` only
    /// for sizes below [`CHUNK_UNIT`].
    fn size_to_bin(size: usize) -> u32;

    /// The lowest bin in which every gap has at least `size` bytes, which are a multiple of
    /// [`CHUNK_UNIT`].
    ///
    /// When the result is the last bin or beyond it, there is no such certainty: the last bin is
    /// then searched gap by gap, which is linear. Bins that cover every size avoid that.
    #[inline]
    fn size_to_bin_ceil(size: usize) -> u32 {
        Self::size_to_bin(size - 1).wrapping_add(1)
    }
}

/// A bin for each chunk size up to `DIVISIONS * EXTENT` units, from there on `DIVISIONS` bins of
/// equal width between each power of two and the next.
///
/// Both parameters are powers of two. More divisions mean a better fit and more bins: `DIVISIONS`
/// for each power of two that is to be covered. A larger `EXTENT` spends `DIVISIONS` bins on each
/// doubling of the linear part as well, but exact ones: it only pays where chunks a few units apart
/// must not share a bin.
///
/// Sizes below [`CHUNK_UNIT`] yield `u32::MAX`.
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
        // units = 0b1ddd…: the position of the last of the log2(DIVISIONS) digits after its first one,
        // and all digits up to there.
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

/// Exact bins for chunks of up to 64 units, then 8 to each power of two, up to the largest gap that
/// there can be.
///
/// The sizes in a bin differ by less than an eighth, and no bin is a catch-all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultBinning;

impl Binning for DefaultBinning {
    type AvailabilityBitField = [u64; 7];

    // The last bin begins at the size that no gap has.
    const BIN_COUNT: u32 = default_bin(MAX_GAP) + 1;

    #[inline]
    fn size_to_bin(size: usize) -> u32 {
        // Where the compiler can see that a bin is below BIN_COUNT, others need not check.
        if size < 64 * CHUNK_UNIT {
            (size / CHUNK_UNIT) as u32
        } else {
            default_bin(size).min(Self::BIN_COUNT - 1)
        }
    }
}

/// One list is left unused, that of slivers: so many units, so many steps.
const fn default_bin(size: usize) -> u32 {
    linear_extent_then_linearly_divided_exponential_binning::<8, 8>(size).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    /// Multiples of the unit around every place where a binning by powers of two might break.
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

    fn keeps_the_rules<B: Binning>() {
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
            // The rounding-up twin is right exactly when what lies one unit below is in a lower bin.
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
    fn bins_are_monotone_and_the_rounding_up_twin_is_certain() {
        keeps_the_rules::<DefaultBinning>();
        keeps_the_rules::<Sparse>();
        keeps_the_rules::<Wide>();
    }

    #[test]
    fn the_default_skips_no_bin_and_needs_no_catch_all() {
        let mut sizes: std::vec::Vec<_> =
            interesting_sizes().filter(|&size| size < MAX_GAP).collect();
        sizes.sort_unstable();
        let mut next = DefaultBinning::size_to_bin(CHUNK_UNIT);
        for size in sizes {
            let bin = DefaultBinning::size_to_bin(size);
            assert!(bin <= next, "bin {next} is skipped before {size:#x}");
            next = next.max(bin + 1);
        }
        assert_eq!(
            next,
            DefaultBinning::BIN_COUNT - 1,
            "only the last bin is left over"
        );
    }

    #[test]
    fn the_linear_part_is_exact() {
        for units in 1..=64 {
            assert_eq!(Wide::size_to_bin(units * CHUNK_UNIT), units as u32 - 1);
        }
        for units in 1..=64 {
            assert_eq!(
                DefaultBinning::size_to_bin(units * CHUNK_UNIT),
                units as u32
            );
        }
    }
}
