//! The input of the fuzzer, as a source of choices.

use std::alloc::Layout;

use libfuzzer_sys::arbitrary::Unstructured;

use crate::vmem::support::Choices;

/// Bytes from which each choice is made. After the last byte every choice is 0.
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// Creates an input that takes its choices from `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Returns whether no byte is left, so that the program ends.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// Chooses a number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.int_in_range(0..=limit - 1).unwrap_or(0)
    }

    /// Chooses a size from 1 to `2 << max_log2`. Small and large powers of two are equally likely.
    pub fn size(&mut self, max_log2: u32) -> usize {
        let log2 = self.below(max_log2 as usize + 1);
        1 + self.below(2 << log2)
    }

    /// Chooses a layout with such a size, aligned to at most `1 << align_log2`.
    pub fn layout(&mut self, max_log2: u32, align_log2: u32) -> Layout {
        let size = self.size(max_log2);
        let align = 1 << self.below(align_log2 as usize + 1);
        Layout::from_size_align(size, align).expect("neither is large")
    }
}

impl Choices for Input<'_> {
    fn below(&mut self, limit: usize) -> usize {
        Input::below(self, limit)
    }
}
