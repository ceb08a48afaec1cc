//! What binds a source to the allocator that it serves.
//!
//! Anybody may take the source out of an allocator, drop it or put it into another. So a source that
//! would give memory back must know whether the allocator with that memory is gone, and whether the one
//! that calls is the one that it serves. A flag beside the list heads, in the first heap, tells:
//!
//! ```text
//!     Talc ── Tie ──┐                  dropped before the source that is in the allocator
//!                   ├──> the flag      false until the allocator is gone
//!     source ─ Bond ┘
//! ```

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

/// In an allocator, the flag that says when it is gone, if it has a source that wants to know.
pub(crate) struct Tie(Option<NonNull<AtomicBool>>);

impl Tie {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(None)
    }
}

impl Drop for Tie {
    #[inline]
    fn drop(&mut self) {
        if let Some(flag) = self.0 {
            // SAFETY: the source leaves the memory until this is said.
            unsafe { flag.as_ref() }.store(true, Ordering::Release);
        }
    }
}

/// In a source (or its records), the flag of the allocator that it serves, once it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bond(Option<NonNull<AtomicBool>>);

impl Bond {
    #[inline]
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// Whether the allocator with this tie is the one that is served, or the first that can be.
    #[inline]
    pub(super) fn serves(&self, tie: &Tie) -> bool {
        self.0 == tie.0
    }

    /// Binds a source to the allocator with this tie and this flag, which [`serves`](Self::serves) has
    /// admitted.
    ///
    /// # Safety
    /// The flag is valid until the source sees that it is set.
    #[inline]
    pub(super) unsafe fn fasten(&mut self, tie: &mut Tie, flag: NonNull<AtomicBool>) {
        tie.0 = Some(flag);
        self.0 = Some(flag);
    }

    /// Whether there is an allocator that may use what the source has provided.
    #[inline]
    pub(super) fn is_in_use(&self) -> bool {
        // SAFETY: flags are valid until they are seen to be set.
        let is_set = |flag: NonNull<AtomicBool>| unsafe { flag.as_ref() }.load(Ordering::Acquire);
        self.0.is_some_and(|flag| !is_set(flag))
    }
}
