//! The owner token: how a source knows the allocator that it serves.
//!
//! Safe code can take the source out of an allocator, drop it, or put it into another one. A source
//! that takes heaps back must know two things: whether the allocator with these heaps still exists,
//! and whether the allocator that calls is that one. A flag beside the list heads, in the first
//! heap, tells both:
//!
//! ```text
//!     Talc ── OwnerToken ──┐           dropped before the source that is in the allocator
//!                          ├──> flag   false until the allocator is dropped
//!     source ── OwnerRef ──┘
//! ```

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

/// In an allocator: sets the flag when the allocator is dropped, if a source is bound to it.
pub(crate) struct OwnerToken(Option<NonNull<AtomicBool>>);

impl OwnerToken {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(None)
    }
}

impl Drop for OwnerToken {
    #[inline]
    fn drop(&mut self) {
        if let Some(flag) = self.0 {
            // SAFETY: the bound source keeps the memory of the flag until the flag is set.
            unsafe { flag.as_ref() }.store(true, Ordering::Release);
        }
    }
}

/// In a source and its records: refers to the allocator that the source is bound to, once it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerRef(Option<NonNull<AtomicBool>>);

impl OwnerRef {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Returns whether the source is bound to the allocator with this token, or neither is bound
    /// yet.
    #[inline]
    pub(crate) fn is_bound_to(&self, token: &OwnerToken) -> bool {
        self.0 == token.0
    }

    /// Binds the source to the allocator with this token and this flag.
    /// [`is_bound_to`](Self::is_bound_to) was true for the token.
    ///
    /// # Safety
    /// The flag is valid until the source sees that it is set.
    #[inline]
    pub(crate) unsafe fn bind(&mut self, token: &mut OwnerToken, flag: NonNull<AtomicBool>) {
        token.0 = Some(flag);
        self.0 = Some(flag);
    }

    /// Returns whether the source is bound to an allocator that still exists.
    #[inline]
    pub(crate) fn is_owner_alive(&self) -> bool {
        // SAFETY: the caller of `bind` promised that the flag is valid until it is seen to be set.
        let is_set = |flag: NonNull<AtomicBool>| unsafe { flag.as_ref() }.load(Ordering::Acquire);
        self.0.is_some_and(|flag| !is_set(flag))
    }
}
