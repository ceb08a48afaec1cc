//! [`ArenaSource`]: heaps made of an arena's segments, which grow and shrink in place.
//!
//! Each Talc heap is one allocated segment of the arena, and so lies in one span of what the arena
//! imports from. [`acquire`](Source::acquire) extends the heap that was claimed last in place, or
//! claims another. [`resize`](Source::resize) lowers the end of a heap with enough free memory at
//! its top. It runs inside `deallocate`, under the lock of the heap, so it only enters the pages in
//! the *release queue*. [`TalcLock::drain`] gives them to the arena while the lock is released.
//!
//! | file | subject |
//! |---|---|
//! | `record`, `list` | the record of each heap, and the lists of records |
//! | `acquire` | heaps grow and are claimed, and holes become memory again |
//! | `heaps` | heaps are trimmed and listed |
//! | `growth` | how much to grow by and to leave free |
//! | `hole`, `idle` | the holes; which gaps have not changed for a while |
//! | `punch`, `restore` | pages inside heaps go back; which come again |
//! | `retain` | what a heap retains of its segment |
//! | `drain` | pages go back to the arena |
//! | `transit` | an allocation waits for memory that others have on its way |
//! | `check` | records agree with heaps and segments |

mod acquire;
mod check;
mod drain;
mod growth;
mod heaps;
mod hole;
mod idle;
mod list;
mod punch;
mod record;
mod restore;
mod retain;
mod transit;

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use lock_api::RawMutex;

use self::acquire::WhenFits;
pub use self::drain::DrainError;
use self::growth::GrowthPolicy;
use self::hole::HoleTree;
use self::idle::IdleGaps;
use self::list::{HEAPS, RELEASE_QUEUE, RecordList};
use self::transit::Transit;
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::carve::MAKES_HOLES;
use crate::talc::owner::OwnerRef;
use crate::talc::source::Source;
use crate::talc::sync::TalcLock;
use crate::vmem::{Arena, ArenaView, Lock, TagSupply};

#[cfg(doc)]
use crate::talc::base::CHUNK_UNIT;

/// Makes heaps from segments of a [`vmem::Arena`](Arena), and gives back free memory at their tops
/// and inside them.
///
/// ```text
///     Talc ─ acquire ──> ArenaSource ──────────────────────────────── alloc, resize ──> Arena
///     Talc ─ resize ───> ArenaSource ─ release queue ──> TalcLock::drain ─ free, resize ──> Arena
///
///     a heap: 512 KiB of the arena; it grows by 64 KiB
///     ├─ in use ──────────────────┬─ free: 120 KiB ─────────────────┤    stays
///     ├─ in use ────────┬─ free: 200 KiB ───────────────────────────┤    more than twice 64 KiB:
///     ├─ in use ────────┬─ free: 64 KiB ─┼─ 136 KiB, in the queue ──┤    64 KiB stay, to a quantum
/// ```
///
/// The arena's ranges must be memory: mapped and writable while they are allocated, zero or not,
/// and used by nothing else. The arena's quantum must be at least twice [`CHUNK_UNIT`]. Heaps grow
/// and shrink by multiples of it (a page, in a kernel).
///
/// * **Growth**: a heap grows by an eighth of what is claimed, within 64 KiB and 2 MiB, or by what
///   the layout requires if that is more. (If intervals are told by [`TalcLock::decay`], by no more
///   than one is expected to use.) If the arena refuses, it grows by what the layout
///   requires.
///   Behind a [`TalcLock`], the arena maps pages while the lock is free. A second call that needs
///   memory meanwhile claims another heap.
/// * **Shrinking**: when the free top of a heap exceeds twice the *headroom*, which is at least one
///   growth, all but one headroom goes back. Empty heaps go back whole, except the first, which
///   holds Talc's metadata. [`Talc::trim`] gives back all that is free at the tops.
/// * **Holes**: free pages inside a heap go back when [`TalcLock::punch`] or, at intervals,
///   [`TalcLock::decay`] is called, if the source of the arena can
///   [discard](crate::vmem::Source::discard) memory. Their addresses stay the heap's. If no gap
///   fits, an allocation first restores as much of a hole as it needs. Only then do heaps grow.
/// * **Hysteresis**: each time that growth directly follows giving back, the headroom is doubled,
///   up to 2 MiB, and empty heaps may stay. It is halved each time that pages go back twice without
///   growth between.
///
/// The pages on their way back wait for a call of [`TalcLock::drain`]. A
/// [`PageHeap`](super::PageHeap) makes the calls, and is the type for a `#[global_allocator]`.
///
/// A source serves one allocator. In another allocator it provides nothing. A source that is
/// dropped with or after its allocator frees all heaps. One that is dropped while its allocator
/// still exists leaks them.
///
/// Manual heap management ([`Talc::claim`], [`Talc::extend`], [`Talc::truncate`], [`Talc::resize`])
/// is forbidden with this source: it relies on its record at the end of each heap.
///
/// ```
/// use std::alloc::{GlobalAlloc, Layout};
///
/// use heap::source::ArenaSource;
/// use heap::talc::TalcLock;
/// use heap::vmem::{Arena, LockApi, NoPages, TagPool};
///
/// type Lock = LockApi<spin::Mutex<()>>;
/// static TAGS: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
///
/// let pages = Layout::from_size_align(1 << 20, 4096)?;
/// let block = Layout::from_size_align(500 << 10, 8)?;
/// // SAFETY: the sizes are not zero. Only the arena uses the pages, and the block is freed once.
/// unsafe {
///     let memory = std::alloc::alloc(pages);
///     let arena = Arena::<_, Lock>::create("pages", 4096, None, &TAGS)?;
///     arena.add_span(memory.expose_provenance(), 1 << 20)?;
///     let heap = TalcLock::<spin::Mutex<()>, _>::new(ArenaSource::new(&arena));
///
///     let base = heap.alloc(block);
///     let claimed = heap.lock().source.claimed();
///     assert!(claimed > 500 << 10 && arena.allocated_space() == claimed);
///     heap.dealloc(base, block);
///     // Pages wait in the release queue. `drain` gives them to the arena.
///     assert!(heap.lock().source.has_pending_releases() && arena.allocated_space() == claimed);
///     let given = heap.drain()?;
///     assert_eq!(arena.allocated_space(), claimed - given);
///     assert_eq!(arena.allocated_space(), heap.lock().source.claimed());
///     // One page stays, with the list heads.
///     heap.lock().trim();
///     heap.drain()?;
///     let left = heap.lock().arena_heaps().next().expect("the first heap stays");
///     assert_eq!((left.retained, left.size), (4096, 4096));
///     assert_eq!(left.base.as_ptr(), memory);
///     drop(heap);
///     assert_eq!(arena.allocated_space(), 0);
/// #   std::alloc::dealloc(memory, pages);
/// }
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct ArenaSource<'a, A: TagSupply, L: Lock> {
    arena: Option<&'a Arena<'a, 'a, A, L>>,
    /// The allocator with the heaps.
    owner: OwnerRef,
    heaps: RecordList<HEAPS>,
    release_queue: RecordList<RELEASE_QUEUE>,
    policy: GrowthPolicy,
    holes: HoleTree,
    idle: IdleGaps,
    transit: Transit,
    /// Whether there has ever been a hole, so that pages in the release queue may not be memory.
    has_holes: bool,
    /// Whether memory is zero when the arena gives it.
    is_zeroed: bool,
    /// The sum of the bytes that the live heaps retain.
    claimed: usize,
    /// A free top of at most this many bytes stays: see [`resize`](Source::resize).
    trim_threshold: usize,
}

// SAFETY: the records lie in memory that the arena allocated to this source alone. The reference to
// the arena may go to another thread because the arena is `Sync`.
unsafe impl<'a, A, L> Send for ArenaSource<'a, A, L>
where
    A: TagSupply,
    L: Lock,
    Arena<'a, 'a, A, L>: Sync,
{
}

/// One heap of an [`ArenaSource`], as [`Talc::arena_heaps`] lists them.
///
/// ```text
///     0x100000                       0x107fb0   0x108000                  0x110000
///     base                           end        base + retained           base + size
///     ├─ Talc's heap ────────────────┼─ record ─┼─ in the release queue ──┤
///     ├─ retained: 0x8000 ──────────────────────┤
///     ├─ size: 0x10000 ───────────────────────────────────────────────────┤
/// ```
///
/// The record takes 80 bytes on 64-bit machines, 96 with `hardened`. The first heap has a table of
/// holes above Talc's list heads, if the arena imports pages one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaHeap {
    /// The base of the heap and of its segment of the arena.
    pub base: NonNull<u8>,
    /// The end of Talc's heap.
    pub end: NonNull<u8>,
    /// Bytes that the heap retains: up to `end`, and the source's record. A multiple of the arena's
    /// quantum.
    pub retained: usize,
    /// Bytes of the segment. Pages above `retained` are on their way back to the arena.
    pub size: usize,
}

impl<'a, A: TagSupply, L: Lock> ArenaSource<'a, A, L> {
    /// Creates a source that has no memory until [`attach`](Self::attach) gives it an arena.
    pub const fn detached() -> Self {
        ArenaSource {
            arena: None,
            owner: OwnerRef::new(),
            heaps: RecordList::new(),
            release_queue: RecordList::new(),
            policy: GrowthPolicy::new(),
            holes: HoleTree::new(),
            idle: IdleGaps::new(),
            transit: Transit::new(),
            has_holes: false,
            is_zeroed: false,
            claimed: 0,
            trim_threshold: 2 * growth::MIN_GROWTH,
        }
    }

    /// Creates a source of memory from `arena`. It takes none before the first allocation.
    ///
    /// # Safety
    /// * What `arena` allocates is memory, as the documentation of the type requires.
    /// * Nothing else frees, resizes or discards what the source allocates from `arena`, neither in
    ///   the arena nor in what the arena imports from.
    pub const unsafe fn new(arena: &'a Arena<'a, 'a, A, L>) -> Self {
        let mut source = Self::detached();
        source.arena = Some(arena);
        source
    }

    /// Declares that memory is zero when the arena gives it, so that `alloc_zeroed` does not clear
    /// it.
    ///
    /// # Safety
    /// All that the arena allocates, extends an allocation by, or restores after it was discarded,
    /// is zero. This includes memory that was given back to the arena before. So the arena must
    /// keep none of it: it has no [retained spans](Arena::with_retained_spans), imports no more
    /// than is asked for, and its source has no coarser quantum, and takes back all that it is
    /// given.
    pub const unsafe fn of_zeroed_memory(mut self) -> Self {
        self.is_zeroed = true;
        self
    }

    /// Takes memory from `arena` from now on. Returns `false` and changes nothing if the source has
    /// an arena already.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub unsafe fn attach(&mut self, arena: &'a Arena<'a, 'a, A, L>) -> bool {
        let is_detached = self.arena.is_none();
        self.arena.get_or_insert(arena);
        is_detached
    }

    /// Returns a read-only view of the arena, if the source has one. (With the arena itself, safe
    /// code could free the memory of heaps.)
    pub fn arena(&self) -> Option<ArenaView<'a, 'a, 'a, A, L>> {
        self.arena.map(Arena::view)
    }

    /// Returns how many bytes all heaps retain, without those on their way back. O(1).
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Returns how many of the [`claimed`](Self::claimed) bytes are in holes: pages inside the
    /// heaps that were given back by [`TalcLock::punch`] or [`TalcLock::decay`]. O(1).
    pub fn hole_bytes(&self) -> usize {
        self.holes.bytes()
    }

    /// Returns whether pages wait for [`TalcLock::drain`] to give them back. O(1).
    #[inline]
    pub fn has_pending_releases(&self) -> bool {
        self.release_queue.first().is_some()
    }
}

// SAFETY: `acquire` uses only the `Talc` that it is called with, and the caller of `new` promised
// that nothing else uses the arena's memory. Segments stay where they are when the source is moved.
// `resize` returns a multiple of the unit, not above `heap_end` and not below `chunk_base`.
unsafe impl<A: TagSupply, L: Lock> Source for ArenaSource<'_, A, L> {
    const TRACK_HEAP_END: bool = true;
    const GRANTS_ZEROED: bool = true;
    const LEAVES_OUT_TAGS: bool = MAKES_HOLES;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        talc.acquire_locked(layout)
    }

    unsafe fn takes_tag<B: Binning>(talc: &mut Talc<Self, B>, base: NonNull<u8>) -> Option<bool> {
        let source = &mut talc.source;
        let is_owner = source.owner.is_bound_to(&talc.owner_token);
        is_owner.then(|| source.holes.take_unit(base))
    }

    fn acquire_unlocked<R: RawMutex, B: Binning, T>(
        lock: &TalcLock<R, Self, B>,
        layout: Layout,
        retry: impl FnOnce(&mut Talc<Self, B>) -> T,
    ) -> Result<T, ()> {
        acquire::acquire_unlocked(lock, layout, WhenFits::Refuse, retry)
    }

    fn acquire_unlocked_again<R: RawMutex, B: Binning, T>(
        lock: &TalcLock<R, Self, B>,
        layout: Layout,
        retry: impl FnOnce(&mut Talc<Self, B>) -> T,
    ) -> Result<T, ()> {
        acquire::acquire_unlocked(lock, layout, WhenFits::GoOn, retry)
    }

    fn check<B: Binning>(talc: &Talc<Self, B>) -> Result<(), Corruption> {
        talc.check_records()
    }

    #[inline]
    unsafe fn resize(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        let free = heap_end.addr() - chunk_base.addr();
        let may_stay = !is_heap_base || self.policy.retains_empty_heaps();
        if may_stay && free <= self.trim_threshold {
            return heap_end;
        }
        // SAFETY: the caller meets the conditions of `Source::resize`.
        unsafe { self.lower_end(chunk_base, heap_end, is_heap_base) }
    }
}

impl<A: TagSupply, L: Lock> fmt::Debug for ArenaSource<'_, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaSource")
            .field("arena", &self.arena.map(|arena| arena.label()))
            .field("claimed", &self.claimed)
            .field("policy", &self.policy)
            .field("trim_threshold", &self.trim_threshold)
            .finish_non_exhaustive()
    }
}
