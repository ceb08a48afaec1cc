//! Which gaps have not changed for a while.

use core::cell::Cell;

use crate::span::Span;

const SETS: usize = 32;
const WAYS: usize = 4;

/// The gaps that one pass over the free lists has seen: a hash of the bounds of each. A set that is
/// full takes no more.
struct Seen([[Cell<usize>; WAYS]; SETS]);

impl Seen {
    const fn new() -> Self {
        Self([const { [const { Cell::new(0) }; WAYS] }; SETS])
    }

    fn contains(&self, hash: usize) -> bool {
        self.0[hash % SETS].iter().any(|it| it.get() == hash)
    }

    fn insert(&self, hash: usize) {
        if let Some(free) = self.0[hash % SETS].iter().find(|it| it.get() == 0) {
            free.set(hash);
        }
    }
}

/// Tells gaps that have the same bounds as at the last pass from others.
///
/// The gaps themselves have no room for a mark: one would have to read memory that may never have
/// been written. So the marks are kept here, for a bounded number of gaps. A gap that found no room
/// waits for another pass.
pub(super) struct IdleGaps {
    before: Seen,
    now: Seen,
}

impl IdleGaps {
    pub(super) const fn new() -> Self {
        Self {
            before: Seen::new(),
            now: Seen::new(),
        }
    }

    /// Begins another pass.
    pub(super) fn begin_pass(&mut self) {
        self.before = core::mem::replace(&mut self.now, Seen::new());
    }

    /// Returns whether the last pass has seen this gap. If not, notes that this one has.
    pub(super) fn is_idle(&self, gap: Span) -> bool {
        let bounds = gap.base().addr() ^ gap.size().rotate_left(usize::BITS / 2 - 1);
        // Zero marks a free place.
        let hash = (crate::vmem::priority_of(bounds) as usize).max(1);
        let is_idle = self.before.contains(hash);
        if !is_idle {
            self.now.insert(hash);
        }
        is_idle
    }
}
