//! Vmem: an allocator of address ranges, and of any other numbers that come in ranges.
//!
//! The design is that of Bonwick and Adams, "Magazines and Vmem: Extending the Slab Allocator to
//! Many CPUs and Arbitrary Resources" (USENIX 2001). The kernels of illumos and FreeBSD use it.
//!
//! * An [`Arena`] hands out ranges of numbers: addresses, page frames, process ids.
//! * A *span* is a range that an arena has as a whole, not a `heap::Span`. A caller adds it, or the
//!   arena *imports* it from its [`Source`], which *lends* it.
//! * A *segment* is a part of a span, either free or allocated. The segments of a span fill it.
//! * The *quantum* is a power of two. Bases and sizes of spans and segments are multiples of it.
//! * A [*boundary tag*](BoundaryTag) describes one span or one segment. An arena never touches what
//!   its numbers stand for, so tags are not part of the ranges: a [`TagSupply`] provides them.
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
//! use heap::vmem::{AllocPolicy, Arena, LockApi, NoPages, TagPool};
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
//! # How an arena finds things
//! Each boundary tag is in two structures: the address order of its span, and one of these.
//!
//! | of           | structure            | file            | serves |
//! |--------------|----------------------|-----------------|--------|
//! | a span       | treap by address     | `span_tree.rs`  | `contains`, overlap |
//! | a free segment | segregated free lists by size | `free_lists.rs` | `alloc`, `xalloc` |
//! | an allocated segment | hash table by base | `index.rs` | `free`, `resize` |
//!
//! A freed segment coalesces with free neighbours in its span. Spans never coalesce.
//!
//! # Memory in the middle
//! If the numbers stand for memory, an allocated segment can give some of it back and keep the
//! numbers: [`Arena::discard`] and [`Arena::restore`]. The arena never hands out discarded memory.
//!
//! # Locks
//! An arena holds its lock for a short time, and never while it calls its source, its tag supply, a
//! hook or a formatter. The locks of two arenas are therefore never held at once. A source may use
//! arenas, even the one that calls it.
//!
//! # Differences from illumos
//! An arena has no quantum caches (`qcache_max`): put a slab or another cache in front of it. It
//! never sleeps. It can [`resize`](Arena::resize) a segment and [`trim`](Arena::trim) its spans.
#![warn(clippy::multiple_unsafe_ops_per_block)]

mod allocate;
mod arena_error;
mod arena_lock;
mod boundary_tag;
mod check;
mod compat;
mod constraints;
#[cfg(test)]
mod cost_tests;
mod discard;
mod free;
mod free_lists;
mod idle_spans;
mod import;
mod index;
mod inspect;
mod parts;
mod policy;
mod request;
mod resize;
mod settings;
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
pub use settings::{LeakHook, Reclaim};
pub use source::Source;
pub(crate) use span_tree::priority_of;
pub use tag_pool::{NoPages, TagCounts, TagPool};
pub use tag_supply::{PAGE_SIZE, Page, PageSupply, TagSupply};
pub use view::ArenaView;

use state::State;

/// An arena: a set of spans, divided into free and allocated segments.
///
/// Addresses and sizes are in the unit of the arena's numbers: bytes, page frames, ids. They are
/// multiples of the quantum. Requested sizes are rounded up to it.
///
/// | operation                        | cost |
/// |----------------------------------|------|
/// | `alloc`, `free`, `resize`        | expected O(1), apart from calls to the source |
/// | `BestFit`                        | the free segments of up to two size classes |
/// | `NextFit`                        | the segments between the last allocation and this one |
/// | constrained                      | O(1) if a free or imported segment is sure to fit |
/// | `add_span`, `contains`, import, release | O(log spans) |
/// | `xalloc_at`, `segment_of`        | O(log spans + segments of the span) |
///
/// Before an arena refuses an allocation, it probes every free segment that could fit.
///
/// The picture shows two spans in an arena of quantum 0x1000. No tag describes the addresses
/// between them:
///
/// ```text
///  0x1000                  0x4000  0x5000                  0x9000  0xb000          0xd000
///  │ allocated 0x3000      │ free  │ allocated 0x4000      │       │ free 0x2000   │
///  └ span, added ──────────────────────────────────────────┘       └ imported ─────┘
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
#[doc(alias("vmem_t", "vmem arena"))]
pub struct Arena<'label, 'src, A: TagSupply, L: Lock> {
    label: &'label str,
    quantum: usize,
    /// Imports and releases are multiples of this: the coarser of the quanta of arena and source.
    import_quantum: usize,
    /// How many cached tags a resize asks for: one. With a coarser source, one more than the
    /// shrink reserve, for the rest of an extension.
    resize_tags: usize,
    source: Option<&'src dyn Source>,
    retained_spans: usize,
    min_import: usize,
    limit: usize,
    reclaim: Option<&'src Reclaim<'src>>,
    on_leak: Option<LeakHook>,
    tag_supply: A,
    lock: L,
    /// Accessed only while `lock` is held, or with exclusive access in `drop`.
    state: UnsafeCell<State>,
}

// SAFETY: the raw pointers in the state lead to boundary tags that belong to this arena alone.
unsafe impl<A: TagSupply + Send, L: Lock + Send> Send for Arena<'_, '_, A, L> {}
// SAFETY: `Arena::lock` and `try_lock` alone give access to the state, one thread at a time.
unsafe impl<A: TagSupply + Sync, L: Lock + Sync> Sync for Arena<'_, '_, A, L> {}

impl<'label, 'src, A: TagSupply, L: Lock> Arena<'label, 'src, A, L> {
    /// Creates an arena without spans. Takes no boundary tag yet.
    ///
    /// When no free segment fits a request, the arena imports a span from `source`, if it has one.
    /// It gets its boundary tags from `tag_supply`. An example is at the [type](Self).
    ///
    /// # Errors
    /// [`Error::InvalidQuantum`] unless `quantum` and the [source's quantum](Source::quantum) are
    /// powers of two.
    #[doc(alias = "vmem_create")]
    pub fn create(
        label: &'label str,
        quantum: usize,
        source: Option<&'src dyn Source>,
        tag_supply: A,
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
            tag_supply,
            lock: L::default(),
            state: UnsafeCell::new(State::new(quantum.ilog2())),
        })
    }

    /// Returns the label.
    pub fn label(&self) -> &'label str {
        self.label
    }

    /// Returns the quantum, a power of two.
    pub fn quantum(&self) -> usize {
        self.quantum
    }

    /// Returns the size of all spans. Constant time.
    #[doc(alias = "vmem_size")]
    pub fn total_space(&self) -> usize {
        self.lock().total
    }

    /// Returns the size of all allocated segments. Constant time.
    #[doc(alias = "vmem_size")]
    pub fn allocated_space(&self) -> usize {
        self.lock().allocated
    }

    /// Returns the size of all free segments. Constant time.
    #[doc(alias = "vmem_size")]
    pub fn free_space(&self) -> usize {
        let state = self.lock();
        state.total - state.allocated
    }

    /// Returns the size of all spans imported from the source. Constant time.
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
    /// No `&mut`: a function that drops its `Locked` argument releases the lock before it ends. A
    /// `&mut` in an argument would have to stay unique until the function ends.
    state: &'a UnsafeCell<State>,
}

impl<L: Lock> Deref for Locked<'_, L> {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: the guard holds the lock, and `&self` excludes a `&mut State` from this guard.
        unsafe { &*self.state.get() }
    }
}

impl<L: Lock> DerefMut for Locked<'_, L> {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: the guard holds the lock, and `&mut self` excludes every other reference.
        unsafe { &mut *self.state.get() }
    }
}

impl<A: TagSupply, L: Lock> Drop for Arena<'_, '_, A, L> {
    /// Releases free imported spans to the source, and returns all tags and index pages to their
    /// supply. O(segments).
    ///
    /// A span with live allocations stays lent, since its users may still be there. A
    /// [hook](Arena::with_leak_hook) can report them.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(hook) = self.on_leak.filter(|_| state.allocated != 0) {
            hook(self.label, state.allocated);
        }
        while let Some(span) = state.spans.root() {
            // A span that is still busy stays lent. A call to the source about it panicked or broke
            // the contract, so source and arena may disagree about its size.
            let is_whole = state::is_idle(span.above()) && !span.busy.get();
            if let Some(source) = self.source.filter(|_| is_whole) {
                // SAFETY: the source lent exactly this range, no part of it is allocated, and the
                // arena forgets it below. After a refusal the range stays lent for good.
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
            // SAFETY: the page came from this supply, and `take_page` removed it from the index.
            unsafe { self.tag_supply.deallocate_page(page) };
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
