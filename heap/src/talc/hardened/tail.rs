//! The tail, which says above each allocation what it is.
//!
//! ```text
//!   base           + requested      end - 5 words                         end - 1 word
//!    ┌──────────────┬────────────────┬────────┬──────┬───────────┬───────┬─────┐
//!    │ allocation … │ 0xbb 0xbb …    │ canary │ size │ requested │ align │ tag │
//!    └──────────────┴────────────────┴────────┴──────┴───────────┴───────┴─────┘
//! ```
//!
//! Whoever writes past the end of an allocation changes the filling or the canary first. The canary
//! is computed from the address, from all that the tail says and from a key, so that bytes which
//! happen to be there, or were copied from another tail, are no tail.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::chunk::{CHUNK_OVERHEAD, distance};
use super::super::tag::TAG_SIZE;
use super::poison::POISON;
use super::report::{Misuse, Report};

/// Bytes of a tail.
pub(in super::super) const TAIL_SIZE: usize = size_of::<Tail>();

/// What is between an allocation's end and its tail: as in illumos' kmem, the *redzone byte*.
const FILLING: u8 = 0xbb;

/// What is written above an allocation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    canary: usize,
    /// Of the chunk.
    pub(super) size: usize,
    /// Bytes that were asked for.
    requested: usize,
    align: usize,
}

impl Tail {
    /// What the tail of an allocation at `base` must be, in a chunk of `size` bytes.
    pub(super) fn new(key: usize, base: usize, size: usize, layout: Layout) -> Tail {
        let (requested, align) = (layout.size(), layout.align());
        Tail {
            canary: mix(&[key, base, size, requested, align]),
            size,
            requested,
            align,
        }
    }

    /// The canary of a tail that says what this one says, under a chunk that ends at `end`.
    pub(super) fn expected_canary(&self, key: usize, end: usize) -> usize {
        let base = end.wrapping_sub(self.size);
        mix(&[key, base, self.size, self.requested, self.align])
    }

    /// Whether a chunk with this tail, whose canary is right, lies within the `room` bytes below its end.
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

    /// The tail's place under the end of a chunk.
    fn place(end: NonNull<u8>) -> NonNull<Tail> {
        // SAFETY: no chunk is as small as its overhead.
        unsafe { end.byte_sub(CHUNK_OVERHEAD) }.cast()
    }

    /// # Safety
    /// At least the smallest chunk's bytes under `end` are memory of one heap.
    pub(super) unsafe fn ending_at(end: NonNull<u8>) -> Tail {
        // SAFETY: the caller's duty. Ends are multiples of the unit, and what is between tail and end
        // is a word.
        unsafe { Tail::place(end).read() }
    }

    /// Writes the tail of an allocation at `base`, and the filling below it.
    ///
    /// # Safety
    /// A chunk of this size is at `base`, and nothing in it beyond the allocation is in use.
    pub(super) unsafe fn write(self, base: NonNull<u8>) {
        // SAFETY: the chunk has room for both above the allocation.
        unsafe {
            let place = Tail::place(base.byte_add(self.size));
            let end = base.byte_add(self.requested);
            end.write_bytes(FILLING, distance(end, place.cast()));
            place.write(self);
        }
    }

    /// Makes sure that there is no tail under `end` any more.
    ///
    /// # Safety
    /// A chunk that ended there has become larger, and what was its tail is in the allocation.
    pub(super) unsafe fn wipe(end: NonNull<u8>) {
        // SAFETY: the place is in the allocation, and in nobody's use yet.
        unsafe { Tail::place(end).cast::<usize>().write(POISON) };
    }

    /// The address of the first word that differs from what it should be, in the tail under `end`,
    /// the word, and what it should be.
    pub(super) fn first_difference(self, found: Tail, end: NonNull<u8>) -> Option<Report> {
        let words = |tail: Tail| [tail.canary, tail.size, tail.requested, tail.align];
        let (index, (expected, found)) = words(self)
            .into_iter()
            .zip(words(found))
            .enumerate()
            .find(|(_, (expected, found))| expected != found)?;
        Some(Report {
            address: Tail::place(end).addr().get() + index * size_of::<usize>(),
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
    /// This is the tail of an allocation at `base`.
    pub(super) unsafe fn check_filling(self, base: NonNull<u8>) -> Result<(), Report> {
        let filling = self.requested..self.size - CHUNK_OVERHEAD;
        for offset in filling {
            // SAFETY: it is in the chunk.
            let at = unsafe { base.byte_add(offset) };
            // SAFETY: the filling was written with the tail.
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

// The tag follows the tail at once.
const _: () = assert!(CHUNK_OVERHEAD == TAIL_SIZE + TAG_SIZE && TAG_SIZE == size_of::<usize>());

/// A number that depends on all of these.
pub(crate) fn mix(words: &[usize]) -> usize {
    // The golden ratio, for its irregular bits.
    const ODD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;
    words.iter().fold(ODD, |mixed, word| {
        (mixed ^ word)
            .wrapping_mul(ODD)
            .rotate_left(usize::BITS / 2 - 1)
    })
}
