//! The sizes of chunks and heap overheads, with and without `hardened`.

use heap::talc::base::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD};

/// Bytes from a heap's base, a multiple of the unit, to its first allocation.
pub(crate) const FIRST: usize = HEAP_OVERHEAD.next_multiple_of(CHUNK_UNIT);

/// The size of the chunk of one byte.
pub(crate) const SMALLEST: usize = {
    let size = (1 + CHUNK_OVERHEAD).next_multiple_of(CHUNK_UNIT);
    if size < 2 * CHUNK_UNIT {
        2 * CHUNK_UNIT
    } else {
        size
    }
};

/// Returns the size of the largest allocation in a chunk of `count` units.
pub(crate) const fn units(count: usize) -> usize {
    count * CHUNK_UNIT - CHUNK_OVERHEAD
}
