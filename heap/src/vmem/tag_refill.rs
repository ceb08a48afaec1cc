//! The boundary tags that an arena keeps in hand: from the supply, and back.
//!
//! An operation makes sure of all the tags it may take before it changes anything, so that it cannot
//! fail half-way. The supply is only called while the arena is not locked.

use core::ptr::NonNull;

use super::boundary_tag::TagRef;
use super::tag_cache::TagCache;
use super::tag_supply::Page;
use super::{Arena, Error, Lock, Locked, Result, TagSupply};

/// How many tags an operation may take: two for a new span, two for a split.
pub(super) const TAGS_PER_OPERATION: usize = 4;
/// How many tags an arena keeps in hand that only shrinking may take.
pub(super) const SHRINK_RESERVE: usize = 2;
/// How many tags an arena has in hand after it went to its supply …
const REFILL_TO: usize = 16;
/// … and above how many it gives some back.
const DRAIN_ABOVE: usize = 32;

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Locks the arena, with tags in hand for any operation.
    pub(super) fn lock_with_tags(&self) -> Result<Locked<'_, L>> {
        let state = self.lock();
        if state.is_ready() {
            return Ok(state);
        }
        self.refill_tags(state, TAGS_PER_OPERATION + SHRINK_RESERVE)
    }

    /// Gets tags from the supply until at least `needed` are in hand, and the page that the index
    /// wants.
    #[cold]
    pub(super) fn refill_tags<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        needed: usize,
    ) -> Result<Locked<'a, L>> {
        // A supply that restocks itself when an operation is done gets a second chance.
        let mut chances = 2;
        loop {
            let missing = REFILL_TO.saturating_sub(state.tag_cache.len());
            let begin_page_request = state.index.begin_page_request();
            drop(state);

            let mut tags = TagCache::new();
            while tags.len() < missing {
                let Some(memory) = self.allocator.allocate() else {
                    break;
                };
                // SAFETY: the memory comes from the supply, and goes back there from a stash only.
                tags.put(unsafe { TagRef::new(memory) });
            }
            let page = begin_page_request.then(|| self.allocator.allocate_page());
            self.allocator.done();

            state = self.lock();
            if let Some(page) = page {
                // SAFETY: the page comes from the supply, and goes back there when the index gives
                // it up.
                unsafe { state.index.finish_page_request(page) };
            }
            chances -= usize::from(tags.len() == 0);
            state.tag_cache.append(tags);
            if state.tag_cache.len() >= needed {
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
        if state.tag_cache.len() > DRAIN_ABOVE || state.index.is_sparse() {
            self.drain_tags(state);
        }
    }

    #[cold]
    fn drain_tags(&self, mut state: Locked<'_, L>) {
        let len = state.tag_cache.len();
        let tags = state.tag_cache.split(if len > DRAIN_ABOVE {
            len - REFILL_TO
        } else {
            0
        });
        state.index.shrink();
        let page = if state.index.has_idle_page() {
            state.index.take_page()
        } else {
            None
        };
        drop(state);
        if tags.len() > 0 || page.is_some() {
            self.return_to_supply(tags, page);
        }
    }

    /// Gives tags and a page back to the supply. The lock is not held.
    pub(super) fn return_to_supply(&self, mut tags: TagCache, page: Option<NonNull<Page>>) {
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
