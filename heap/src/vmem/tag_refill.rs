//! Refilling the tag cache of an arena from its supply, and draining it.
//!
//! An operation makes sure of all tags that it may take before it changes anything, so it cannot
//! fail half-way. The supply is called without the lock held.

use core::ptr::NonNull;

use super::boundary_tag::TagRef;
use super::tag_cache::TagCache;
use super::tag_supply::Page;
use super::{Arena, Error, Lock, Locked, Result, TagSupply};

/// The number of tags that an operation may take: two for a new span, two to divide a segment.
pub(super) const TAGS_PER_OPERATION: usize = 4;
/// The number of cached tags that only shrinking may take.
pub(super) const SHRINK_RESERVE: usize = 2;
/// The number of cached tags after a refill or a drain …
const REFILL_TO: usize = 16;
/// … and the number above which the cache is drained.
const DRAIN_ABOVE: usize = 32;

impl<A: TagSupply, L: Lock> Arena<'_, '_, A, L> {
    /// Locks the arena, with enough cached tags for any operation. (illumos: `vmem_populate`.)
    ///
    /// # Errors
    /// [`Error::AllocatorError`].
    pub(super) fn lock_with_tags(&self) -> Result<Locked<'_, L>> {
        let state = self.lock();
        if state.is_ready() {
            return Ok(state);
        }
        self.refill_tags(state, TAGS_PER_OPERATION + SHRINK_RESERVE)
    }

    /// Refills the tag cache until it has at least `needed` tags, and gets a page for the index if
    /// a request is due. Releases the lock during calls to the supply.
    ///
    /// # Errors
    /// [`Error::AllocatorError`] if the supply has too few tags. The lock is released then.
    #[cold]
    pub(super) fn refill_tags<'a>(
        &'a self,
        mut state: Locked<'a, L>,
        needed: usize,
    ) -> Result<Locked<'a, L>> {
        // A second attempt follows an empty one: the supply may get memory in `done`.
        let mut attempts = 2;
        loop {
            let missing = REFILL_TO.saturating_sub(state.tag_cache.len());
            let begin_page_request = state.index.begin_page_request();
            drop(state);

            let mut tags = TagCache::new();
            while tags.len() < missing {
                let Some(memory) = self.tag_supply.allocate() else {
                    break;
                };
                // SAFETY: the memory comes from the supply, which lends it to this arena alone, and
                // is returned by `return_to_supply` only, when no structure contains the tag.
                tags.put(unsafe { TagRef::new(memory) });
            }
            let page = begin_page_request.then(|| self.tag_supply.allocate_page());
            self.tag_supply.done();

            state = self.lock();
            if let Some(page) = page {
                // SAFETY: the page comes from the supply, which lends it to this arena alone, and
                // is returned only after `take_page` has removed it from the index.
                unsafe { state.index.finish_page_request(page) };
            }
            attempts -= usize::from(tags.len() == 0);
            state.tag_cache.append(tags);
            if state.tag_cache.len() >= needed {
                return Ok(state);
            }
            if attempts == 0 {
                return Err(Error::AllocatorError);
            }
        }
    }

    /// Ends an operation and releases the lock. Drains the tag cache and shrinks the index if they
    /// have become too large.
    #[inline]
    pub(super) fn finish(&self, state: Locked<'_, L>) {
        if state.tag_cache.len() > DRAIN_ABOVE || state.index.is_sparse() {
            self.drain_tags(state);
        }
    }

    /// Returns surplus tags and an idle index page to the supply.
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

    /// Returns tags and a page to the supply. The caller does not hold the lock.
    pub(super) fn return_to_supply(&self, mut tags: TagCache, page: Option<NonNull<Page>>) {
        while let Some(tag) = tags.pop() {
            // SAFETY: the tag came from the supply, and `pop` removed it from the last structure
            // that contained it.
            unsafe { self.tag_supply.deallocate(tag.into_memory()) };
        }
        if let Some(page) = page {
            // SAFETY: the page came from the supply, and `take_page` removed it from the index.
            unsafe { self.tag_supply.deallocate_page(page) };
        }
        self.tag_supply.done();
    }
}
