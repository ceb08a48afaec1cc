//! The audit: compares what each layer of memory management says about the layers below it.

use core::fmt;

use heap::slab::SlabCorruption;
use heap::talc::Corruption;
use heap::vmem;

use crate::cpus;
use crate::heap::HEAP;
use crate::memory::page_table::Below;
use crate::memory::{
    HeapArenaView, PAGE_SIZE, arenas, frames, heap_pages, kernel_addresses, mapped_pages,
    page_table, protection, stacks, tags::TAGS,
};

/// The first mismatch that an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// Two layers count the same thing differently.
    Differ {
        /// What is counted, and in which unit.
        what: &'static str,
        /// The count of the upper layer.
        upper: usize,
        /// The count of the lower layer.
        lower: usize,
    },
    /// An invariant of the heap is broken.
    Heap(Corruption),
    /// An invariant of the slabs is broken.
    Slabs(SlabCorruption),
    /// An invariant of an arena is broken.
    Arena {
        /// The label of the arena.
        label: &'static str,
        /// The broken invariant and its location.
        corruption: vmem::Corruption,
    },
    /// The counts of frames differ from the table of frames.
    Frames(&'static str),
    /// An empty page table was not freed.
    EmptyPageTable,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ { what, upper, lower } => {
                write!(f, "{what}: {upper} above, {lower} below")
            }
            Self::Heap(corruption) => write!(f, "the heap: {corruption}"),
            Self::Slabs(corruption) => write!(f, "the slabs: {corruption}"),
            Self::Arena { label, corruption } => {
                write!(f, "the arena \"{label}\": {corruption}")
            }
            Self::Frames(what) => f.write_str(what),
            Self::EmptyPageTable => f.write_str("an empty page table was not freed"),
        }
    }
}

impl core::error::Error for Mismatch {}

/// Makes the heap give back all memory that it retains for speed, as [`check`] requires. Waits
/// until the other CPUs are idle first, or for a moment.
pub fn quiesce() {
    cpus::wait_until_idle();
    HEAP.reap();
}

/// Compares the counts of all layers.
///
/// The counts match while the heap is [quiescent](quiesce), no other code changes memory, and all
/// pages of "heap pages" belong to the heap or are stacks. O(all heaps, arenas, frames and page
/// tables).
///
/// # Errors
/// Returns the first mismatch.
pub fn check() -> Result<(), Mismatch> {
    HEAP.check_slabs().map_err(Mismatch::Slabs)?;
    let (claimed, holes) = {
        let talc = HEAP.core().lock();
        talc.check().map_err(Mismatch::Heap)?;
        (talc.source.claimed(), talc.source.hole_bytes())
    };
    let (pages, addresses) = (heap_pages(), kernel_addresses());
    check_arena(pages)?;
    check_arena(addresses)?;
    frames::check().map_err(Mismatch::Frames)?;

    let (mapped, discarded) = (mapped_pages::mapped(), mapped_pages::discarded());
    let usage = frames::usage();
    let tags = TAGS.counts();
    let (leading_guard, below) = arenas::window().map_or((0, Below::default()), |window| {
        let below = page_table::tables_below(window.level_4_entry());
        (window.leading_guard().len(), below)
    });
    for (what, upper, lower) in [
        (
            "bytes of the heap and the stacks, and of heap pages",
            claimed + stacks::allocated(),
            pages.allocated_space(),
        ),
        ("bytes of holes", holes, discarded * PAGE_SIZE),
        (
            "bytes of heap pages, allocated and in total",
            pages.allocated_space(),
            pages.total_space(),
        ),
        (
            "bytes of heap pages",
            pages.total_space(),
            (mapped + discarded) * PAGE_SIZE,
        ),
        (
            "mapped pages, holes, guard pages and the leading guard",
            (mapped + discarded + mapped_pages::ranges()) * PAGE_SIZE + leading_guard,
            addresses.allocated_space(),
        ),
        ("mapped pages and frames", mapped, usage.heap),
        (
            "mapped pages and page table entries",
            mapped,
            below.mappings,
        ),
        (
            "pages of boundary tags",
            tags.tag_pages + tags.index_pages,
            usage.tags,
        ),
        (
            "page tables",
            below.tables + protection::tables(),
            usage.page_tables,
        ),
    ] {
        if upper != lower {
            return Err(Mismatch::Differ { what, upper, lower });
        }
    }
    if below.empty {
        return Err(Mismatch::EmptyPageTable);
    }
    Ok(())
}

fn check_arena(arena: HeapArenaView) -> Result<(), Mismatch> {
    let label = arena.label();
    arena
        .check()
        .map_err(|corruption| Mismatch::Arena { label, corruption })
}
