//! Reports of misuse and damage.

use core::alloc::Layout;
use core::fmt;

/// A finding and its address: see the diagram of [`Misuse`].
///
/// Displayed as `heap misuse at 0x1234: a pointer into the allocation that begins at 0x1230`, for
/// instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The address of the pointer that was passed, or of the first wrong byte or word.
    pub address: usize,
    /// The kind of misuse or damage.
    pub misuse: Misuse,
}

/// A kind of misuse of an allocator, or of damage to its memory, with the expected and the found
/// value.
///
/// ```text
///      1        2                                 3
///     ┌──────────────────┬──────┬─────────┬─────┬──────────────────────┬─────────────┬────────┐
///     │ allocation       │ bb … │ redzone │ tag │ extent next referrer │ dead beef … │ extent │  4
///     └──────────────────┴──────┴─────────┴─────┴──────────────────────┴─────────────┴────────┘
///                         a      a         b     c                      d             c
///     freed or resized   1 WrongLayout, if not as allocated   2 InteriorPointer
///                        3 DoubleFree                         4 ForeignPointer: in no heap
///     written to         a WriteBeyondEnd   b DamagedTag   c DamagedGap   d WriteAfterFree
///
///                   e                          f
///     ┌────────────┬────────┬──────────┬────────────┬────────────┐
///     │ not a heap │ record │ base tag │ list heads │ allocation …    the first heap; others have
///     └────────────┴────────┴──────────┴────────────┴────────────┘    no list heads
///     written to         e DamagedHeapRecord   f DamagedListHead, DamagedOwnerFlag
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// A pointer into no heap was freed or resized.
    ForeignPointer,
    /// A pointer into the middle of an allocation was freed or resized.
    InteriorPointer {
        /// Where the allocation begins.
        block: usize,
    },
    /// A pointer into free memory was freed or resized: a second time, if it ever was an
    /// allocation.
    DoubleFree {
        /// Where the free range begins.
        from: usize,
        /// Where it ends.
        to: usize,
    },
    /// An allocation was freed or resized with a wrong layout.
    WrongLayout {
        /// The layout with which it was allocated or last resized.
        expected: Layout,
        /// The layout with which it was freed or resized now.
        found: Layout,
    },
    /// The bytes above an allocation have changed.
    WriteBeyondEnd {
        /// The allocation, if it can be identified.
        block: Option<usize>,
        /// The byte or the word that was there.
        expected: usize,
        /// The byte or the word that is there now.
        found: usize,
    },
    /// Memory has changed after it was freed.
    WriteAfterFree {
        /// The word that was there.
        expected: usize,
        /// The word that is there now.
        found: usize,
    },
    /// The tag at the end of an allocation, or at the base of a heap, has changed.
    DamagedTag {
        /// The word of an undamaged tag.
        expected: usize,
        /// The word that is there now.
        found: usize,
    },
    /// The record below the base tag of a heap has changed, which holds the extents of other heaps.
    DamagedHeapRecord {
        /// The original of the first word that has changed, if it can be determined.
        expected: Option<usize>,
        /// The word that is there now.
        found: usize,
    },
    /// The head of a free list has changed.
    DamagedListHead {
        /// The number of the list.
        bin: u32,
        /// The address of the first gap of the list, or zero if the list is empty; `None` if it
        /// cannot be determined.
        expected: Option<usize>,
        /// The word that is there now.
        found: usize,
    },
    /// The record that a source keeps above the end of a heap has changed.
    DamagedSourceRecord,
    /// The byte above the list heads has changed, by which a source knows whether its allocator
    /// exists.
    DamagedOwnerFlag {
        /// The byte that is there now, instead of zero.
        found: u8,
    },
    /// The header or the last word of a gap has changed.
    DamagedGap {
        /// The word that was there, if it can be determined.
        expected: Option<usize>,
        /// The word that is there now.
        found: usize,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heap misuse at {:#x}: {}", self.address, self.misuse)
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Misuse::ForeignPointer => write!(f, "a pointer into no heap"),
            Misuse::InteriorPointer { block } => {
                write!(f, "a pointer into the allocation that begins at {block:#x}")
            }
            Misuse::DoubleFree { from, to } => {
                write!(
                    f,
                    "a double free: all of {from:#x}..{to:#x} is free already"
                )
            }
            Misuse::WrongLayout { expected, found } => write!(
                f,
                "allocated with size {} and alignment {}, used with size {} and alignment {}",
                expected.size(),
                expected.align(),
                found.size(),
                found.align()
            ),
            Misuse::WriteBeyondEnd {
                block,
                expected,
                found,
            } => {
                write!(f, "a write beyond the end of ")?;
                match block {
                    Some(block) => write!(f, "the allocation at {block:#x}")?,
                    None => write!(f, "an allocation")?,
                }
                write!(f, ": {found:#x} instead of {expected:#x}")
            }
            Misuse::WriteAfterFree { expected, found } => {
                write!(f, "a write after free: {found:#x} instead of {expected:#x}")
            }
            Misuse::DamagedTag { expected, found } => {
                write!(f, "a damaged tag: {found:#x} instead of {expected:#x}")
            }
            Misuse::DamagedHeapRecord { expected, found } => {
                write!(f, "a damaged record of a heap: ")?;
                write_instead(f, found, expected)
            }
            Misuse::DamagedListHead {
                bin,
                expected,
                found,
            } => {
                write!(f, "a damaged head of list {bin}: ")?;
                write_instead(f, found, expected)
            }
            Misuse::DamagedSourceRecord => write!(f, "a damaged record of the heap's source"),
            Misuse::DamagedOwnerFlag { found } => {
                write!(
                    f,
                    "a damaged flag above the list heads: {found:#x} instead of 0x0"
                )
            }
            Misuse::DamagedGap { expected, found } => {
                write!(f, "a damaged description of free memory: ")?;
                write_instead(f, found, expected)
            }
        }
    }
}

/// Writes the found value, and the expected one if it is known.
fn write_instead(f: &mut fmt::Formatter<'_>, found: usize, expected: Option<usize>) -> fmt::Result {
    match expected {
        Some(expected) => write!(f, "{found:#x} instead of {expected:#x}"),
        None => write!(f, "{found:#x}, which is impossible"),
    }
}

impl core::error::Error for Report {}
