//! The boundary tags that an arena keeps in hand: from the supply, and back.
//!
//! An operation makes sure of all the tags it may take before it changes anything, so that it cannot
//! fail half-way. The supply is only called while the arena is not locked.

use core::ptr::NonNull;

use super::segment::Tag;
use super::stash::Stash;
use super::tags::Page;
use super::{Allocator, Arena, Error, Lock, Locked, Result};

/// How many tags an operation may take: two for a new span, two for a split.
pub(super) const PER_OPERATION: usize = 4;
/// How many tags an arena keeps in hand that only shrinking may take.
pub(super) const RESERVE: usize = 2;
/// How many tags an arena has in hand after it went to its supply …
const REFILL: usize = 16;
/// … and above how many it gives some back.
const SPILL: usize = 32;

impl<A: Allocator, L: Lock> Arena<'_, '_, A, L> {
    /// Locks the arena, with tags in hand for any operation.
    pub(super) fn secure(&self) -> Result<Locked<'_, L>> {
        let state = self.lock();
        if state.is_ready() {
            return Ok(state);
        }
        self.restock(state, PER_OPERATION + RESERVE)
    }

    /// Gets tags from the supply until at least `needed` are in hand, and the page that the index
    /// wants.
    #[cold]
    pub(super) fn restock<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        needed: usize,
    ) -> Result<Locked<'a, L>> {
        // A supply that restocks itself when an operation is done gets a second chance.
        let mut chances = 2;
        loop {
            let missing = REFILL.saturating_sub(state.stash.len());
            let ask_page = state.index.ask_page();
            drop(state);

            let mut tags = Stash::new();
            while tags.len() < missing {
                let Some(memory) = self.allocator.allocate() else {
                    break;
                };
                // SAFETY: the memory comes from the supply, and goes back there from a stash only.
                tags.put(unsafe { Tag::new(memory) });
            }
            let page = ask_page.then(|| self.allocator.allocate_page());
            self.allocator.done();

            state = self.lock();
            if let Some(page) = page {
                // SAFETY: the page comes from the supply, and goes back there when the index gives
                // it up.
                unsafe { state.index.supply_page(page) };
            }
            chances -= usize::from(tags.len() == 0);
            state.stash.append(tags);
            if state.stash.len() >= needed {
                return Ok(state);
            }
            if chances == 0 {
                return Err(Error::AllocatorError);
            }
        }
    }

    /// Ends an operation: what is in hand beyond need goes back to the supply.
    #[inline]
    pub(super) fn finish(&self, state: Locked<'_, L>) {
        if state.stash.len() > SPILL || state.index.is_sparse() {
            self.spill(state);
        }
    }

    #[cold]
    fn spill(&self, mut state: Locked<'_, L>) {
        let len = state.stash.len();
        let tags = state
            .stash
            .split(if len > SPILL { len - REFILL } else { 0 });
        state.index.shrink();
        let page = if state.index.has_idle_page() {
            state.index.take_page()
        } else {
            None
        };
        drop(state);
        if tags.len() > 0 || page.is_some() {
            self.give_back_memory(tags, page);
        }
    }

    /// Gives tags and a page back to the supply. The lock is not held.
    pub(super) fn give_back_memory(&self, mut tags: Stash, page: Option<NonNull<Page>>) {
        while let Some(tag) = tags.pop() {
            // SAFETY: the tag came from the supply, and is in no stash or structure any more.
            unsafe { self.allocator.deallocate(tag.into_memory()) };
        }
        if let Some(page) = page {
            // SAFETY: the page came from the supply, and the index has given it up.
            unsafe { self.allocator.deallocate_page(page) };
        }
        self.allocator.done();
    }
}
