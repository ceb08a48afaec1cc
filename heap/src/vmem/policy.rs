//! How an arena chooses among the free segments that fit.

/// Which of the free segments that fit is taken.
///
/// Every policy honours every constraint of a [`Layout`](super::Layout). The names are those of
/// Bonwick and Adams.
///
/// A request of 37, with quantum 1 and the last `NextFit` allocation below 100. Up to 32 quanta
/// each size is a class of its own; here 36 to 39 are one, and 40 to 43:
///
/// ```text
///    0            38    40              81    100                160  200
///    ├────────────┬─────┬───────────────┬─────┬──────────────────┬────┤
///    │ free 38    │█████│ free 41       │█████│ free 60          │████│
///    └────────────┴─────┴───────────────┴─────┴──────────────────┴────┘
///     ▲                  ▲                     ▲
///     BestFit: 0         InstantFit: 40        NextFit: 100
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// let arena = Arena::<_, Lock>::create("numbers", 1, None, &tags)?;
/// arena.add_span(0, 200)?;
/// arena.free(arena.alloc(100, AllocPolicy::NextFit)?)?;
/// for (base, end) in [(38, 40), (81, 100), (160, 200)] {
///     arena.xalloc_at(base, end - base)?;
/// }
/// use AllocPolicy::{BestFit, InstantFit, NextFit};
/// for (policy, base) in [(BestFit, 0), (InstantFit, 40), (NextFit, 100)] {
///     assert_eq!(arena.alloc(37, policy), Ok(base));
///     arena.free(base)?;
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllocPolicy {
    /// A segment that is sure to fit, found in constant time: the first of the lowest class all of
    /// whose segments fit. On a miss 16 segments that may fit are looked at before the arena
    /// imports, and all of them before it refuses.
    #[default]
    InstantFit,
    /// The smallest segment that fits. At most the free segments of two size classes are looked
    /// at, unless the layout is constrained: then it can be all that are large enough.
    BestFit,
    /// The next free address after the last such allocation, wrapping at the end: what is freed is
    /// not used again before the wrap. Walks over the segments in between.
    NextFit,
}
