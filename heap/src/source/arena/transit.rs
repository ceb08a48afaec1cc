//! Memory on its way: what an allocation waits for before it fails.
//!
//! Between the steps of a call that [gets memory](super::acquire), [drains](super::drain) or
//! [punches](super::punch), the lock of the heap is free, and what the call has reserved is neither
//! free memory of the heap nor of the arena. An allocation elsewhere may fail for want of it:
//!
//! ```text
//!     CPU 0    ├─ drain: 100 pages on their way ────────────────┤
//!     CPU 1           ├─ allocate: refused ─┤ waits for CPU 0 ──┤ allocate: 100 pages are free ─┤
//! ```

use lock_api::RawMutex;

use super::ArenaSource;
use crate::patience;
use crate::talc::base::binning::Binning;
use crate::talc::sync::TalcLock;
use crate::vmem::{Lock, TagSupply};

/// Which calls have memory on its way. Changed under the lock of the heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Transit {
    under_way: usize,
    /// Changes when a call may have been in the way of another, or have made room for it.
    events: usize,
}

impl Transit {
    pub(super) const fn new() -> Self {
        Self {
            under_way: 0,
            events: 0,
        }
    }

    /// A call has reserved memory.
    pub(super) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// A call has ended what it has begun. `has_moved` says whether the memory is elsewhere now.
    pub(super) fn end(&mut self, has_moved: bool) {
        self.under_way -= 1;
        // A call that was alone, and in vain, has changed nothing for others. (Of two that were not
        // alone, the first to end sees the other.)
        if has_moved || self.under_way > 0 {
            self.events = self.events.wrapping_add(1);
        }
    }
}

impl<R: RawMutex, A: TagSupply, L: Lock, B: Binning> TalcLock<R, ArenaSource<'_, A, L>, B> {
    /// Returns what is on its way, for [`wait_for_others`](Self::wait_for_others).
    pub(crate) fn transit(&self) -> Transit {
        self.lock().source.transit
    }

    /// Waits, after an allocation has failed, while others have memory on its way. `before` is
    /// from before the allocation. Returns whether to try again: whether others have ended
    /// something, or have come between.
    ///
    /// Waits for a bounded time.
    pub(crate) fn wait_for_others(&self, before: Transit) -> bool {
        let now = self.transit();
        if now.under_way > 0 {
            let changed = patience::wait(|| (self.transit() != now).then_some(()));
            return changed.is_some();
        }
        now != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Step = fn(&mut Transit);

    /// Returns whether an allocation that saw `before` is tried again after `steps`, by which none
    /// is under way any more.
    fn is_tried_again(before: Transit, steps: &[Step]) -> bool {
        let mut now = before;
        steps.iter().for_each(|step| step(&mut now));
        assert_eq!(now.under_way, 0);
        now != before
    }

    #[test]
    fn an_allocation_is_tried_again_unless_it_was_alone_and_in_vain() {
        let begin = Transit::begin;
        let [moved, in_vain]: [Step; 2] = [|it| it.end(true), |it| it.end(false)];
        let none = Transit::new();
        assert!(!is_tried_again(none, &[]));
        assert!(!is_tried_again(none, &[begin, in_vain, begin, in_vain]));
        // Others have moved memory, before or after.
        assert!(is_tried_again(none, &[begin, moved]));
        assert!(is_tried_again(none, &[begin, in_vain, begin, moved]));
        // Others were in the way, though in vain.
        assert!(is_tried_again(none, &[begin, begin, in_vain, in_vain]));
        let mut other = none;
        other.begin();
        assert!(is_tried_again(other, &[in_vain]));
        assert!(is_tried_again(other, &[begin, in_vain, in_vain]));
    }
}
