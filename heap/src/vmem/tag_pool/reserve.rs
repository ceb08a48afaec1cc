//! The static reserve of a tag pool.
//!
//! ```text
//!  reserve   tag 0      tag 1      tag 2      tag 3      tag 4 …
//!            in use     free       in use     free       not touched yet
//!                       next: –               next: 1
//!                                             ▲ first: 3   ▲ touched: 4
//! ```
//!
//! Free tags name each other by number, not by address: a pool may be moved while no arena uses it,
//! and its reserve moves with it.

use core::ptr::NonNull;

use super::super::BoundaryTag;

/// Says that no free tag follows.
const NONE: usize = usize::MAX;

/// Which tags of a reserve are free.
pub(super) struct FreeReserve {
    /// The number of the tag that was freed last, or `NONE`.
    first: usize,
    /// How many tags have ever been in use.
    touched: usize,
}

impl FreeReserve {
    pub(super) const fn new() -> Self {
        Self {
            first: NONE,
            touched: 0,
        }
    }

    /// Takes a tag from the reserve of `size` tags at `start`, if one is free.
    ///
    /// # Safety
    /// All calls are about the same reserve, which may have been moved in between with what is in
    /// it. Its free tags are not used by anybody else.
    pub(super) unsafe fn allocate(
        &mut self,
        start: NonNull<BoundaryTag>,
        size: usize,
    ) -> Option<NonNull<BoundaryTag>> {
        let number = if self.first != NONE {
            self.first
        } else if self.touched < size {
            self.touched += 1;
            // SAFETY: the reserve has more than this many tags.
            return Some(unsafe { start.add(self.touched - 1) });
        } else {
            return None;
        };
        // SAFETY: a number in the list is that of a tag of the reserve.
        let tag = unsafe { start.add(number) };
        // SAFETY: `deallocate` wrote the number there, and the memory has been ours since. It is not
        // padding of a tag, so it has moved with the reserve.
        self.first = unsafe { tag.cast::<usize>().read() };
        Some(tag)
    }

    /// Puts back a tag of the reserve at `start`.
    ///
    /// # Safety
    /// As for [`allocate`](Self::allocate), from which `tag` came. It is not used any more, and the
    /// reserve has not been moved since.
    pub(super) unsafe fn deallocate(
        &mut self,
        start: NonNull<BoundaryTag>,
        tag: NonNull<BoundaryTag>,
    ) {
        // SAFETY: both lie in the reserve, a whole number of tags apart.
        let number = unsafe { tag.offset_from(start) }.unsigned_abs();
        // SAFETY: the memory of a tag is valid, aligned for a number, and ours again.
        unsafe { tag.cast::<usize>().write(self.first) };
        self.first = number;
    }
}
