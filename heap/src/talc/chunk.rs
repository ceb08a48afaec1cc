//! Where chunks lie, and how large they are.
//!
//! ```text
//!          base tag                                                       heap end
//!             |                                                              |
//!      ┄┄┄┄┄┄┬─┬───────────────┬───────────────┬─────────────┬───────────────┐┄┄┄┄┄
//!      unused│t│ metadata    t │ allocation  t │     gap     │ allocation  t │ unused
//!      ┄┄┄┄┄┄┴─┴───────────────┴───────────────┴─────────────┴───────────────┘┄┄┄┄┄
//!              ^               ^               ^             ^               ^
//!              multiples of CHUNK_UNIT
//! ```
//!
//! Chunks and gaps tile a heap from its first multiple of [`CHUNK_UNIT`] that leaves room for the
//! base tag to its last. Each chunk ends with a [tag](super::tag), each gap is described by a
//! [header](super::node) and its extent at the end. Two gaps never touch.

use core::ptr::NonNull;

use super::tag::TAG_SIZE;

/// Chunks begin at multiples of this many bytes and are multiples of it in size.
///
/// Any alignment up to this costs nothing.
pub const CHUNK_UNIT: usize = 4 * size_of::<usize>();

/// The size of the chunk that holds an allocation of `size` bytes, which is at most `isize::MAX`
/// as in every `Layout`.
#[inline]
pub(super) const fn chunk_size(size: usize) -> usize {
    // At most isize::MAX + TAG_SIZE + CHUNK_UNIT - 1: no overflow.
    (size + (TAG_SIZE + CHUNK_UNIT - 1)) & !(CHUNK_UNIT - 1)
}

/// Like [`chunk_size`], for a size that nobody has vouched for.
#[inline]
pub(super) const fn checked_chunk_size(size: usize) -> Option<usize> {
    if size <= isize::MAX as usize {
        Some(chunk_size(size))
    } else {
        None
    }
}

/// `addr` rounded down to a multiple of [`CHUNK_UNIT`].
#[inline]
pub(super) const fn unit_floor(addr: usize) -> usize {
    addr & !(CHUNK_UNIT - 1)
}

/// `addr` rounded up to a multiple of [`CHUNK_UNIT`], or `None` past the end of the address space.
#[inline]
pub(super) const fn unit_ceil(addr: usize) -> Option<usize> {
    addr.checked_next_multiple_of(CHUNK_UNIT)
}

/// Bytes from `base` up to `end`.
#[inline]
pub(super) fn distance(base: NonNull<u8>, end: NonNull<u8>) -> usize {
    end.addr().get() - base.addr().get()
}
