//! Which pages of the heap were given back lately. Whoever touches one of them afterwards gets a
//! fault report that says so.

use crate::sync::InterruptMutex;

/// How many releases are remembered.
const COUNT: usize = 32;

/// Pages that were given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmappedRange {
    /// The first address.
    pub base: usize,
    /// The size in bytes.
    pub size: usize,
    /// Where the range began that they were the end of, or all of.
    pub range: usize,
}

impl UnmappedRange {
    pub(super) const fn new(base: usize, size: usize, range: usize) -> Self {
        Self { base, size, range }
    }

    fn contains(&self, address: usize) -> bool {
        address
            .checked_sub(self.base)
            .is_some_and(|offset| offset < self.size)
    }
}

struct Ring {
    releases: [UnmappedRange; COUNT],
    /// Where the next one is written: over the oldest.
    next: usize,
}

static RING: InterruptMutex<Ring> = InterruptMutex::new(Ring {
    releases: [UnmappedRange::new(0, 0, 0); COUNT],
    next: 0,
});

pub(super) fn record(release: UnmappedRange) {
    RING.lock().push(release);
}

/// The latest release with that address. `None` also when the answer would mean to wait.
pub fn try_find(address: usize) -> Option<UnmappedRange> {
    RING.try_lock()?.find(address)
}

impl Ring {
    fn push(&mut self, release: UnmappedRange) {
        self.releases[self.next] = release;
        self.next = (self.next + 1) % COUNT;
    }

    fn find(&self, address: usize) -> Option<UnmappedRange> {
        let (newer, older) = self.releases.split_at(self.next);
        newer
            .iter()
            .rev()
            .chain(older.iter().rev())
            .find(|release| release.contains(address))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNT, Ring, UnmappedRange};

    #[test]
    fn the_latest_release_of_an_address_is_found() {
        let mut ring = Ring {
            releases: [UnmappedRange::new(0, 0, 0); COUNT],
            next: 0,
        };
        assert_eq!(ring.find(0), None);
        for index in 0..COUNT + 3 {
            ring.push(UnmappedRange::new(0x1000 * index, 0x2000, 0));
        }
        assert_eq!(ring.find(0x2fff), None, "overwritten");
        assert_eq!(
            ring.find(0x3000),
            Some(UnmappedRange::new(0x3000, 0x2000, 0))
        );
        assert_eq!(
            ring.find(0x4000),
            Some(UnmappedRange::new(0x4000, 0x2000, 0))
        );
        let last = 0x1000 * (COUNT + 2);
        assert_eq!(ring.find(last), Some(UnmappedRange::new(last, 0x2000, 0)));
        assert_eq!(ring.find(last + 0x2000), None);
    }
}
