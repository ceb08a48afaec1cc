//! The redzone, which says above each allocation what it is.
//!
//! ```text
//!   base           + requested      end - 5 words                         end - 1 word
//!    ┌──────────────┬────────────────┬────────┬──────┬───────────┬───────┬─────┐
//!    │ allocation … │ 0xbb 0xbb …    │ canary │ size │ requested │ align │ tag │
//!    └──────────────┴────────────────┴────────┴──────┴───────────┴───────┴─────┘
//! ```
//!
//! Whoever writes past the end of an allocation changes the filling or the canary first. The canary
//! is computed from the address, from all that the redzone says and from a key, so that bytes which
//! happen to be there, or were copied from another redzone, are no redzone.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::chunk::{CHUNK_OVERHEAD, distance};
use super::super::tag::TAG_SIZE;
use super::poison::POISON;
use super::report::{Misuse, Report};

/// Bytes of a redzone.
pub(in super::super) const REDZONE_SIZE: usize = size_of::<Redzone>();

/// What is between an allocation's end and its redzone: as in illumos' kmem, the *redzone byte*.
const FILLING: u8 = 0xbb;

/// What is written above an allocation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Redzone {
    canary: usize,
    /// Of the chunk.
    pub(super) size: usize,
    /// Bytes that were asked for.
    requested: usize,
    align: usize,
}

impl Redzone {
    /// What the redzone of an allocation at `base` must be, in a chunk of `size` bytes.
    pub(super) fn new(key: usize, base: usize, size: usize, layout: Layout) -> Redzone {
        let (requested, align) = (layout.size(), layout.align());
        Redzone {
            canary: checksum(&[key, base, size, requested, align]),
            size,
            requested,
            align,
        }
    }

    /// The canary of a redzone that says what this one says, under a chunk that ends at `end`.
    pub(super) fn expected_canary(&self, key: usize, end: usize) -> usize {
        let base = end.wrapping_sub(self.size);
        checksum(&[key, base, self.size, self.requested, self.align])
    }

    /// Whether a chunk with this redzone, whose canary is right, lies within the `room` bytes below its end.
    #[inline]
    pub(super) fn fits(&self, room: usize) -> bool {
        self.size <= room
    }

    pub(super) fn canary(&self) -> usize {
        self.canary
    }

    /// With which the allocation was made. The canary is right.
    pub(super) fn layout(&self) -> Layout {
        // SAFETY: the canary says that this comes from a layout.
        unsafe { Layout::from_size_align_unchecked(self.requested, self.align) }
    }

    /// The redzone's place under the end of a chunk.
    fn place(end: NonNull<u8>) -> NonNull<Redzone> {
        // SAFETY: no chunk is as small as its overhead.
        unsafe { end.byte_sub(CHUNK_OVERHEAD) }.cast()
    }

    /// # Safety
    /// At least the smallest chunk's bytes under `end` are memory of one heap.
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Redzone {
        // SAFETY: the caller's duty. Ends are multiples of the unit, and what is between redzone and end
        // is a word.
        unsafe { Redzone::place(end).read() }
    }

    /// Writes the redzone of an allocation at `base`, and the filling below it.
    ///
    /// # Safety
    /// A chunk of this size is at `base`, and nothing in it beyond the allocation is in use.
    pub(super) unsafe fn write(self, base: NonNull<u8>) {
        // SAFETY: the chunk has room for both above the allocation.
        unsafe {
            let place = Redzone::place(base.byte_add(self.size));
            let end = base.byte_add(self.requested);
            end.write_bytes(FILLING, distance(end, place.cast()));
            place.write(self);
        }
    }

    /// Makes sure that there is no redzone under `end` any more.
    ///
    /// # Safety
    /// A chunk that ended there has become larger, and what was its redzone is in the allocation.
    pub(super) unsafe fn wipe(end: NonNull<u8>) {
        // SAFETY: the place is in the allocation, and in nobody's use yet.
        unsafe { Redzone::place(end).cast::<usize>().write(POISON) };
    }

    /// The address of the first word that differs from what it should be, in the redzone under `end`,
    /// the word, and what it should be.
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
            address: Redzone::place(end).addr().get() + index * size_of::<usize>(),
            misuse: Misuse::WriteBeyondEnd {
                block: Some(end.addr().get() - self.size),
                expected,
                found,
            },
        })
    }

    /// The first byte of the filling that has changed.
    ///
    /// # Safety
    /// This is the redzone of an allocation at `base`.
    pub(super) unsafe fn check_filling(self, base: NonNull<u8>) -> Result<(), Report> {
        let filling = self.requested..self.size - CHUNK_OVERHEAD;
        for offset in filling {
            // SAFETY: it is in the chunk.
            let at = unsafe { base.byte_add(offset) };
            // SAFETY: the filling was written with the redzone.
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

// The tag follows the redzone at once.
const _: () = assert!(CHUNK_OVERHEAD == REDZONE_SIZE + TAG_SIZE && TAG_SIZE == size_of::<usize>());

/// A number that depends on all of these.
pub(crate) fn checksum(words: &[usize]) -> usize {
    // The golden ratio, for its irregular bits.
    const ODD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;
    words.iter().fold(ODD, |mixed, word| {
        (mixed ^ word)
            .wrapping_mul(ODD)
            .rotate_left(usize::BITS / 2 - 1)
    })
}
