//! A small generator of pseudorandom numbers with a seed: every run of a test is the same.
#![allow(dead_code, reason = "each test uses a part of it")]

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
pub(crate) struct Random(u64);

impl Random {
    /// Returns a generator. The same seed gives the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any `u64`.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below `end`, which is not zero. (The bias does not matter here.)
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    /// Returns a size up to about `1 << max_log2`. Small and large magnitudes are equally likely.
    pub(crate) fn size(&mut self, max_log2: u32) -> usize {
        let log2 = self.below(max_log2 as usize);
        1 + self.below(2 << log2)
    }
}

/// A source of choices for a program: a generator or a fuzzer.
pub(crate) trait Choices {
    /// Returns a number below `limit`, which is not zero.
    fn below(&mut self, limit: usize) -> usize;

    /// Returns `true` once in `one_in` times.
    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// Returns any of several values.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

impl Choices for Random {
    fn below(&mut self, limit: usize) -> usize {
        Random::below(self, limit)
    }
}
