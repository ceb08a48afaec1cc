//! Half-open address ranges.
/// A range.
pub struct Span;
