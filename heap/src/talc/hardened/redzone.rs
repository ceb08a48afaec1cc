//! The redzone above each allocation: fill bytes, and a description of the allocation.
//!
//! ```text
//!   base           + requested      end - 5 words                         end - 1 word
//!    ┌──────────────┬────────────────┬────────┬──────┬───────────┬───────┬─────┐
//!    │ allocation … │ 0xbb 0xbb …    │ canary │ size │ requested │ align │ tag │
//!    └──────────────┴────────────────┴────────┴──────┴───────────┴───────┴─────┘
//! ```
//!
//! A write past the end of an allocation first changes the fill bytes or the canary. The canary is
//! a checksum of the address, the description and a key. Leftover bytes, or a copy of another
//! redzone, are therefore not taken for a redzone.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::chunk::{CHUNK_OVERHEAD, distance};
use super::super::tag::TAG_SIZE;
use super::poison::POISON;
use super::report::{Misuse, Report};

/// Bytes of a redzone without its fill bytes.
pub(in super::super) const REDZONE_SIZE: usize = size_of::<Redzone>();

/// The fill byte between the end of an allocation and its description: the *redzone byte* of
/// illumos' kmem.
const FILLING: u8 = 0xbb;

/// The description above an allocation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Redzone {
    canary: usize,
    /// The size of the chunk.
    pub(super) size: usize,
    /// The requested size.
    requested: usize,
    align: usize,
}

impl Redzone {
    /// Returns the redzone of an allocation at `base`, in a chunk of `size` bytes.
    pub(super) fn new(key: usize, base: usize, size: usize, layout: Layout) -> Redzone {
        let (requested, align) = (layout.size(), layout.align());
        Redzone {
            canary: checksum(&[key, base, size, requested, align]),
            size,
            requested,
            align,
        }
    }

    /// Returns the canary of this redzone in a chunk that ends at `end`.
    pub(super) fn expected_canary(&self, key: usize, end: usize) -> usize {
        let base = end.wrapping_sub(self.size);
        checksum(&[key, base, self.size, self.requested, self.align])
    }

    /// Returns whether a chunk with this redzone, whose canary is right, lies within the `room`
    /// bytes below its end.
    #[inline]
    pub(super) fn fits(&self, room: usize) -> bool {
        self.size <= room
    }

    pub(super) fn canary(&self) -> usize {
        self.canary
    }

    /// Returns the layout of the allocation. The canary must be right.
    pub(super) fn layout(&self) -> Layout {
        // SAFETY: a right canary means that both values come from a layout.
        unsafe { Layout::from_size_align_unchecked(self.requested, self.align) }
    }

    /// Returns where the redzone of a chunk that ends at `end` lies.
    fn pointer(end: NonNull<u8>) -> NonNull<Redzone> {
        // SAFETY: every chunk is larger than its overhead.
        unsafe { end.byte_sub(CHUNK_OVERHEAD) }.cast()
    }

    /// # Safety
    /// The bytes of the smallest chunk below `end` are memory of one heap.
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Redzone {
        // SAFETY: the smallest chunk contains a redzone. Ends are multiples of the unit, and one
        // word lies between redzone and end, so the redzone is aligned.
        unsafe { Redzone::pointer(end).read() }
    }

    /// Writes the redzone of an allocation at `base`, and the fill bytes below it.
    ///
    /// # Safety
    /// A chunk of this size begins at `base`, and nothing uses its memory above the allocation.
    pub(super) unsafe fn write(self, base: NonNull<u8>) {
        // SAFETY: the chunk has `self.size` bytes.
        let pointer = Redzone::pointer(unsafe { base.byte_add(self.size) });
        // SAFETY: the chunk has the requested bytes, and more.
        let end = unsafe { base.byte_add(self.requested) };
        // SAFETY: nothing uses the bytes of the chunk between the allocation and the redzone.
        unsafe { end.write_bytes(FILLING, distance(end, pointer.cast())) };
        // SAFETY: the chunk has room for the redzone. Ends are multiples of the unit, and one word
        // lies between redzone and end, so the redzone is aligned.
        unsafe { pointer.write(self) };
    }

    /// Overwrites the canary below `end`, so that no redzone is there any more.
    ///
    /// # Safety
    /// A chunk that ended at `end` has become larger, so that its old redzone is inside the chunk.
    pub(super) unsafe fn wipe(end: NonNull<u8>) {
        // SAFETY: the word is inside the chunk, and nothing uses it yet.
        unsafe { Redzone::pointer(end).cast::<usize>().write(POISON) };
    }

    /// Returns the first word that differs in the redzone `found` below `end`, if any: its address,
    /// its value and the expected value.
    pub(super) fn first_difference(self, found: Redzone, end: NonNull<u8>) -> Option<Report> {
        let words = |redzone: Redzone| {
            [
                redzone.canary,
                redzone.size,
                redzone.requested,
                redzone.align,
            ]
        };
        let (index, (expected, found)) = words(self)
            .into_iter()
            .zip(words(found))
            .enumerate()
            .find(|(_, (expected, found))| expected != found)?;
        Some(Report {
            address: Redzone::pointer(end).addr().get() + index * size_of::<usize>(),
            misuse: Misuse::WriteBeyondEnd {
                block: Some(end.addr().get() - self.size),
                expected,
                found,
            },
        })
    }

    /// Returns an error for the first fill byte that has changed.
    ///
    /// # Safety
    /// This is the redzone of an allocation at `base`.
    pub(super) unsafe fn check_filling(self, base: NonNull<u8>) -> Result<(), Report> {
        let filling = self.requested..self.size - CHUNK_OVERHEAD;
        for offset in filling {
            // SAFETY: the fill bytes are in the chunk.
            let at = unsafe { base.byte_add(offset) };
            // SAFETY: the fill bytes were written together with the redzone.
            let found = unsafe { at.read() };
            if found != FILLING {
                return Err(Report {
                    address: at.addr().get(),
                    misuse: Misuse::WriteBeyondEnd {
                        block: Some(base.addr().get()),
                        expected: FILLING.into(),
                        found: found.into(),
                    },
                });
            }
        }
        Ok(())
    }
}

// The tag lies directly above the redzone.
const _: () = assert!(CHUNK_OVERHEAD == REDZONE_SIZE + TAG_SIZE && TAG_SIZE == size_of::<usize>());

/// Returns a checksum of `words`. It detects accidents; it does not resist an attacker.
pub(crate) fn checksum(words: &[usize]) -> usize {
    // The golden ratio, because of its irregular bits.
    const ODD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;
    words.iter().fold(ODD, |mixed, word| {
        (mixed ^ word)
            .wrapping_mul(ODD)
            .rotate_left(usize::BITS / 2 - 1)
    })
}
