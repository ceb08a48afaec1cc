//! Which pages of the heap were given back lately. Whoever touches one of them afterwards gets a
//! fault report that says so.

use crate::sync::InterruptMutex;

/// How many releases are remembered.
const COUNT: usize = 32;

/// Pages that were given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// The first address.
    pub base: usize,
    /// The size in bytes.
    pub size: usize,
    /// Where the range began that they were the end of, or all of.
    pub range: usize,
}

impl Release {
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
    releases: [Release; COUNT],
    /// Where the next one is written: over the oldest.
    next: usize,
}

static RING: InterruptMutex<Ring> = InterruptMutex::new(Ring {
    releases: [Release::new(0, 0, 0); COUNT],
    next: 0,
});

pub(super) fn remember(release: Release) {
    RING.lock().push(release);
}

/// The latest release with that address. `None` also when the answer would mean to wait.
pub fn try_find(address: usize) -> Option<Release> {
    RING.try_lock()?.find(address)
}

impl Ring {
    fn push(&mut self, release: Release) {
        self.releases[self.next] = release;
        self.next = (self.next + 1) % COUNT;
    }

    fn find(&self, address: usize) -> Option<Release> {
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
    use super::{COUNT, Release, Ring};

    #[test]
    fn the_latest_release_of_an_address_is_found() {
        let mut ring = Ring {
            releases: [Release::new(0, 0, 0); COUNT],
            next: 0,
        };
        assert_eq!(ring.find(0), None);
        for index in 0..COUNT + 3 {
            ring.push(Release::new(0x1000 * index, 0x2000, 0));
        }
        assert_eq!(ring.find(0x2fff), None, "overwritten");
        assert_eq!(ring.find(0x3000), Some(Release::new(0x3000, 0x2000, 0)));
        assert_eq!(ring.find(0x4000), Some(Release::new(0x4000, 0x2000, 0)));
        let last = 0x1000 * (COUNT + 2);
        assert_eq!(ring.find(last), Some(Release::new(last, 0x2000, 0)));
        assert_eq!(ring.find(last + 0x2000), None);
    }
}
