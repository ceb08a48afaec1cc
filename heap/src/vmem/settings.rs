//! The settings of an arena, given when it is created.

use super::request::round_up;
use super::{Arena, Lock, TagSupply};

/// A hook that can free something before an arena refuses an allocation.
///
/// Its argument is the requested size, rounded up to the quantum. It returns whether the arena
/// should try once more. The arena calls it without a lock held, at most once for each allocation,
/// and not if boundary tags were missing. See [`Arena::with_reclaim`].
///
/// ```text
///  alloc ──▶ free segments ──▶ source ──▶ every free segment ──▶ hook ──▶ true: all this once more
///              │ fits            │ lends    │ fits                 │
///              ▼                 ▼          ▼                      └────▶ false: the error
///             base              base       base
/// ```
pub type Reclaim<'a> = dyn Fn(usize) -> bool + Sync + 'a;

/// A hook that reports an arena dropped with live allocations. See [`Arena::with_leak_hook`].
///
/// Its arguments are the label of the arena, and the allocated size in the unit of the arena.
pub type LeakHook = fn(label: &str, allocated: usize);

impl<'src, A: TagSupply, L: Lock> Arena<'_, 'src, A, L> {
    /// Sets how many free imported spans the arena retains for later allocations: 1 by default.
    ///
    /// With 0, the arena also releases free space at the end of an imported span, if the source can
    /// [shrink](super::Source::shrink) the span.
    ///
    /// ```text
    ///                           after alloc(0x1000)    after free
    ///  1 or more   arena        │ allocated │          │ free      │   retained
    ///              source       │ lent      │          │ lent      │
    ///
    ///  0           arena        │ allocated │                          without a span
    ///              source       │ lent      │          │ free      │
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// # source.add_span(0x8_0000, 0x2000)?;
    /// for retained in [0, 1] {
    ///     let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    ///     let arena = arena.with_retained_spans(retained);
    ///     arena.free(arena.alloc(0x1000, AllocPolicy::InstantFit)?)?;
    ///     assert_eq!(source.allocated_space(), retained * 0x1000);
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_retained_spans(mut self, spans: usize) -> Self {
        self.retained_spans = spans;
        self
    }

    /// Sets the least size of an import, rounded up to the quantum and to the
    /// [source's quantum](super::Source::quantum). By default an import has the requested size.
    ///
    /// If the source refuses the minimum, the arena asks for what it needs. It also asks for no
    /// more than that for a layout with `min`, `max` or `nocross`, and in an
    /// [`import`](Self::import).
    ///
    /// ```text
    ///  with_min_import(0x4000), alloc(0x800)
    ///
    ///  0x8_0000          0x8_1000                                            0x8_3fff
    ///   ├─────────────────┬───────────────────────────────────────────────────┤
    ///   │ allocated       │ free                                              │  one imported span
    ///   └─────────────────┴───────────────────────────────────────────────────┘
    /// ```
    ///
    /// ```
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
    /// # source.add_span(0x8_0000, 0x1_0000)?;
    /// let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    /// let arena = arena.with_min_import(0x4000);
    /// assert_eq!(arena.alloc(0x800, AllocPolicy::InstantFit), Ok(0x8_0000));
    /// assert_eq!((arena.borrowed_space(), arena.free_space()), (0x4000, 0x3000));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_min_import(mut self, size: usize) -> Self {
        self.min_import = round_up(size, self.import_quantum).unwrap_or(0);
        self
    }

    /// Sets the greatest total size of the arena's spans: `usize::MAX` by default. An operation
    /// that would exceed it fails with [`Error::LimitReached`](super::Error::LimitReached).
    ///
    /// ```text
    ///  limit 0x5000   │ spans: 0x4000                 │       │
    ///                                                  └ room for 0x1000, not for 0x2000
    /// ```
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets a [hook](Reclaim) that the arena calls before it refuses an allocation.
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// let asked = AtomicUsize::new(0);
    /// let hook = |size| {
    ///     asked.store(size, Relaxed);
    ///     false
    /// };
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// let arena = arena.with_reclaim(&hook);
    /// let refused = Err(Error::Empty { size: 0x1800 });
    /// assert_eq!(arena.alloc(0x1800, AllocPolicy::InstantFit), refused);
    /// assert_eq!(asked.load(Relaxed), 0x2000);
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_reclaim(mut self, hook: &'src Reclaim<'src>) -> Self {
        self.reclaim = Some(hook);
        self
    }

    /// Sets a [hook](LeakHook) for an arena that is dropped with live allocations. Imported spans
    /// that contain such allocations stay lent.
    ///
    /// ```text
    ///  when dropped    │ allocated 0x2000 │ free         │   added span
    ///                  │ free      │ allocated 0x1000    │   imported span: stays lent
    ///                  │ free                            │   imported span: released
    ///  the hook gets 0x3000
    /// ```
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// # use heap::vmem::*;
    /// # type Lock = LockApi<spin::Mutex<()>>;
    /// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    /// static LEAKED: AtomicUsize = AtomicUsize::new(0);
    /// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
    /// let arena = arena.with_leak_hook(|_label, allocated| LEAKED.store(allocated, Relaxed));
    /// arena.add_span(0x1_0000, 0x4000)?;
    /// arena.xalloc_at(0x1_0000, 0x2000)?;
    /// drop(arena);
    /// assert_eq!(LEAKED.load(Relaxed), 0x2000);
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_leak_hook(mut self, hook: LeakHook) -> Self {
        self.on_leak = Some(hook);
        self
    }
}
