//! [`ArenaSource`]: heaps made of an arena's segments, which grow and shrink in place.
//!
//! Each Talc heap is one allocated segment of the arena, and so one span of what the arena imports from.
//! [`acquire`](Source::acquire) extends the heap claimed last in place, else it claims another;
//! [`resize`](Source::resize) moves a heap's end down when enough is free there. It runs inside
//! `deallocate`, under the heap's lock, so it only *queues* the pages; [`TalcLock::drain`] gives them to the
//! arena with the lock released.

mod check;
mod drain;
mod growth;
mod heaps;
mod record;

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

pub use self::drain::DrainError;
use self::drain::DrainSlot;
use self::growth::GrowthPolicy;
use self::heaps::GrowthResult;
use self::record::{HEAPS, HeapRecord, List, RECORD_SIZE, RELEASE_QUEUE, ReleaseState};
use crate::talc::Corruption;
use crate::talc::base::Talc;
use crate::talc::base::binning::Binning;
use crate::talc::owner::OwnerRef;
use crate::talc::source::Source;
use crate::vmem::{Arena, ArenaView, Lock, TagSupply};

#[cfg(doc)]
use crate::talc::{TalcLock, base::CHUNK_UNIT};

/// Makes heaps from segments of a [`vmem::Arena`](Arena), and gives back what is free at their tops.
///
/// ```text
///     Talc ─ acquire ──> ArenaSource ───────────────────────────── alloc, resize ──> Arena
///     Talc ─ resize ───> ArenaSource ─ queue ──> TalcLock::drain ─ free, resize ───> Arena
///
///     a heap: 512 KiB of the arena, with steps of 64 KiB
///     ├─ in use ──────────────────┬─ free: 120 KiB ─────────────────┤    stays
///     ├─ in use ────────┬─ free: 200 KiB ───────────────────────────┤    more than two steps:
///     ├─ in use ────────┬─ free: 64 KiB ─┼─ 136 KiB, in the queue ──┤    one is left, to a quantum
/// ```
///
/// The arena's ranges must be memory: mapped, writable and used by nobody else while they are allocated,
/// zero or not. Its quantum must be at least twice [`CHUNK_UNIT`] and is the granularity of growing and
/// giving back (a page, in a kernel).
///
/// * **Growth** goes by steps of an eighth of what is claimed, 64 KiB to 2 MiB, or by what the layout
///   demands if that is more; when the arena cannot give the step, by what the layout demands alone.
/// * **Giving back** starts when the free top of a heap is larger than two such steps, and leaves one
///   step of what is claimed then. Heaps that become empty go back whole, except for the first, which
///   holds Talc's metadata. Where growth follows directly upon giving back, the least that is left is
///   doubled each time, up to 2 MiB, and empty heaps may stay; it is halved each time that pages go
///   back twice without growth between.
///   [`Talc::trim`] gives back everything that is free at a top.
///
/// A source serves one allocator. Moved to another it provides nothing. When it is dropped with its allocator, or
/// later, all its heaps go back to the arena. When it is dropped while its allocator is alive, heaps are never
/// given back.
///
/// Manual heap management ([`Talc::claim`], [`Talc::extend`], [`Talc::truncate`], [`Talc::resize`]) is
/// forbidden with this source: it relies on a record of its own at the end of each heap.
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
/// // SAFETY: the sizes are not zero. The pages are nobody else's, and the block is freed once.
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
///     // Pages wait in the queue. They are the arena's again when it is drained.
///     assert!(heap.lock().source.has_pending_releases() && arena.allocated_space() == claimed);
///     let given = heap.drain()?;
///     assert_eq!(arena.allocated_space(), claimed - given);
///     assert_eq!(arena.allocated_space(), heap.lock().source.claimed());
///     // The list heads are left, in one page.
///     heap.lock().trim();
///     heap.drain()?;
///     let left = heap.lock().arena_heaps().next().expect("the first heap stays");
///     assert_eq!((left.kept, left.size), (4096, 4096));
///     assert_eq!(left.base.as_ptr(), memory);
///     drop(heap);
///     assert_eq!(arena.allocated_space(), 0);
/// #   std::alloc::dealloc(memory, pages);
/// }
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct ArenaSource<'a, A: TagSupply, L: Lock> {
    arena: Option<&'a Arena<'a, 'a, A, L>>,
    /// To the allocator with the heaps.
    owner: OwnerRef,
    heaps: List<HEAPS>,
    release_queue: List<RELEASE_QUEUE>,
    policy: GrowthPolicy,
    /// What the arena gives is zero.
    is_zeroed: bool,
    /// Bytes that all live heaps keep.
    claimed: usize,
    /// [`resize`](Source::resize) leaves a free top alone that is not larger than this.
    trim_threshold: usize,
}

// SAFETY: the records that the lists lead to lie in memory that the arena allocated to this source alone.
// A reference to the arena may go to another thread where the arena may be shared.
unsafe impl<'a, A: TagSupply, L: Lock> Send for ArenaSource<'a, A, L> where Arena<'a, 'a, A, L>: Sync
{}

/// One heap of an [`ArenaSource`], as [`Talc::arena_heaps`] lists them.
///
/// ```text
///     0x100000                       0x107fb0   0x108000                  0x110000
///     base                           end        base + kept               base + size
///     ├─ Talc's heap ────────────────┼─ record ─┼─ on its way back ───────┤
///     ├─ kept: 0x8000 ──────────────────────────┤
///     ├─ size: 0x10000 ───────────────────────────────────────────────────┤
/// ```
///
/// The record takes 80 bytes on 64-bit machines, 96 with `hardened`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaHeap {
    /// Where the heap and its segment of the arena begin.
    pub base: NonNull<u8>,
    /// Where Talc's part of it ends.
    pub end: NonNull<u8>,
    /// Bytes that the heap keeps: up to `end`, and the source's record. A multiple of the arena's quantum.
    pub retained: usize,
    /// Bytes of the segment. What exceeds `kept` is on its way back to the arena.
    pub size: usize,
}

impl<'a, A: TagSupply, L: Lock> ArenaSource<'a, A, L> {
    /// A source of no memory, until [`attach`](Self::attach) gives it an arena.
    pub const fn detached() -> Self {
        ArenaSource {
            arena: None,
            owner: OwnerRef::new(),
            heaps: List::new(),
            release_queue: List::new(),
            policy: GrowthPolicy::new(),
            is_zeroed: false,
            claimed: 0,
            trim_threshold: 2 * growth::MIN_GROWTH,
        }
    }

    /// A source of memory from `arena`. It takes none before the first allocation.
    ///
    /// # Safety
    /// * What `arena` allocates must be memory as the type's documentation demands it.
    /// * What the source allocates from `arena` is the source's until the source gives it back: nobody else
    ///   frees or resizes it, neither in the arena nor in what the arena borrows from.
    pub const unsafe fn new(arena: &'a Arena<'a, 'a, A, L>) -> Self {
        let mut source = Self::detached();
        source.arena = Some(arena);
        source
    }

    /// The same source, told that memory is zero when the arena gives it. `alloc_zeroed` does not clear it
    /// then.
    ///
    /// # Safety
    /// All that the arena allocates, or extends an allocation by, must be zero. So must be what was given back to
    /// it, when it gives that again.
    pub const unsafe fn of_zeroed_memory(mut self) -> Self {
        self.is_zeroed = true;
        self
    }

    /// Takes memory from `arena` from now on. Does nothing and returns `false` when there is an arena
    /// already.
    ///
    /// # Safety
    /// As for [`new`](Self::new).
    pub unsafe fn attach(&mut self, arena: &'a Arena<'a, 'a, A, L>) -> bool {
        let free = self.arena.is_none();
        self.arena.get_or_insert(arena);
        free
    }

    /// The arena that the memory comes from, to look at, if there is one yet. (With the arena itself, safe
    /// code could free what heaps are made of.)
    pub fn arena(&self) -> Option<ArenaView<'a, 'a, 'a, A, L>> {
        self.arena.map(Arena::view)
    }

    /// Bytes that all heaps keep, without what is on its way back. O(1).
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Whether pages wait to be given back by [`TalcLock::drain`]. O(1).
    #[inline]
    pub fn has_pending_releases(&self) -> bool {
        self.release_queue.first().is_some()
    }

    /// How many bytes to grow by.
    fn growth(&self, arena: &Arena<'a, 'a, A, L>) -> usize {
        self.policy
            .growth(self.claimed)
            .next_multiple_of(arena.quantum())
    }

    /// Records that the heaps keep `added` more bytes and `removed` fewer.
    fn update_claimed(&mut self, added: usize, removed: usize) {
        self.claimed = self.claimed + added - removed;
        self.trim_threshold = 2 * self.policy.headroom(self.claimed);
    }

    /// Changes how much a heap keeps. Its record moves to the new end, and the segment is as large as
    /// `size` from now on. Returns where the record is.
    ///
    /// # Safety
    /// `old` must be a copy of a live record in [`HEAPS`]; `kept` must be a multiple of
    /// the quantum, at most `size`, and everything up to `size` be mapped. The bytes of the new record must
    /// belong to this source.
    unsafe fn set_retained(
        &mut self,
        mut old: HeapRecord,
        retained: usize,
        size: usize,
    ) -> NonNull<HeapRecord> {
        let queued = old.state == ReleaseState::QUEUED;
        let before = old.retained;
        (old.retained, old.size) = (retained, size);
        // SAFETY: `kept` is within the segment, whose base `old.base` is.
        let moved = unsafe { HeapRecord::location(old.base, retained) };
        // SAFETY: the caller vouches that the place is ours; it is aligned since all sizes are.
        unsafe { old.write_to(moved) };
        // SAFETY: `moved` replaces `record` in the lists that it is in.
        unsafe { self.heaps.moved(moved) };
        if queued {
            // SAFETY: as above.
            unsafe { self.release_queue.moved(moved) };
        }
        // SAFETY: whoever drains the pages above keeps the slot until the record is told.
        unsafe { DrainSlot::follow(moved) };
        // SAFETY: `moved` was written above.
        unsafe { self.update_queue(moved, true) };
        self.update_claimed(retained, before);
        moved
    }

    /// Puts `record` into the queue, as the `first` or the last, or takes it out, as `kept` and `size` say.
    ///
    /// # Safety
    /// `record` must be live, and in [`RELEASE_QUEUE`] exactly if its state says so.
    unsafe fn update_queue(&mut self, record: NonNull<HeapRecord>, first: bool) {
        // SAFETY: the caller vouches for the record; nothing else holds a reference to it.
        let Some(found) = (unsafe { HeapRecord::read(record) }) else {
            return;
        };
        let (state, owes) = (found.state, found.retained < found.size);
        let state = match (state, owes) {
            (ReleaseState::IDLE, true) => {
                // SAFETY: a settled record is not in the queue.
                unsafe {
                    if first {
                        self.release_queue.push(record);
                    } else {
                        self.release_queue.push_last(record);
                    }
                }
                ReleaseState::QUEUED
            }
            (ReleaseState::QUEUED, false) => {
                // SAFETY: a queued record is in the queue.
                unsafe { self.release_queue.remove(record) };
                ReleaseState::IDLE
            }
            (state, _) => state,
        };
        // SAFETY: as above.
        unsafe { HeapRecord::update(record, |it| it.state = state) };
    }

    /// Takes the heap of `record` out of the live heaps and queues all of its segment.
    ///
    /// # Safety
    /// `record` must be live and in [`HEAPS`], and Talc must have no use for its heap any more.
    unsafe fn delete_heap(&mut self, record: NonNull<HeapRecord>) {
        // SAFETY: the caller vouches for the record.
        unsafe { self.heaps.remove(record) };
        let mut retained = 0;
        // SAFETY: as above; nothing else holds a reference to it.
        unsafe { HeapRecord::update(record, |it| retained = core::mem::take(&mut it.retained)) };
        // SAFETY: it is live, and its state was not touched.
        unsafe { self.update_queue(record, true) };
        self.update_claimed(0, retained);
    }
}

// SAFETY: the records are found and changed through the `Talc` alone that is passed; the arena, its source
// and its tag supply allocate nothing from it, as `ArenaSource::new` demands by "used by nobody else".
unsafe impl<A: TagSupply, L: Lock> Source for ArenaSource<'_, A, L> {
    const TRACK_HEAP_END: bool = true;
    const GRANTS_ZEROED: bool = true;

    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let arena = talc.source.arena.ok_or(())?;
        if !talc.source.owner.is_bound_to(&talc.owner_token) {
            return Err(());
        }
        let grown = match talc.grow_in_place(arena, layout) {
            GrowthResult::Grown => true,
            // The allocator finds it when it searches all of its gaps.
            GrowthResult::Fits => false,
            GrowthResult::Refused => talc.claim_new_heap(arena, layout),
        };
        if !grown {
            return Err(());
        }
        talc.source.policy.record_growth();
        talc.source.update_claimed(0, 0);
        Ok(())
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
        // SAFETY: the caller passes the end of a heap with that much free below it.
        unsafe { self.lower_end(chunk_base, heap_end, is_heap_base) }
    }
}

impl<A: TagSupply, L: Lock> ArenaSource<'_, A, L> {
    /// Lowers the end of a heap, or deletes it, and returns the new end.
    ///
    /// # Safety
    /// As for [`Source::resize`].
    #[cold]
    unsafe fn lower_end(
        &mut self,
        chunk_base: *mut u8,
        heap_end: *mut u8,
        is_heap_base: bool,
    ) -> *mut u8 {
        // SAFETY: a record lies at the end of each heap.
        let (record, arena) = unsafe {
            (
                NonNull::new_unchecked(heap_end).cast::<HeapRecord>(),
                self.arena,
            )
        };
        let Some(arena) = arena else { return heap_end };
        // SAFETY: the record is live, and nothing writes to it while it is copied.
        let Some(old) = (unsafe { HeapRecord::read(record) }) else {
            return heap_end;
        };
        if old.owner != self.owner {
            return heap_end;
        }
        if is_heap_base {
            self.policy.record_release();
            // SAFETY: the record is live, and Talc forgets the heap when its base is returned.
            unsafe { self.delete_heap(record) };
            return chunk_base;
        }
        let used = chunk_base.addr() - old.base.addr().get();
        let free = heap_end.addr() - chunk_base.addr();
        let retained = (used + self.policy.headroom(self.claimed - free) + RECORD_SIZE)
            .next_multiple_of(arena.quantum());
        if retained >= old.retained {
            return heap_end;
        }
        self.policy.record_release();
        let size = old.size;
        // SAFETY: the record was copied. Its new place is above `chunk_base`, in memory that is free and
        // that belongs to this source once its address is returned.
        unsafe { self.set_retained(old, retained, size) }
            .cast()
            .as_ptr()
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
