//! The boundary-tag allocator.
//!
//! [`Talc`] allocates from any number of *heaps*: ranges of addresses that its user claims, or that
//! its [`Source`] provides. A heap consists of *chunks*, which are in use, and of *gaps*, which are
//! free. Free lists hold the gaps by size. A freed chunk coalesces immediately with the gaps that
//! it touches. The cost of an operation does not depend on the number of chunks, gaps or heaps.
//!
//! Its relatives are dlmalloc (Doug Lea, *A Memory Allocator*, 1996) and TLSF (Masmano and others,
//! *TLSF: a new dynamic memory allocator for real-time systems*, 2004).
//!
//! | file | subject |
//! |---|---|
//! | `chunk`, `tag`, `gap_header` | the layout of a heap in memory |
//! | `requirement` | what an allocation takes of a heap |
//! | `free_lists`, `binning`, `bitfield` | the free lists and their bins |
//! | `allocate`, `reallocate`, `heap_bounds` | the operations on chunks and on heaps |
//! | `carve` | chunks at chosen addresses: what holes are made of |
//! | `zeroed` | memory that is known to be zero and need not be cleared |
//! | `check`, `walk`, `counters` | inspection of a heap |
//! | `lock` | an allocator for several threads, and a `#[global_allocator]` |
//! | `cell` | an allocator for one thread, without a lock |
//! | `allocator_impls` | `GlobalAlloc` and `Allocator` for both |
//! | `hardened` | detection of misuse and damage, with the feature `hardened` |

#![warn(clippy::multiple_unsafe_ops_per_block)]

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;

use self::binning::Binning;
use self::carve::UsedTop;
use self::chunk::{HEAP_OVERHEAD, chunk_size};
use self::counters::Counting;
use self::free_lists::FreeLists;
use self::hardened::Reporting;
use self::owner::OwnerToken;
use self::requirement::{heap_overhead, metadata_chunk_size};
use self::source::Source;
use self::zeroed::KnownZero;

mod allocate;
mod allocator_impls;
pub mod binning;
pub mod bitfield;
pub(crate) mod carve;
pub mod cell;
mod check;
mod chunk;
mod counters;
mod free_lists;
mod gap_header;
#[cfg(feature = "hardened")]
pub mod hardened;
#[cfg(not(feature = "hardened"))]
#[path = "hardened/disabled.rs"]
mod hardened;
mod heap_bounds;
mod lock;
mod manual;
pub(crate) mod owner;
#[cfg(test)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a whole test has one proof"
)]
mod probe_tests;
mod reallocate;
mod reclaim;
mod requirement;
pub mod source;
mod tag;
mod walk;
mod zeroed;

pub use lock_api;

pub(crate) use self::allocator_impls::{allocator, allocators};
pub(crate) use self::tag::MAX_GAP;

pub use self::binning::DefaultBinning;
pub use self::check::{Corruption, Rule};
#[cfg(feature = "counters")]
pub use self::counters::Counters;
pub use self::walk::Region;

/// The allocator without a lock.
pub mod base {
    pub use super::chunk::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD};
    #[cfg(feature = "counters")]
    pub use super::counters::Counters;
    pub use super::heap_bounds::Reserved;
    pub use super::requirement::ChunkRequirement;
    pub use super::zeroed::Uncleared;
    pub use super::{Talc, binning, bitfield};
}

/// The allocator behind a lock.
pub mod sync {
    pub use super::lock::{TalcGuard, TalcLock};
    pub use super::reclaim::{ReclaimHooks, Reclaiming};
}

/// A [`sync::TalcLock`] with the [`DefaultBinning`].
pub type TalcLock<R, S> = sync::TalcLock<R, S, DefaultBinning>;

/// A [`cell::TalcCell`] with the [`DefaultBinning`].
pub type TalcCell<S> = cell::TalcCell<S, DefaultBinning>;

/// A boundary-tag allocator over any number of heaps.
///
/// ```text
///  Talc        first heap                                          another heap
/// ┌────────┐  ┌─┬────────────┬───────┬─────┬───────┬───────────┐  ┌─┬───────┬─────┬───────┐
/// │ source │  │t│ list heads │ chunk │ gap │ chunk │    gap    │  │t│ chunk │ gap │ chunk │
/// │ bits   │  └─┴──┬──────┬──┴───────┴─────┴───────┴───────────┘  └─┴───────┴─────┴───────┘
/// │ heads  │      3│     7│             ^                ^                     ^
/// └────────┘       └──────┼─────────────┴──── next ──────┼─────────────────────┘
///  bits: 3 and 7          └──────────────────────────────┘
/// ```
///
/// Each heap begins with a base tag *t*, and each chunk ends with a tag. Bit *n* is set when free
/// list *n* contains a gap. `Talc` itself has a fixed size; everything else lies in the heaps.
///
/// `Talc` has no interior mutability and so does not implement `GlobalAlloc`.
/// [`TalcLock`](sync::TalcLock) and [`TalcCell`](cell::TalcCell) do.
///
/// The source `S` provides memory when the heaps have too little, and may take memory back when it
/// becomes free. The binning `B` decides which gaps share a free list; [`DefaultBinning`] suits
/// most programs.
///
/// Where a method takes the layout of an allocation, only the size matters: the alignment may be
/// any that the address has. (With the feature `hardened` it must be the alignment of the
/// allocation.)
///
/// Sizes are in bytes. The numbers in the diagrams of the methods, and the costs, are those of the
/// default build on a 64-bit little-endian machine. With `hardened` both are higher.
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::{DefaultBinning, base::Talc, source::Manual};
///
/// let mut memory = [0_u64; 2048];
/// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
/// // SAFETY: only `talc` uses `memory`, which outlives it.
/// let heap_end = unsafe { talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory)) };
/// assert!(heap_end.is_some());
///
/// let layout = Layout::new::<[u32; 10]>();
/// // SAFETY: the layout's size is not zero.
/// let block = unsafe { talc.allocate(layout) }.expect("there is room");
/// // SAFETY: the block was allocated with this layout.
/// unsafe { talc.deallocate(block.as_ptr(), layout) };
/// assert!(talc.check().is_ok());
/// ```
pub struct Talc<S: Source, B: Binning> {
    /// Dropped before the source, which may need to know that the allocator is gone.
    pub(crate) owner_token: OwnerToken,
    /// The provider of memory. `Talc` only calls its methods: see [`Source`].
    pub source: S,
    free_lists: FreeLists<B>,
    counters: Counting,
    /// Bytes in all heaps, each counted from its first chunk or gap to its end.
    heap_bytes: usize,
    known_zero: KnownZero,
    used_top: UsedTop,
    /// Whether the source has ever made a hole without a tag.
    has_untagged: bool,
    #[cfg_attr(not(feature = "hardened"), expect(dead_code))]
    reporting: Reporting,
}

// SAFETY: the allocator owns the gaps that its pointers lead to, and they move between threads with
// it.
unsafe impl<S: Source + Send, B: Binning> Send for Talc<S, B> {}
// SAFETY: methods that take `&self` only read.
unsafe impl<S: Source + Sync, B: Binning> Sync for Talc<S, B> {}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Returns an allocator without memory.
    pub const fn new(source: S) -> Self {
        Self {
            owner_token: OwnerToken::new(),
            source,
            free_lists: FreeLists::new(),
            counters: Counting::new(),
            heap_bytes: 0,
            known_zero: KnownZero::new(),
            used_top: UsedTop::new(),
            has_untagged: false,
            reporting: Reporting::new(),
        }
    }

    /// Returns whether a heap was ever claimed. O(1).
    ///
    /// The first heap permanently holds the list heads and must have room for them: see
    /// [`min_first_heap_size`]. Later heaps need only a few bytes.
    pub fn is_metadata_established(&self) -> bool {
        self.free_lists.is_established()
    }

    /// Returns the flag in the first heap that is set when this allocator is dropped.
    ///
    /// # Safety
    /// A heap has been claimed.
    pub(crate) unsafe fn owner_flag(&self) -> NonNull<AtomicBool> {
        // SAFETY: the first claim placed the flag above the list heads, so the pointer is not null.
        unsafe { NonNull::new_unchecked(self.free_lists.owner_flag()) }
    }

    /// Returns the bytes from the base of the heap that is claimed next, a multiple of
    /// [`CHUNK_UNIT`](base::CHUNK_UNIT), to its lowest allocation: for the base tag and, in the
    /// first heap, the list heads. O(1).
    ///
    /// A source may keep records of its own above them, as an
    /// [`ArenaSource`](crate::source::ArenaSource) does in the first heap: a table of holes. Then
    /// the lowest allocation lies above these.
    ///
    /// See [`ChunkRequirement`](base::ChunkRequirement).
    pub const fn next_heap_overhead(&self) -> usize {
        heap_overhead::<B>(!self.free_lists.is_established())
    }

    /// Returns statistics: what is allocated, free and claimed now, and in total. O(1).
    #[cfg(feature = "counters")]
    #[doc(alias("get_counters", "mallinfo"))]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<S: Source, B: Binning> fmt::Debug for Talc<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talc")
            .field("source", &self.source)
            .field("summary", &self.summary())
            .finish_non_exhaustive()
    }
}

/// The state of an allocator as `Debug` shows it.
#[derive(Debug)]
#[expect(dead_code, reason = "only `Debug` reads the fields")]
struct Summary {
    is_metadata_established: bool,
    gaps: usize,
    free_bytes: usize,
    largest_gap: usize,
}

impl<S: Source, B: Binning> Talc<S, B> {
    fn summary(&self) -> Summary {
        let mut summary = Summary {
            is_metadata_established: self.is_metadata_established(),
            gaps: 0,
            free_bytes: 0,
            largest_gap: 0,
        };
        for gap in self.gaps() {
            summary.gaps += 1;
            summary.free_bytes += gap.size();
            summary.largest_gap = summary.largest_gap.max(gap.size());
        }
        summary
    }
}

/// Returns the size of a range of memory in which the first [claim](base::Talc::claim), and then
/// the smallest allocation, always succeed, at any address.
///
/// ```text
///   any address   multiple of 16                                        multiple of 16
///    ├─── up to 15 ──┬─┬──────────────────────────────┬──────────┬── up to 15 ──┤
///    │ not touched   │t│ list heads: 1536 with        │ a gap:   │ not touched  │
///    │               │1│ the DefaultBinning           │ 32       │              │
///    └───────────────┴─┴──────────────────────────────┴──────────┴──────────────┘
///      15            + 1 + 1536                       + 32       + 15 = 1599
/// ```
///
/// The gap holds the smallest chunk: see [`CHUNK_UNIT`](base::CHUNK_UNIT). On 32-bit machines the
/// sum is 418 with the `DefaultBinning`. (A claim succeeds with less, but then no allocation does.)
///
/// ```
/// use heap::talc::{DefaultBinning, base::Talc, min_first_heap_size, source::Manual};
///
/// const SIZE: usize = min_first_heap_size::<DefaultBinning>();
/// let mut memory = [0_u8; SIZE];
/// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
/// // SAFETY: only `talc` uses `memory`, which outlives it.
/// assert!(unsafe { talc.claim(memory.as_mut_ptr(), SIZE) }.is_some());
/// assert!(talc.is_metadata_established());
/// ```
pub const fn min_first_heap_size<B: Binning>() -> usize {
    // At the base: the tag, and up to one unit less a byte to the first multiple of the unit. At
    // the end: as much again from the last multiple. Between them: the metadata and the smallest
    // chunk.
    HEAP_OVERHEAD + 2 * (base::CHUNK_UNIT - 1) + metadata_chunk_size::<B>() + chunk_size(1)
}

/// Returns the layout of a range of memory in which the first claim, and then the smallest
/// allocation, succeed.
///
/// ```text
///    multiple of 16
///    ├───────────┬─┬──────────────────────────────┬──────────┤
///    │ not used  │t│ list heads: 1536 with        │ a gap:   │
///    │           │1│ the DefaultBinning           │ 32       │
///    └───────────┴─┴──────────────────────────────┴──────────┘
///      16          + 1536                         + 32 = 1584
/// ```
pub const fn min_first_heap_layout<B: Binning>() -> Layout {
    // The base tag takes whole units, because the metadata must be aligned.
    let size = heap_overhead::<B>(true) + chunk_size(1);
    match Layout::from_size_align(size, base::CHUNK_UNIT) {
        Ok(layout) => layout,
        Err(_) => panic!("more bins than memory"),
    }
}
