//! A general allocator of ranges of numbers: addresses, page frames, process ids.
//!
//! After Bonwick and Adams, "Magazines and Vmem: Extending the Slab TagSupply to Many CPUs and
//! Arbitrary Resources" (USENIX 2001). An [`Arena`] has *spans*, which were added to it or which it
//! borrowed from its [`Source`], and in them *segments*, free or allocated, that are multiples of
//! its *quantum*. It never touches what its numbers stand for: a [*boundary tag*](BoundaryTag) describes each
//! span and each segment, and these come from a [tag supply](TagSupply).
//!
//! ```text
//!              import ──▶               alloc ──▶
//!              extend ──▶               xalloc ──▶
//!   ┌────────┐            ┌───────────┐              ┌────────────────────────────┐
//!   │ Source │━━ spans ━━━│   Arena   │━━ segments ━━│ callers, for example the   │
//!   └────────┘            └─────┬─────┘              │ arena whose source this is │
//!              ◀── release    tags      ◀── free     └────────────────────────────┘
//!              ◀── shrink ┌─────┴─────┐
//!                         │ TagSupply │
//!                         └───────────┘
//! ```
//!
//! ```
//! use heap::vmem::{NoPages, TagPool};
//! use heap::vmem::{AllocPolicy, Arena, LockApi};
//!
//! type Lock = LockApi<spin::Mutex<()>>;
//! static TAGS: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
//!
//! let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &TAGS)?;
//! arena.add_span(0x10_0000, 0x10_0000)?;
//! let base = arena.alloc(0x3000, AllocPolicy::InstantFit)?;
//! arena.resize(base, 0x5000)?;
//! arena.free(base)?;
//! # Ok::<(), heap::vmem::Error>(())
//! ```
//!
//! # Locks
//! An arena holds its lock for a short time, never while it calls anybody: source, tag supply, hook
//! or formatter. So two arenas' locks are never held at once, and a source may use arenas, even the
//! one that calls it.

mod allocate;
mod arena_error;
mod arena_lock;
mod boundary_tag;
mod check;
mod compat;
mod constraints;
#[cfg(test)]
mod cost_tests;
mod free;
mod free_lists;
mod idle_spans;
mod import;
mod index;
mod inspect;
mod policy;
mod request;
mod resize;
mod source;
mod span_tree;
mod state;
mod tag_cache;
mod tag_pool;
mod tag_refill;
mod tag_supply;
mod view;

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};

pub use arena_error::{Error, Result};
pub use arena_lock::{Lock, LockApi};
pub use boundary_tag::BoundaryTag;
pub use check::{Corruption, Rule};
pub use compat::{Allocator, Bt, alloc, error, layout, lock};
pub use constraints::Layout;
pub use inspect::{Segment, SegmentKind, Segments, SpanExtent};
pub use policy::AllocPolicy;
pub use source::Source;
pub use tag_pool::{NoPages, TagCounts, TagPool};
pub use tag_supply::{PAGE_SIZE, Page, PageSupply, TagSupply};
pub use view::ArenaView;

use request::round_up;
use state::State;

/// An arena: a set of spans, divided into free and allocated segments.
///
/// Sizes and addresses are in whatever unit the numbers of the arena have; they are multiples of the
/// quantum, to which requested sizes are rounded up.
///
/// | operation                        | cost |
/// |----------------------------------|------|
/// | `alloc`, `free`, `resize`        | expected O(1), apart from calls to the source |
/// | `BestFit`                        | the free segments of up to two size classes |
/// | `NextFit`                        | the segments between the last allocation and this one |
/// | constrained                      | O(1) if a segment that is large enough in any case is there, or is borrowed |
/// | `add_span`, `contains`, import, release | O(log spans) |
/// | `xalloc_at`, `segment_of`        | O(log spans + segments of the span) |
///
/// Before it refuses an allocation, the arena looks at every free segment that could fit.
///
/// Two spans in an arena of quantum 0x1000. Between them nothing is described:
///
/// ```text
///  0x1000                  0x4000  0x5000                          0x9000  0xb000          0xd000
///  │ allocated 0x3000      │ free  │ allocated 0x4000              │       │ free 0x2000   │
///  └ span, added ──────────────────────────────────────────────────┘       └ borrowed ─────┘
///  total_space 0xa000 = allocated_space 0x7000 + free_space 0x3000    borrowed_space 0x2000
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let source = Arena::<_, Lock>::create("source", 0x1000, None, &tags)?;
/// # source.add_span(0xb000, 0x2000)?;
/// let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
/// arena.add_span(0x1000, 0x8000)?;
/// arena.import(Layout::from_size_align(0x2000, 0x1000).unwrap())?;
/// arena.xalloc_at(0x1000, 0x3000)?;
/// arena.xalloc_at(0x5000, 0x4000)?;
/// assert_eq!((arena.total_space(), arena.borrowed_space()), (0xa000, 0x2000));
/// assert_eq!((arena.allocated_space(), arena.free_space()), (0x7000, 0x3000));
/// # Ok::<(), Error>(())
/// ```
pub struct Arena<'label, 'src, A: TagSupply, L: Lock> {
    label: &'label str,
    quantum: usize,
    /// In multiples of this spans are borrowed and given back: the source's quantum, if that is coarser.
    import_quantum: usize,
    /// How many tags a resize wants in hand: one, and of a coarser source one beyond the reserve, for the
    /// rest of what is lent.
    resize_tags: usize,
    source: Option<&'src dyn Source>,
    retained_spans: usize,
    min_import: usize,
    limit: usize,
    reclaim: Option<&'src Reclaim<'src>>,
    on_leak: Option<LeakHook>,
    allocator: A,
    lock: L,
    /// Only reached through [`Arena::lock`], and by `drop`.
    state: UnsafeCell<State>,
}

/// A hook that can free something when an arena is about to refuse a size. It is told the size,
/// rounded up to the quantum, and says whether another attempt is worthwhile. It is called with no
/// lock held, at most once for each allocation, and not when it was boundary tags that were
/// missing.
///
/// ```text
///  alloc ──▶ free segments ──▶ source ──▶ every free segment ──▶ hook ──▶ true: all this once more
///              │ fits            │ lends    │ fits                 │
///              ▼                 ▼          ▼                      └────▶ false: the error
///             base              base       base
/// ```
pub type Reclaim<'a> = dyn Fn(usize) -> bool + Sync + 'a;

/// A hook that learns of an arena dropped with live allocations: its label, and how much of it is
/// allocated, in the unit of the arena. See [`Arena::with_leak_hook`].
pub type LeakHook = fn(label: &str, allocated: usize);

// SAFETY: the state consists of boundary tags that belong to the arena, and moves with it.
unsafe impl<A: TagSupply + Send, L: Lock + Send> Send for Arena<'_, '_, A, L> {}
// SAFETY: the lock guards the state.
unsafe impl<A: TagSupply + Sync, L: Lock + Sync> Sync for Arena<'_, '_, A, L> {}

impl<'label, 'src, A: TagSupply, L: Lock> Arena<'label, 'src, A, L> {
    /// Creates an arena without spans. Takes no tag; [`add_span`](Self::add_span) and the source
    /// make of it what the [diagram](Self) shows.
    ///
    /// When a request does not fit it borrows from `source`, if there is one. Its boundary tags come
    /// from `allocator`.
    ///
    /// # Errors
    /// [`Error::InvalidQuantum`] unless the quantum is a power of two, and the
    /// [source's](Source::quantum) as well.
    pub fn create(
        label: &'label str,
        quantum: usize,
        source: Option<&'src dyn Source>,
        allocator: A,
    ) -> Result<Self> {
        let source_quantum = source.map_or(1, |source| source.quantum());
        for quantum in [quantum, source_quantum] {
            if !quantum.is_power_of_two() {
                return Err(Error::InvalidQuantum { quantum });
            }
        }
        Ok(Self {
            label,
            quantum,
            import_quantum: quantum.max(source_quantum),
            resize_tags: if source_quantum > quantum {
                tag_refill::SHRINK_RESERVE + 1
            } else {
                1
            },
            source,
            retained_spans: 1,
            min_import: 0,
            limit: usize::MAX,
            reclaim: None,
            on_leak: None,
            allocator,
            lock: L::default(),
            state: UnsafeCell::new(State::new(quantum.ilog2())),
        })
    }

    /// Sets how many free borrowed spans are kept for later: 1 if not set.
    ///
    /// With 0, free space at the end of a borrowed span is offered to the source as well, which may
    /// [shrink](Source::shrink) the span.
    ///
    /// ```text
    ///                           after alloc(0x1000)    after free
    ///  1 or more   arena        │ allocated │          │ free      │   serves the next allocation
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
    /// for kept in [0, 1] {
    ///     let arena = Arena::<_, Lock>::create("addresses", 0x1000, Some(&source), &tags)?;
    ///     let arena = arena.with_retained_spans(kept);
    ///     arena.free(arena.alloc(0x1000, AllocPolicy::InstantFit)?)?;
    ///     assert_eq!(source.allocated_space(), kept * 0x1000);
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn with_retained_spans(mut self, spans: usize) -> Self {
        self.retained_spans = spans;
        self
    }

    /// Sets the least that is borrowed at a time, rounded up to the quantum and to the
    /// [source's](Source::quantum): what is asked for, if not set. When the source refuses this much, the arena asks for what it needs. Nor does it
    /// ask for more than it needs for a layout with a bound or a boundary not to cross, and for an
    /// [`import`](Self::import).
    ///
    /// ```text
    ///  with_min_import(0x4000), alloc(0x800)
    ///
    ///  0x8_0000          0x8_1000                                            0x8_3fff
    ///   ├─────────────────┬───────────────────────────────────────────────────┤
    ///   │ allocated       │ free                                              │  one borrowed span
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

    /// Sets the most that the spans of the arena may have in total: `usize::MAX` if not set. What
    /// would be more is refused with [`Error::LimitReached`].
    ///
    /// ```text
    ///  limit 0x5000   │ spans: 0x4000                 │       │
    ///                                                  └ 0x1000 may come, 0x2000 may not
    /// ```
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets a [hook](Reclaim) that is called before an allocation is refused.
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

    /// Sets a hook that is called when the arena is dropped with live allocations. The spans in
    /// which they lie are not given back.
    ///
    /// ```text
    ///  when dropped    │ allocated 0x2000 │ free         │   added span
    ///                  │ free      │ allocated 0x1000    │   borrowed span: stays lent
    ///                  │ free                            │   borrowed span: given back
    ///  the hook is told 0x3000
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

    /// The label.
    pub fn label(&self) -> &'label str {
        self.label
    }

    /// The quantum, a power of two.
    pub fn quantum(&self) -> usize {
        self.quantum
    }

    /// The size of all spans. Constant time.
    pub fn total_space(&self) -> usize {
        self.lock().total
    }

    /// The size of all allocated segments. Constant time.
    pub fn allocated_space(&self) -> usize {
        self.lock().allocated
    }

    /// The size of all free segments. Constant time.
    pub fn free_space(&self) -> usize {
        let state = self.lock();
        state.total - state.allocated
    }

    /// The size of all spans borrowed from the source. Constant time.
    pub fn borrowed_space(&self) -> usize {
        self.lock().borrowed
    }

    fn lock(&self) -> Locked<'_, L> {
        Locked {
            _guard: self.lock.lock(),
            state: &self.state,
        }
    }

    fn try_lock(&self) -> Option<Locked<'_, L>> {
        Some(Locked {
            _guard: self.lock.try_lock()?,
            state: &self.state,
        })
    }
}

/// The state of an arena while its lock is held.
struct Locked<'a, L: Lock + 'a> {
    _guard: L::Guard<'a>,
    /// Not a `&mut`, which would have to be the only one until the function ends that it was passed
    /// to, not just until it is dropped.
    state: &'a UnsafeCell<State>,
}

impl<L: Lock> Deref for Locked<'_, L> {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: the lock is held, so nobody else has a reference to the state.
        unsafe { &*self.state.get() }
    }
}

impl<L: Lock> DerefMut for Locked<'_, L> {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: the lock is held, so nobody else has a reference to the state.
        unsafe { &mut *self.state.get() }
    }
}

impl<A: TagSupply, L: Lock> Drop for Arena<'_, '_, A, L> {
    /// Gives free borrowed spans back to the source, and all tags and index pages to their supply.
    ///
    /// A span with live allocations stays with whoever uses them: see
    /// [`with_leak_hook`](Arena::with_leak_hook). O(segments).
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(hook) = self.on_leak.filter(|_| state.allocated != 0) {
            hook(self.label, state.allocated);
        }
        while let Some(span) = state.spans.root() {
            // About the extent of a busy span the source and the arena may disagree: a call about it
            // has panicked, or was answered against all rules.
            let is_whole = state::is_idle(span.above()) && !span.busy.get();
            if let Some(source) = self.source.filter(|_| is_whole) {
                // SAFETY: the source lent this span, nothing of it is allocated, and the arena
                // forgets it. If the source does not take it, there is nobody left to keep it.
                let _ = unsafe { source.release(span.start.get(), span.size()) };
            }
            state.spans.remove(span);
            let mut segment = span.above();
            while segment != span {
                let above = segment.above();
                state.tag_cache.put(segment);
                segment = above;
            }
            state.tag_cache.put(span);
        }
        state.index.clear();
        let tags = core::mem::take(&mut state.tag_cache);
        let mut pages = core::iter::from_fn(|| self.state.get_mut().index.take_page());
        let page = pages.next();
        for page in pages {
            // SAFETY: the page came from the supply, and the index has given it up.
            unsafe { self.allocator.deallocate_page(page) };
        }
        self.return_to_supply(tags, page);
    }
}

impl<A: TagSupply, L: Lock> fmt::Debug for Arena<'_, '_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, allocated, borrowed) = {
            let state = self.lock();
            (state.total, state.allocated, state.borrowed)
        };
        f.debug_struct("Arena")
            .field("label", &self.label)
            .field("quantum", &self.quantum)
            .field("total", &total)
            .field("allocated", &allocated)
            .field("borrowed", &borrowed)
            .finish_non_exhaustive()
    }
}
