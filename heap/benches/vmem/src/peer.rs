//! The interface of an arena to the scenarios.

/// The quantum of all arenas: a page.
pub const PAGE: usize = 4096;

/// An arena of either crate. Operations that fail panic.
pub trait Peer {
    /// Returns an arena without spans.
    fn empty() -> Self;
    /// Returns an arena that borrows from another arena, which has one span of `pages` pages.
    fn borrowing(pages: usize) -> Self;
    fn add_span(&self, base: usize, len: usize);
    /// Allocates with the policy `BestFit` if `BEST`, otherwise `InstantFit`.
    fn alloc<const BEST: bool>(&self, size: usize) -> usize;
    fn free(&self, base: usize);
    /// Allocates three pages one page after a multiple of eight, not across a multiple of 32, at or
    /// above `min` and below `max`.
    fn alloc_constrained(&self, min: usize, max: usize) -> usize;
    /// Resizes in place, and returns whether the crate can do that.
    fn resize(&self, _base: usize, _size: usize) -> bool {
        false
    }
}

/// A peer that does nothing, to measure the cost of the loop.
pub struct Null;

impl Peer for Null {
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
