//! The pages of the heap that were unmapped most recently: released with the end of a span, or
//! discarded in the middle. The report of a fault there says that the access came after that.

use crate::sync::InterruptMutex;

/// The number of ranges that are recorded.
const COUNT: usize = 32;

/// A range of pages that was unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmappedRange {
    /// The first address.
    pub base: usize,
    /// The size in bytes.
    pub size: usize,
    /// The first address of the span that the pages were a part of, or all of.
    pub span: usize,
}

impl UnmappedRange {
    pub(super) const fn new(base: usize, size: usize, span: usize) -> Self {
        Self { base, size, span }
    }

    fn contains(&self, address: usize) -> bool {
        address
            .checked_sub(self.base)
            .is_some_and(|offset| offset < self.size)
    }
}

/// A ring buffer of ranges.
struct Ring {
    ranges: [UnmappedRange; COUNT],
    /// The index of the oldest range, which the next one overwrites.
    next: usize,
}

static RING: InterruptMutex<Ring> = InterruptMutex::new(Ring {
    ranges: [UnmappedRange::new(0, 0, 0); COUNT],
    next: 0,
});

/// Records that a range was unmapped.
pub(super) fn record(range: UnmappedRange) {
    RING.lock().push(range);
}

/// Returns the latest range that contains `address`. Returns `None` also if the lock is held.
pub fn try_find(address: usize) -> Option<UnmappedRange> {
    RING.try_lock()?.find(address)
}

impl Ring {
    fn push(&mut self, range: UnmappedRange) {
        self.ranges[self.next] = range;
        self.next = (self.next + 1) % COUNT;
    }

    fn find(&self, address: usize) -> Option<UnmappedRange> {
        let (newer, older) = self.ranges.split_at(self.next);
        newer
            .iter()
            .rev()
            .chain(older.iter().rev())
            .find(|range| range.contains(address))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNT, Ring, UnmappedRange};

    #[test]
    fn the_latest_range_with_an_address_is_found() {
        let mut ring = Ring {
            ranges: [UnmappedRange::new(0, 0, 0); COUNT],
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
