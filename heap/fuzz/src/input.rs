//! The fuzzer's bytes as choices.

use std::alloc::Layout;

use libfuzzer_sys::arbitrary::Unstructured;

use crate::vmem::support::Choices;

/// Bytes, each of which decides something; then nought for ever.
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// All choices are taken from `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Whether no byte is left: the program ends.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.int_in_range(0..=limit - 1).unwrap_or(0)
    }

    /// A size from 1 to `2 << max_log2`, as likely small as large.
    pub fn size(&mut self, max_log2: u32) -> usize {
        let log2 = self.below(max_log2 as usize + 1);
        1 + self.below(2 << log2)
    }

    /// A layout of such a size, aligned to at most `1 << align_log2`.
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
