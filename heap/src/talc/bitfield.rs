//! Sets of small numbers with a fast scan: they record which bins are not empty.

use core::fmt::Debug;
use core::num::NonZero;

/// A set of the numbers below [`BITS`](BitField::BITS).
///
/// ```text
///     bit        7   6   5   4   3   2   1   0       a `u8` with BITS = 8
///              ┌───┬───┬───┬───┬───┬───┬───┬───┐
///              │ 0 │ 1 │ 0 │ 1 │ 0 │ 0 │ 1 │ 0 │     the set of 1, 4 and 6
///              └───┴───┴───┴───┴───┴───┴───┴───┘
///     first_from(2)          4 <─────┘               first_from(4): 4       first_from(7): none
/// ```
///
/// Implemented for the unsigned integers up to `u64` and `usize`, for arrays of bit fields (suited
/// to four words or fewer), and for [`TwoLevelBitField`] (suited to more). In an array `[F; N]`,
/// bit *b* is bit `b % F::BITS` of field `b / F::BITS`. Every operation is O(1), except scans of
/// arrays, which are O(N).
///
/// ```
/// use heap::talc::base::bitfield::BitField;
///
/// let mut field = u8::ZEROES;
/// [1, 4, 6].map(|bit| field.set_bit(bit));
/// assert_eq!(field, 0b0101_0010);
/// assert_eq!([2, 4, 7].map(|from| field.first_from(from)), [Some(4), Some(4), None]);
/// assert!(field.bit_scan_forward(7) >= u8::BITS);
/// field.clear_bit(4);
/// assert!(!field.read_bit(4));
/// assert_eq!(field, 0b0100_0010);
///
/// let mut fields = <[u8; 2]>::ZEROES;
/// fields.set_bit(11);
/// assert_eq!(fields, [0, 0b0000_1000]);
/// ```
///
/// # Safety
/// A [`Talc`](super::Talc) follows the list head of each bit that a scan finds, without checking
/// that the list is not empty. For every value that [`ZEROES`](BitField::ZEROES) became through
/// [`set_bit`](BitField::set_bit) and [`clear_bit`](BitField::clear_bit) with bits below
/// [`BITS`](BitField::BITS), an implementor guarantees:
///
/// * A bit *is set* when the latest of these calls for it was `set_bit`. `ZEROES` has no bit set.
/// * [`read_bit`](BitField::read_bit) returns whether the bit is set.
/// * [`bit_scan_forward`](BitField::bit_scan_forward) returns `BITS` or more, or a bit that is set;
///   [`first_from`](BitField::first_from) returns `None` or a bit that is set.
/// * A copy has the same bits set. No method unwinds when it is called with bits below `BITS`.
///
/// Safety does not require that a scan finds the *lowest* bit, or that it finds one whenever one is
/// set. Finding all free memory does.
pub unsafe trait BitField: Debug + Copy + Sized + Send + Sync + 'static + Eq {
    /// The number of bits.
    const BITS: u32;
    /// All bits clear.
    const ZEROES: Self;

    /// Returns the lowest set bit that is `b` or higher, or [`BITS`](BitField::BITS) or more if
    /// none is. `b` is less than `BITS`.
    fn bit_scan_forward(&self, b: u32) -> u32;
    /// Returns the same as [`bit_scan_forward`](BitField::bit_scan_forward), but `None` if no bit
    /// is found.
    #[inline]
    fn first_from(&self, b: u32) -> Option<u32> {
        let found = self.bit_scan_forward(b);
        (found < Self::BITS).then_some(found)
    }
    /// Sets bit `b`, which is less than [`BITS`](BitField::BITS): `0b0101_0010` with bit 3 set is
    /// `0b0101_1010`.
    fn set_bit(&mut self, b: u32);
    /// Clears bit `b`, which is less than [`BITS`](BitField::BITS): `0b0101_0010` with bit 4 clear
    /// is `0b0100_0010`.
    fn clear_bit(&mut self, b: u32);
    /// Returns whether bit `b` is set. `b` is less than [`BITS`](BitField::BITS).
    fn read_bit(&self, b: u32) -> bool;
}

macro_rules! word_bit_field {
    ($($word:ty)*) => {$(
        // SAFETY: bit *b* of the set is bit *b* of the word, and shifts are less than its width.
        unsafe impl BitField for $word {
            const BITS: u32 = <$word>::BITS;
            const ZEROES: Self = 0;

            #[inline]
            fn bit_scan_forward(&self, b: u32) -> u32 {
                self.first_from(b).unwrap_or(Self::BITS)
            }

            #[inline]
            fn first_from(&self, b: u32) -> Option<u32> {
                NonZero::new(*self & (<$word>::MAX << b)).map(|rest| rest.trailing_zeros())
            }

            #[inline]
            fn set_bit(&mut self, b: u32) {
                *self |= 1 << b;
            }

            #[inline]
            fn clear_bit(&mut self, b: u32) {
                *self &= !(1 << b);
            }

            #[inline]
            fn read_bit(&self, b: u32) -> bool {
                *self >> b & 1 != 0
            }
        }
    )*};
}

word_bit_field!(u8 u16 u32 u64 usize);

// SAFETY: bit *b* is bit `b % F::BITS` of one field, which keeps the promises of this trait.
unsafe impl<const N: usize, F: BitField> BitField for [F; N] {
    const BITS: u32 = F::BITS * N as u32;
    const ZEROES: Self = [F::ZEROES; N];

    #[inline]
    fn bit_scan_forward(&self, b: u32) -> u32 {
        self.first_from(b).unwrap_or(Self::BITS)
    }

    #[inline]
    fn first_from(&self, b: u32) -> Option<u32> {
        let mut word = b / F::BITS;
        let mut found = self.get(word as usize)?.first_from(b % F::BITS);
        while found.is_none() {
            word += 1;
            found = self.get(word as usize)?.first_from(0);
        }
        found.map(|bit| word * F::BITS + bit)
    }

    #[inline]
    fn set_bit(&mut self, b: u32) {
        // (`get_mut` instead of an index: a call that can panic would cost a stack frame.)
        if let Some(word) = self.get_mut((b / F::BITS) as usize) {
            word.set_bit(b % F::BITS);
        }
    }

    #[inline]
    fn clear_bit(&mut self, b: u32) {
        if let Some(word) = self.get_mut((b / F::BITS) as usize) {
            word.clear_bit(b % F::BITS);
        }
    }

    #[inline]
    fn read_bit(&self, b: u32) -> bool {
        self[(b / F::BITS) as usize].read_bit(b % F::BITS)
    }
}

/// `N` fields of type `L`, and a field of type `U` that records which of them are not empty. A scan
/// reads at most three words, for any `N`.
///
/// ```text
///     TwoLevelBitField<u8, u8, 4> with the bits 1, 6 and 27
///
///     lower[3]           lower[2]           lower[1]           lower[0]
///     0 0 0 0 1 0 0 0    0 0 0 0 0 0 0 0    0 0 0 0 0 0 0 0    0 1 0 0 0 0 1 0
///             27                                                 6         1
///     upper   0 0 0 0 1 0 0 1      bits 0 and 3: of the fields that are not empty
///
///     first_from(7):   1. lower[0] from 7: none   2. upper from 1: 3   3. lower[3] from 0: 3
/// ```
///
/// `N` is at most `U::BITS`, or the type does not compile.
///
/// ```
/// use heap::talc::base::bitfield::{BitField, TwoLevelBitField};
///
/// let mut field = TwoLevelBitField::<u8, u8, 4>::ZEROES;
/// [1, 6, 27].map(|bit| field.set_bit(bit));
/// assert_eq!([0, 2].map(|from| field.first_from(from)), [Some(1), Some(6)]);
/// assert_eq!([7, 28].map(|from| field.first_from(from)), [Some(27), None]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwoLevelBitField<U: BitField, L: BitField, const N: usize> {
    /// Bit *n* is set exactly when `lower[n]` is not empty.
    upper: U,
    lower: [L; N],
}

// SAFETY: reads and scans return bits of a lower field, which keeps the promises of this trait. The
// upper field only chooses the field that a scan reads.
unsafe impl<U: BitField, L: BitField, const N: usize> BitField for TwoLevelBitField<U, L, N> {
    const BITS: u32 = {
        assert!(
            N as u32 <= U::BITS,
            "the upper field needs a bit for each lower field"
        );
        L::BITS * N as u32
    };
    const ZEROES: Self = Self {
        upper: U::ZEROES,
        lower: [L::ZEROES; N],
    };

    #[inline]
    fn bit_scan_forward(&self, b: u32) -> u32 {
        self.first_from(b).unwrap_or(Self::BITS)
    }

    #[inline]
    fn first_from(&self, b: u32) -> Option<u32> {
        let word = b / L::BITS;
        if let Some(bit) = self.lower[word as usize].first_from(b % L::BITS) {
            return Some(word * L::BITS + bit);
        }
        // Beyond the last word, no bit exists at which a scan could begin.
        let next = word + 1;
        let word = (next < N as u32).then(|| self.upper.first_from(next))??;
        let bit = self.lower.get(word as usize)?.first_from(0)?;
        Some(word * L::BITS + bit)
    }

    #[inline]
    fn set_bit(&mut self, b: u32) {
        self.upper.set_bit(b / L::BITS);
        self.lower[(b / L::BITS) as usize].set_bit(b % L::BITS);
    }

    #[inline]
    fn clear_bit(&mut self, b: u32) {
        let lower = &mut self.lower[(b / L::BITS) as usize];
        lower.clear_bit(b % L::BITS);
        if *lower == L::ZEROES {
            self.upper.clear_bit(b / L::BITS);
        }
    }

    #[inline]
    fn read_bit(&self, b: u32) -> bool {
        self.lower[(b / L::BITS) as usize].read_bit(b % L::BITS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test_random::Random;

    fn assert_agrees_with_a_set<F: BitField>() {
        let mut random = Random::new(0x0b17_f1e1d);
        let mut field = F::ZEROES;
        let mut set = BTreeSet::new();
        for step in 0..2_000 {
            let bit = random.below(F::BITS as usize) as u32;
            // Filling and emptying alternate, so that both extremes are reached.
            if random.below(8) < if step / 500 % 2 == 0 { 6 } else { 2 } {
                field.set_bit(bit);
                set.insert(bit);
            } else {
                field.clear_bit(bit);
                set.remove(&bit);
            }
            assert_eq!(field.read_bit(bit), set.contains(&bit));
            assert_eq!(field == F::ZEROES, set.is_empty());
            let from = random.below(F::BITS as usize) as u32;
            let found = Some(field.bit_scan_forward(from)).filter(|&found| found < F::BITS);
            assert_eq!(found, field.first_from(from));
            assert_eq!(
                found,
                set.range(from..).next().copied(),
                "scan from {from} in {field:?}"
            );
        }
        for &bit in &set {
            field.clear_bit(bit);
        }
        assert_eq!(field, F::ZEROES);
        assert!(field.bit_scan_forward(0) >= F::BITS);
    }

    /// Implements only the required methods.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Plain(u32);

    // SAFETY: bit *b* of the set is bit *b* of the word.
    unsafe impl BitField for Plain {
        const BITS: u32 = 20;
        const ZEROES: Self = Self(0);

        fn bit_scan_forward(&self, b: u32) -> u32 {
            (b..Self::BITS).find(|&b| self.read_bit(b)).unwrap_or(99)
        }

        fn set_bit(&mut self, b: u32) {
            self.0 |= 1 << b;
        }

        fn clear_bit(&mut self, b: u32) {
            self.0 &= !(1 << b);
        }

        fn read_bit(&self, b: u32) -> bool {
            self.0 >> b & 1 != 0
        }
    }

    #[test]
    fn all_bit_fields_agree_with_a_set_of_numbers() {
        assert_agrees_with_a_set::<u8>();
        assert_agrees_with_a_set::<u16>();
        assert_agrees_with_a_set::<u32>();
        assert_agrees_with_a_set::<u64>();
        assert_agrees_with_a_set::<usize>();
        assert_agrees_with_a_set::<[u64; 2]>();
        assert_agrees_with_a_set::<[u8; 5]>();
        assert_agrees_with_a_set::<TwoLevelBitField<u8, u64, 7>>();
        assert_agrees_with_a_set::<TwoLevelBitField<u8, u8, 8>>();
        assert_agrees_with_a_set::<TwoLevelBitField<u16, [u32; 2], 9>>();
        assert_eq!(<[u8; 5]>::BITS, 40);
        assert_eq!(TwoLevelBitField::<u8, u64, 7>::BITS, 448);
        assert_agrees_with_a_set::<Plain>();
        assert_agrees_with_a_set::<[Plain; 3]>();
    }
}
