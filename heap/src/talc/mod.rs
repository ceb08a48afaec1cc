//! The boundary-tag allocator.
//!
//! [`Talc`] allocates from any number of heaps, which are ranges of addresses that its
//! user claims or that its [`Source`] provides. Free ranges, *gaps*, lie in lists by size; a freed
//! chunk merges at once with the gaps that it touches. No operation depends on how many chunks, gaps
//! or heaps there are.
//!
//! It is in the family of dlmalloc (Doug Lea, *A Memory Allocator*, 1996) and TLSF (Masmano and
//! others, *TLSF: a new dynamic memory allocator for real-time systems*, 2004).
//!
//! | file | subject |
//! |---|---|
//! | `chunk`, `tag`, `node` | where everything lies in memory |
//! | `gaps`, `binning`, `bitfield` | the lists of gaps |
//! | `allocate`, `reallocate`, `extent` | the operations |
//! | `fresh` | what is zero need not be cleared |
//! | `check`, `walk`, `counters` | looking at a heap |
//! | `lock` | an allocator for several threads, and a `#[global_allocator]` |
//! | `cell` | an allocator for one thread, without a lock |
//! | `shared` | what both have in common: `GlobalAlloc` and `Allocator` |
//! | `hardened` | detection of misuse and damage, with the feature of that name |

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;

use self::binning::Binning;
use self::chunk::{HEAP_OVERHEAD, chunk_size};
use self::counters::Counting;
use self::footprint::{heap_overhead, metadata_chunk_size};
use self::free_lists::FreeLists;
use self::hardened::Reporting;
use self::owner::OwnerToken;
use self::source::Source;
use self::zeroed::KnownZero;

mod allocate;
mod allocator_impls;
pub mod binning;
pub mod bitfield;
pub mod cell;
mod check;
mod chunk;
mod counters;
mod extent;
mod footprint;
mod free_lists;
mod gap_header;
#[cfg(feature = "hardened")]
pub mod hardened;
#[cfg(not(feature = "hardened"))]
#[path = "hardened/disabled.rs"]
mod hardened;
mod lock;
mod manual;
pub(crate) mod owner;
#[cfg(test)]
mod probe_tests;
mod reallocate;
pub mod source;
mod tag;
mod walk;
mod zeroed;

pub use lock_api;

pub(crate) use self::tag::MAX_GAP;

pub use self::binning::DefaultBinning;
pub use self::check::{Corruption, Rule};
#[cfg(feature = "counters")]
pub use self::counters::Counters;
pub use self::walk::Region;

/// The allocator without a lock around it.
pub mod base {
    pub use super::chunk::{CHUNK_OVERHEAD, CHUNK_UNIT, HEAP_OVERHEAD};
    #[cfg(feature = "counters")]
    pub use super::counters::Counters;
    pub use super::extent::Reserved;
    pub use super::footprint::Footprint;
    pub use super::zeroed::Uncleared;
    pub use super::{Talc, binning, bitfield};
}

/// The allocator behind a lock.
pub mod sync {
    pub use super::lock::{TalcGuard, TalcLock};
}

/// A [`sync::TalcLock`] with the [`DefaultBinning`].
pub type TalcLock<R, S> = sync::TalcLock<R, S, DefaultBinning>;

/// A [`cell::TalcCell`] with the [`DefaultBinning`].
pub type TalcCell<S> = cell::TalcCell<S, DefaultBinning>;

/// An allocator over any number of heaps.
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
/// Each heap begins with a base tag *t*, each chunk ends with a tag. Bit *n* is set when list *n*
/// has a gap in it. `Talc` itself has a fixed size; all else lies in the heaps.
///
/// It has no interior mutability, so it is no `GlobalAlloc` itself: see [`TalcLock`](sync::TalcLock)
/// and [`TalcCell`](cell::TalcCell).
///
/// `S` is asked for memory when there is not enough, and may take it back when it becomes free.
/// `B` says which gaps share a list: [`DefaultBinning`] unless you know your sizes.
///
/// Where a method wants the layout of an allocation, only its size matters: it may have any
/// alignment that the address has. (With the feature `hardened` it must have the alignment with which
/// the allocation was made.)
///
/// Sizes are bytes. Numbers in the diagrams of the methods, and times, are those of the default
/// build on a 64-bit little-endian machine: `hardened` takes more of both.
///
/// ```
/// use core::alloc::Layout;
/// use heap::talc::{DefaultBinning, base::Talc, source::Manual};
///
/// let mut memory = [0_u64; 2048];
/// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
/// // SAFETY: nobody else uses `memory` as long as `talc` does.
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
    /// Dropped before the source, which may want to know that this is about to happen.
    pub(crate) owner_token: OwnerToken,
    /// Provides memory. `Talc` calls it and does not touch it otherwise. See [`Source`].
    pub source: S,
    free_lists: FreeLists<B>,
    counters: Counting,
    /// Bytes in heaps, from the first chunk or gap of each to its end.
    heap_bytes: usize,
    known_zero: KnownZero,
    #[cfg_attr(not(feature = "hardened"), expect(dead_code))]
    reporting: Reporting,
}

// SAFETY: the gaps that it points to belong to it, and go where it goes.
unsafe impl<S: Source + Send, B: Binning> Send for Talc<S, B> {}
// SAFETY: what takes `&self` only reads.
unsafe impl<S: Source + Sync, B: Binning> Sync for Talc<S, B> {}

impl<S: Source, B: Binning> Talc<S, B> {
    /// An allocator that has no memory yet.
    pub const fn new(source: S) -> Self {
        Self {
            owner_token: OwnerToken::new(),
            source,
            free_lists: FreeLists::new(),
            counters: Counting::new(),
            heap_bytes: 0,
            known_zero: KnownZero::new(),
            reporting: Reporting::new(),
        }
    }

    /// Whether a heap was ever claimed. O(1).
    ///
    /// The first heap also holds the list heads, for good, and must be large enough for them: see
    /// [`min_first_heap_size`]. Heaps that follow need a few bytes only.
    pub fn is_metadata_established(&self) -> bool {
        self.free_lists.is_established()
    }

    /// The flag in the first heap that is to be set when this is gone.
    ///
    /// # Safety
    /// A heap was claimed.
    pub(crate) unsafe fn owner_flag(&self) -> NonNull<AtomicBool> {
        // SAFETY: with the first heap the flag was made.
        unsafe { NonNull::new_unchecked(self.free_lists.owner_flag()) }
    }

    /// Returns the bytes from the base of the heap that is claimed next, a multiple of
    /// [`CHUNK_UNIT`](base::CHUNK_UNIT), to its lowest allocation: for the base tag and, in the
    /// first heap, the list heads. O(1).
    ///
    /// See [`Footprint`](base::Footprint).
    pub const fn next_heap_overhead(&self) -> usize {
        heap_overhead::<B>(!self.free_lists.is_established())
    }

    /// What is allocated, free and claimed now, and how much ever was. O(1).
    #[cfg(feature = "counters")]
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

/// What `Debug` shows of an allocator's state.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are there to be shown")]
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

/// With this size, wherever it is, the first claim succeeds, and the smallest allocation after it.
/// In bytes.
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
/// A gap holds a chunk of the smallest size: see [`CHUNK_UNIT`](base::CHUNK_UNIT). On 32-bit machines
/// the sum is 418 with the `DefaultBinning`. (A [claim](base::Talc::claim) succeeds with less, but no
/// allocation after it.)
///
/// ```
/// use heap::talc::{DefaultBinning, base::Talc, min_first_heap_size, source::Manual};
///
/// const SIZE: usize = min_first_heap_size::<DefaultBinning>();
/// let mut memory = [0_u8; SIZE];
/// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
/// // SAFETY: nobody else uses `memory` as long as `talc` does.
/// assert!(unsafe { talc.claim(memory.as_mut_ptr(), SIZE) }.is_some());
/// assert!(talc.is_metadata_established());
/// ```
pub const fn min_first_heap_size<B: Binning>() -> usize {
    // At the base, the tag and up to a unit less one byte to the first multiple of the unit; at the
    // end up to as much again to the last; between them the metadata and a chunk for an allocation.
    HEAP_OVERHEAD + 2 * (base::CHUNK_UNIT - 1) + metadata_chunk_size::<B>() + chunk_size(1)
}

/// With this size and alignment the first claim succeeds, and the smallest allocation after it.
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
    // The base tag takes whole units, or else the metadata would not be aligned.
    let size = heap_overhead::<B>(true) + chunk_size(1);
    match Layout::from_size_align(size, base::CHUNK_UNIT) {
        Ok(layout) => layout,
        Err(_) => panic!("more bins than memory"),
    }
}
