//! Allocation policies: how an arena chooses among the free segments that fit.

/// The choice among the free segments that fit.
///
/// Every policy honours every constraint of a [`Layout`](super::Layout). The names are those of
/// Bonwick and Adams.
///
/// The picture shows a request of 37 in an arena of quantum 1. The last `NextFit` allocation ended
/// at 100. Sizes 36 to 39 are one size class, and 40 to 43 the next:
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
    /// Takes the first segment of the lowest size class whose segments all fit. O(1).
    ///
    /// On a miss the arena probes 16 segments that may fit before it imports a span, and all of
    /// them before it refuses.
    #[default]
    InstantFit,
    /// Takes the smallest segment that fits.
    ///
    /// O(free segments of two size classes) without constraints; with constraints, up to O(free
    /// segments that are large enough).
    #[doc(alias = "VM_BESTFIT")]
    BestFit,
    /// Takes the next free address after the last `NextFit` allocation, and wraps at the end.
    ///
    /// Freed addresses are not reused before the wrap, which helps to find uses after free, and
    /// keeps process ids apart. O(segments in between).
    #[doc(alias("VM_NEXTFIT", "rotor"))]
    NextFit,
}
