//! How much to grow by, and how much free memory stays at the top of a heap: its *headroom*.
//!
//! The arena source grows by an eighth of what is claimed, within 64 KiB and 2 MiB. It gives pages
//! back when the free top of a heap exceeds twice the headroom, and leaves one headroom. The
//! difference is hysteresis: allocating and freeing one block across a boundary moves no pages.
//!
//! ```text
//!     free bytes at the top of a heap
//!     0                   2 · headroom
//!     ├─ nothing changes ─┼─ all but one headroom goes back ───>
//! ```
//!
//! The headroom is at least one growth. Blocks larger than it could still make pages *bounce*: go
//! back and come again at once. Each bounce doubles the headroom, up to 2 MiB. Giving pages back
//! twice without growth between halves it.

/// The smallest growth, in bytes.
pub(super) const MIN_GROWTH: usize = 64 << 10;
/// The largest growth that the layout does not require, in bytes.
pub(super) const MAX_GROWTH: usize = 2 << 20;

const MAX_BOUNCES: u32 = (MAX_GROWTH / MIN_GROWTH).ilog2();

/// The state of the rules above.
#[derive(Debug)]
pub(super) struct GrowthPolicy {
    /// How often growth directly followed a release, less how often a release followed another. At
    /// most [`MAX_BOUNCES`].
    bounces: u32,
    /// Whether the last change gave pages back.
    released_last: bool,
    /// What the heap that grows is expected to use above its top in one interval, if intervals are
    /// counted. It grows by no more at once, unless more is required.
    expected: Option<usize>,
    /// The base and the top of the heap that grows, at the end of the last interval.
    last_top: (usize, usize),
}

impl GrowthPolicy {
    pub(super) const fn new() -> Self {
        GrowthPolicy {
            bounces: 0,
            released_last: false,
            expected: None,
            last_top: (0, 0),
        }
    }

    /// Returns how many bytes to grow by while the heaps have `claimed` bytes.
    pub(super) fn growth(&self, claimed: usize) -> usize {
        (claimed / 8)
            .min(self.expected.unwrap_or(MAX_GROWTH))
            .clamp(MIN_GROWTH, MAX_GROWTH)
    }

    /// Returns how many free bytes to leave at the top of a heap that gives pages back.
    pub(super) fn headroom(&self, claimed: usize) -> usize {
        self.growth(claimed).max(MIN_GROWTH << self.bounces)
    }

    /// Returns whether empty heaps stay: pages have bounced, so they are probably needed again
    /// soon.
    pub(super) fn retains_empty_heaps(&self) -> bool {
        self.bounces > 0
    }

    /// Records that a heap grew or was claimed.
    pub(super) fn record_growth(&mut self) {
        if self.released_last {
            self.bounces = (self.bounces + 1).min(MAX_BOUNCES);
        }
        self.released_last = false;
    }

    /// Begins another interval: see [`decay`](crate::talc::TalcLock::decay).
    ///
    /// The heap that grows has this `base`. Its free top begins at `top`, and in the interval that
    /// ends it has begun as high as `used`. Returns how many bytes above `top` the next interval is
    /// expected to use: as much as the last added or had in use, but at least three quarters of
    /// what was expected of the last.
    pub(super) fn begin_interval(&mut self, base: usize, top: usize, used: usize) -> usize {
        let (last_base, last_top) = core::mem::replace(&mut self.last_top, (base, top));
        let added = if last_base == base {
            top.saturating_sub(last_top)
        } else {
            0
        };
        let expected = added
            .max(used.saturating_sub(top))
            .max(self.expected.unwrap_or(0) / 4 * 3);
        self.expected = Some(expected);
        expected
    }

    /// Records that pages were given back.
    pub(super) fn record_release(&mut self) {
        if self.released_last {
            self.bounces = self.bounces.saturating_sub(1);
        }
        self.released_last = true;
    }
}
