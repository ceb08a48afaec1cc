//! The layout of a heap: where chunks lie, and how large they are.
//!
//! ```text
//!          base tag                                                       heap end
//!             |                                                              |
//!      ┄┄┄┄┄┄┬─┬───────────────┬───────────────┬─────────────┬───────────────┐┄┄┄┄┄
//!      unused│t│ list heads  t │ allocation  t │     gap     │ allocation  t │ unused
//!      ┄┄┄┄┄┄┴─┴───────────────┴───────────────┴─────────────┴───────────────┘┄┄┄┄┄
//!              ^               ^               ^             ^               ^
//!              multiples of CHUNK_UNIT
//! ```
//!
//! Chunks and gaps tile a heap: from the first multiple of [`CHUNK_UNIT`] that leaves room for the
//! base tag, up to the last. Each chunk ends with a [tag](super::tag). Each gap begins with a
//! [header](super::gap_header) and ends with its extent. Two gaps never touch.
//!
//! The unit is half of the smallest chunk. A gap of one unit is a *sliver*: too small for a chunk
//! and for the links of a free list. A sliver is in no list until a neighbour is freed and
//! coalesces with it.

use core::ptr::NonNull;

use super::hardened::{HEAP_RECORD_SIZE, REDZONE_SIZE};
use super::tag::TAG_SIZE;

/// Chunks begin at multiples of `CHUNK_UNIT` bytes, and their sizes are multiples of it.
///
/// ```text
///     0x1000          0x1010          0x1020          0x1030     64-bit: one column is one byte
///     ├─ unit ────────┼─ unit ────────┼─ unit ────────┤
///     │ the smallest chunk           t│                          allocations of 1 to 31 bytes
///     │ a chunk of three units                       t│          32 to 47 bytes
///     │ a sliver: free│                                          in no free list
///     │ the smallest gap in a list    │
/// ```
///
/// 16 bytes, or 8 on 32-bit machines. An alignment up to the unit costs nothing.
pub const CHUNK_UNIT: usize = 2 * size_of::<usize>();

/// Bytes of a chunk beyond those of its allocation, before the sum is rounded up to [`CHUNK_UNIT`]:
/// the tag, and with `hardened` a redzone. The smallest chunk is two units.
///
/// ```text
///     ├─ 40 bytes ─────────────┼─ 7 unused ──┼─ tag: 1 ─┤                default: a chunk of 48
///     ├─ 40 bytes ─────────────┼─ redzone: 32 ───────────┼─ tag: 8 ─┤     hardened: a chunk of 80
/// ```
///
/// | machine, build | bytes |
/// |---|---|
/// | 64-bit little-endian | 1 |
/// | 32-bit; 64-bit big-endian | 4; 8 |
/// | with `hardened`: 64-bit; 32-bit | 40; 20 |
pub const CHUNK_OVERHEAD: usize = REDZONE_SIZE + TAG_SIZE;

/// Bytes of a heap below its first chunk or gap, before the address is rounded up to
/// [`CHUNK_UNIT`]: the base tag, and with `hardened` a record.
///
/// ```text
///     0x1000          0x1010          0x1020              one column is one byte, t the tag
///     ├──────────────t├ the first chunk or gap …          a heap claimed from 0x1000 up
///                    t├ the first chunk or gap …          from 0x100f up
///                     ├──────────────t├ the first …       from 0x1010 up: no room for it below
/// ```
///
/// The same as [`CHUNK_OVERHEAD`]; but 48 with `hardened`, or 24 on 32-bit machines.
pub const HEAP_OVERHEAD: usize = HEAP_RECORD_SIZE + TAG_SIZE;

/// The size of the smallest chunk, which when freed has room for the header and the last word of a
/// gap.
pub(super) const MIN_CHUNK: usize = 2 * CHUNK_UNIT;

/// Returns the size of the chunk for an allocation of `size` bytes: at most `isize::MAX`, as in
/// every `Layout`.
#[inline]
pub(super) const fn chunk_size(size: usize) -> usize {
    // At most isize::MAX + CHUNK_OVERHEAD + CHUNK_UNIT - 1: no overflow.
    let size = (size + (CHUNK_OVERHEAD + CHUNK_UNIT - 1)) & !(CHUNK_UNIT - 1);
    if size < MIN_CHUNK { MIN_CHUNK } else { size }
}

/// Returns [`chunk_size`], or `None` for a size that no `Layout` has.
#[inline]
pub(super) const fn checked_chunk_size(size: usize) -> Option<usize> {
    if size <= isize::MAX as usize {
        Some(chunk_size(size))
    } else {
        None
    }
}

/// Rounds `addr` down to a multiple of [`CHUNK_UNIT`].
#[inline]
pub(super) const fn unit_floor(addr: usize) -> usize {
    addr & !(CHUNK_UNIT - 1)
}

/// Rounds `addr` up to a multiple of [`CHUNK_UNIT`], or returns `None` past the end of the address
/// space.
#[inline]
pub(super) const fn unit_ceil(addr: usize) -> Option<usize> {
    addr.checked_next_multiple_of(CHUNK_UNIT)
}

/// Returns the bytes from `base` up to `end`.
#[inline]
pub(super) fn distance(base: NonNull<u8>, end: NonNull<u8>) -> usize {
    end.addr().get() - base.addr().get()
}
