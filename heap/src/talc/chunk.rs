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
//! [header](super::gap_header) and its extent at the end. Two gaps never touch.
//!
//! The unit is half of the smallest chunk. So a gap can be too small for any chunk, and for the links
//! of a list: that is a *sliver*. It waits, in no list, until a neighbour is freed and merges with it.

use core::ptr::NonNull;

use super::hardened::{RECORD_SIZE, REDZONE_SIZE};
use super::tag::TAG_SIZE;

/// Chunks begin at multiples of this many bytes and are multiples of it in size.
///
/// ```text
///     0x1000          0x1010          0x1020          0x1030     64-bit: one column is one byte
///     ├─ unit ────────┼─ unit ────────┼─ unit ────────┤
///     │ the smallest chunk           t│                          1 to 31 bytes are allocated
///     │ a chunk of three units                       t│          32 to 47 bytes
///     │ a sliver: free│                                          in no list
///     │ the smallest gap in a list    │
/// ```
///
/// 16 bytes, or 8 on 32-bit machines. Any alignment up to this costs nothing.
pub const CHUNK_UNIT: usize = 2 * size_of::<usize>();

/// Bytes that an allocation takes beyond its own, before the sum is rounded up to [`CHUNK_UNIT`]: the
/// tag, and with `hardened` a tail. No chunk is smaller than two units.
///
/// ```text
///     ├─ 40 bytes ─────────────┼─ 7 unused ──┼─ tag: 1 ─┤                default: a chunk of 48
///     ├─ 40 bytes ─────────────┼─ tail: 32 ──────────────┼─ tag: 8 ─┤     hardened: a chunk of 80
/// ```
///
/// | machine, build | bytes |
/// |---|---|
/// | 64-bit little-endian | 1 |
/// | 32-bit; 64-bit big-endian | 4; 8 |
/// | with `hardened`: 64-bit; 32-bit | 40; 20 |
pub const CHUNK_OVERHEAD: usize = REDZONE_SIZE + TAG_SIZE;

/// Bytes that a heap takes below its first allocation, before that is rounded up to [`CHUNK_UNIT`]:
/// the base tag, and with `hardened` a record.
///
/// ```text
///     0x1000          0x1010          0x1020              one column is one byte, t the tag
///     ├──────────────t├ the first chunk or gap …          a heap claimed from 0x1000 up
///                    t├ the first chunk or gap …          from 0x100f up
///                     ├──────────────t├ the first …       from 0x1010 up: no room for it below
/// ```
///
/// As large as [`CHUNK_OVERHEAD`], but with `hardened` 48, or 24 on 32-bit machines.
pub const HEAP_OVERHEAD: usize = RECORD_SIZE + TAG_SIZE;

/// No chunk is smaller, so that what is freed can be in a list.
pub(super) const MIN_CHUNK: usize = 2 * CHUNK_UNIT;

/// The size of the chunk that holds an allocation of `size` bytes, which is at most `isize::MAX`
/// as in every `Layout`.
#[inline]
pub(super) const fn chunk_size(size: usize) -> usize {
    // At most isize::MAX + CHUNK_OVERHEAD + CHUNK_UNIT - 1: no overflow.
    let size = (size + (CHUNK_OVERHEAD + CHUNK_UNIT - 1)) & !(CHUNK_UNIT - 1);
    if size < MIN_CHUNK { MIN_CHUNK } else { size }
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
