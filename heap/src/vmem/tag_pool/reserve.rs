//! The static reserve of a tag pool.
//!
//! ```text
//!  reserve   tag 0      tag 1      tag 2      tag 3      tag 4 …
//!            in use     free       in use     free       not touched yet
//!                       next: –               next: 1
//!                                             ▲ first: 3   ▲ touched: 4
//! ```
//!
//! Free tags refer to each other by number, not by address: a pool may be moved while no arena uses
//! it, and its reserve moves with it.

use core::ptr::NonNull;

use super::super::BoundaryTag;

/// The end of the list of free tags.
const NONE: usize = usize::MAX;

/// The free tags of a reserve: a list of freed tags, and all tags that were never in use.
pub(super) struct FreeReserve {
    /// The number of the tag that was freed last, or `NONE`.
    first: usize,
    /// The number of tags that have ever been in use.
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
    /// * All calls concern the same reserve. It may have been moved in between, with its contents.
    /// * No other code uses its free tags.
    pub(super) unsafe fn allocate(
        &mut self,
        start: NonNull<BoundaryTag>,
        size: usize,
    ) -> Option<NonNull<BoundaryTag>> {
        let number = if self.first != NONE {
            self.first
        } else if self.touched < size {
            self.touched += 1;
            // SAFETY: `touched` was less than `size`, so this tag lies in the reserve.
            return Some(unsafe { start.add(self.touched - 1) });
        } else {
            return None;
        };
        // SAFETY: `deallocate` put this number into the list, for a tag in the reserve.
        let tag = unsafe { start.add(number) };
        // SAFETY: `deallocate` wrote a number there, and no other code has used the tag since. The
        // number is not in padding of a tag, so a move of the reserve copied it.
        self.first = unsafe { tag.cast::<usize>().read() };
        Some(tag)
    }

    /// Returns a tag to the reserve at `start`.
    ///
    /// # Safety
    /// * The duties of [`allocate`](Self::allocate), from which `tag` came.
    /// * The tag is no longer in use, and the reserve has not been moved since.
    pub(super) unsafe fn deallocate(
        &mut self,
        start: NonNull<BoundaryTag>,
        tag: NonNull<BoundaryTag>,
    ) {
        // SAFETY: by the caller's contract both pointers lead into the reserve, and to tags.
        let number = unsafe { tag.offset_from(start) }.unsigned_abs();
        // SAFETY: a tag is larger than a number and at least as aligned, and no longer in use.
        unsafe { tag.cast::<usize>().write(self.first) };
        self.first = number;
    }
}
