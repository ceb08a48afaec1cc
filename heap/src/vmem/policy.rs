//! How an arena chooses among the free segments that fit.

/// Which of the free segments that fit is taken.
///
/// Every policy honours every constraint of a [`Layout`](super::Layout).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllocPolicy {
    /// A segment that is sure to fit, found in constant time. On a miss a bounded number of
    /// segments that may fit is looked at before the arena imports, and all of them before it
    /// refuses.
    #[default]
    InstantFit,
    /// The smallest segment that fits. At most the free segments of two size classes are looked
    /// at, unless the layout is constrained: then it can be all that are large enough.
    BestFit,
    /// The next free address after the last such allocation, wrapping at the end: what is freed is
    /// not used again before the wrap. Walks over the segments in between.
    NextFit,
}
