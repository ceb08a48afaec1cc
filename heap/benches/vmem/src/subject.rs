//! What the scenarios need of an arena.

/// The quantum of all arenas: a page.
pub const PAGE: usize = 4096;

/// An arena of either crate. What fails, panics.
pub trait Subject {
    /// An arena without spans.
    fn empty() -> Self;
    /// An arena that borrows from another, which has one span of this many pages.
    fn borrowing(pages: usize) -> Self;
    fn add_span(&self, base: usize, len: usize);
    /// Allocates the smallest that fits, or any that is sure to.
    fn alloc<const BEST: bool>(&self, size: usize) -> usize;
    fn free(&self, base: usize);
    /// Allocates three pages one page after a multiple of eight, not across a multiple of 32, at or
    /// above `min` and below `max`.
    fn alloc_constrained(&self, min: usize, max: usize) -> usize;
    /// Resizes in place, if that exists.
    fn resize(&self, _base: usize, _size: usize) -> bool {
        false
    }
}

/// Does nothing.
pub struct Null;

impl Subject for Null {
    fn empty() -> Self {
        Self
    }

    fn borrowing(_pages: usize) -> Self {
        Self
    }

    fn add_span(&self, base: usize, len: usize) {
        std::hint::black_box((base, len));
    }

    fn alloc<const BEST: bool>(&self, size: usize) -> usize {
        std::hint::black_box(size)
    }

    fn free(&self, base: usize) {
        std::hint::black_box(base);
    }

    fn alloc_constrained(&self, min: usize, _max: usize) -> usize {
        std::hint::black_box(min)
    }

    fn resize(&self, base: usize, size: usize) -> bool {
        std::hint::black_box((base, size));
        true
    }
}
