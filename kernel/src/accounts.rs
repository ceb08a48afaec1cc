//! Do the layers agree on who has how much?

use core::fmt;

use heap::talc::Corruption;
use heap::vmem;

use crate::heap::HEAP;
use crate::memory::{
    HeapArenaView, PAGE_SIZE, arenas, frames, heap_pages, kernel_addresses, mapped_pages,
    page_table, protection, tags::TAGS,
};

/// The first disagreement that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// Two accounts of the same thing differ.
    Differ {
        /// What it is, and in which unit.
        what: &'static str,
        /// What the upper layer says.
        upper: usize,
        /// What the lower layer says.
        lower: usize,
    },
    /// An invariant of the heap is broken.
    Heap(Corruption),
    /// An invariant of an arena is broken.
    Arena {
        /// The label of the arena.
        label: &'static str,
        /// Which invariant, and where.
        fault: vmem::Corruption,
    },
    /// The frames do not agree among themselves.
    Frames(&'static str),
    /// A page table that maps nothing was not freed.
    EmptyPageTable,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ { what, upper, lower } => {
                write!(f, "{what}: {upper} above, {lower} below")
            }
            Self::Heap(corruption) => write!(f, "the heap: {corruption}"),
            Self::Arena { label, fault } => write!(f, "the arena \"{label}\": {fault}"),
            Self::Frames(what) => f.write_str(what),
            Self::EmptyPageTable => f.write_str("a page table that maps nothing was not freed"),
        }
    }
}

impl core::error::Error for Disagreement {}

/// Gives back everything that the heap keeps only to be fast.
pub fn settle() {
    HEAP.reap();
}

/// Compares the accounts of all layers. They agree when nothing else is going on, the heap is
/// [settled](settle), and it alone has pages.
///
/// # Errors
/// The first disagreement.
pub fn check() -> Result<(), Disagreement> {
    let claimed = {
        let talc = HEAP.core().lock();
        talc.check().map_err(Disagreement::Heap)?;
        talc.source.claimed()
    };
    let (pages, addresses) = (heap_pages(), kernel_addresses());
    check_arena(pages)?;
    check_arena(addresses)?;
    frames::check().map_err(Disagreement::Frames)?;

    let mapped = mapped_pages::mapped();
    let usage = frames::usage();
    let tags = TAGS.counts();
    let (fence, tables, empty) = arenas::window().map_or((0, 0, false), |window| {
        let (tables, empty) = page_table::tables_below(window.level_4_entry());
        (window.fence().len(), tables, empty)
    });
    for (what, upper, lower) in [
        (
            "bytes of the heap and of heap pages",
            claimed,
            pages.allocated_space(),
        ),
        (
            "bytes of heap pages, allocated and in total",
            pages.allocated_space(),
            pages.total_space(),
        ),
        (
            "bytes of heap pages",
            pages.total_space(),
            mapped * PAGE_SIZE,
        ),
        (
            "mapped pages, guard pages and the fence",
            (mapped + mapped_pages::ranges()) * PAGE_SIZE + fence,
            addresses.allocated_space(),
        ),
        ("mapped pages and frames", mapped, usage.heap),
        (
            "pages of boundary tags",
            tags.tag_pages + tags.index_pages,
            usage.tags,
        ),
        (
            "page tables",
            tables + protection::tables(),
            usage.page_tables,
        ),
    ] {
        if upper != lower {
            return Err(Disagreement::Differ { what, upper, lower });
        }
    }
    if empty {
        return Err(Disagreement::EmptyPageTable);
    }
    Ok(())
}

fn check_arena(arena: HeapArenaView) -> Result<(), Disagreement> {
    let label = arena.label();
    arena
        .check()
        .map_err(|fault| Disagreement::Arena { label, fault })
}
