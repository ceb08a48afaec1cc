//! The errors of an arena, with the values to act on.

use core::fmt;

/// [`core::result::Result`] with [`Error`] as the error type.
pub type Result<T> = core::result::Result<T, Error>;

/// An error of an arena or of a [`Source`](super::Source).
///
/// After an error the arena is in the state before the call. Sizes and addresses are in the unit of
/// the arena.
///
/// The picture shows spans that an arena of quantum 0x1000 refuses:
///
/// ```text
///                        0x1_0000                                0x1_5000
///  existing span         │                                       │
///  OverlappingSpan                                       ├──────────────┤   (0x1_4000, 0x2000)
///  UnalignedSpan     ├──────┤                                    (0xf800, 0x1000)
///  WrappingSpan      the last page of the address space, and page 0 after it
/// ```
///
/// ```
/// # use heap::vmem::*;
/// # type Lock = LockApi<spin::Mutex<()>>;
/// # let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
/// # let arena = Arena::<_, Lock>::create("addresses", 0x1000, None, &tags)?;
/// arena.add_span(0x1_0000, 0x5000)?;
/// let overlapping = Error::OverlappingSpan { base: 0x1_4000, len: 0x2000, other: 0x1_0000 };
/// assert_eq!(arena.add_span(0x1_4000, 0x2000), Err(overlapping));
/// let unaligned = Error::UnalignedSpan { base: 0xf800, len: 0x1000, quantum: 0x1000 };
/// assert_eq!(arena.add_span(0xf800, 0x1000), Err(unaligned));
/// let wrapping = Error::WrappingSpan { base: usize::MAX - 0xfff, len: 0x2000 };
/// assert_eq!(arena.add_span(usize::MAX - 0xfff, 0x2000), Err(wrapping));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The quantum is not a power of two.
    InvalidQuantum {
        /// The quantum given.
        quantum: usize,
    },
    /// The tag supply has no boundary tag left for this operation.
    AllocatorError,
    /// Neither the arena nor its source has room for the request.
    Empty {
        /// The requested size; when a segment was to grow, the missing size.
        size: usize,
    },
    /// No allocated segment starts at this base. It never did, or it is freed already.
    NoSuchAllocation {
        /// The base that was passed.
        base: usize,
    },
    /// The segment does not have the size that the caller passed.
    WrongSize {
        /// The base of the segment.
        base: usize,
        /// The size of the segment, a multiple of the quantum.
        expected: usize,
        /// The size that was passed, not rounded up.
        found: usize,
    },
    /// The arena has no source to import from.
    NoSource,
    /// The span would reach beyond the last address.
    WrappingSpan {
        /// The base of the span.
        base: usize,
        /// Its length.
        len: usize,
    },
    /// The base or the length of the span is not a multiple of the quantum.
    UnalignedSpan {
        /// The base of the span.
        base: usize,
        /// Its length.
        len: usize,
        /// The arena's quantum.
        quantum: usize,
    },
    /// The span overlaps a span of the arena.
    OverlappingSpan {
        /// The base of the span.
        base: usize,
        /// Its length.
        len: usize,
        /// The base of the existing span.
        other: usize,
    },
    /// The requested base is not a multiple of the quantum.
    UnalignedBase {
        /// The base that was passed.
        base: usize,
        /// The arena's quantum.
        quantum: usize,
    },
    /// The base or the size of a part of a segment is not a multiple of the quantum.
    UnalignedPart {
        /// The base of the part.
        base: usize,
        /// Its size.
        size: usize,
        /// The coarser of the quanta of the arena and its source.
        quantum: usize,
    },
    /// No allocated segment contains all of this range.
    NoSuchPart {
        /// The base of the range.
        base: usize,
        /// Its size.
        size: usize,
    },
    /// The span that contains this address was not imported from a source.
    NotImported {
        /// The address that was passed.
        base: usize,
    },
    /// The requested size is zero.
    AllocZeroSize,
    /// A computation with the size overflows: the size rounded up to the quantum, the end of the
    /// range, or the total size of all spans.
    SizeOverflow {
        /// The size that was passed.
        size: usize,
    },
    /// No address satisfies the layout in an arena of this quantum.
    ///
    /// For example, the phase is no multiple of the quantum, or the range from `min` to `max` is
    /// smaller than the size.
    Unsatisfiable {
        /// The requested size.
        size: usize,
    },
    /// The requested range is not entirely free.
    Occupied {
        /// The first address of the range. When a segment was to grow, this is the range above it.
        base: usize,
        /// Its size, rounded up to the quantum.
        size: usize,
    },
    /// The spans of the arena would exceed its [limit](super::Arena::with_limit).
    LimitReached {
        /// The limit.
        limit: usize,
        /// The total size of all spans after the operation, with imports and releases in progress.
        total: usize,
    },
    /// Another operation on this segment, on a part of it, or at the end of its span, is in
    /// progress.
    Busy {
        /// The base of the segment.
        base: usize,
    },
    /// The source does not implement this operation.
    NotSupported,
    /// An error specific to the source.
    Other(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::InvalidQuantum { quantum } => {
                write!(f, "the quantum {quantum:#x} is not a power of two")
            }
            Self::AllocatorError => f.write_str("no boundary tags left"),
            Self::Empty { size } => write!(f, "no room for {size:#x}"),
            Self::NoSuchAllocation { base } => write!(f, "nothing is allocated at {base:#x}"),
            Self::WrongSize {
                base,
                expected,
                found,
            } => write!(
                f,
                "the allocation at {base:#x} has size {expected:#x}, not {found:#x}"
            ),
            Self::NoSource => f.write_str("the arena has no source"),
            Self::WrappingSpan { base, len } => write!(
                f,
                "a span at {base:#x} of length {len:#x} passes the last address"
            ),
            Self::UnalignedSpan { base, len, quantum } => write!(
                f,
                "a span at {base:#x} of length {len:#x} is not in multiples of the quantum \
                 {quantum:#x}"
            ),
            Self::OverlappingSpan { base, len, other } => write!(
                f,
                "a span at {base:#x} of length {len:#x} overlaps the span at {other:#x}"
            ),
            Self::UnalignedBase { base, quantum } => write!(
                f,
                "the address {base:#x} is not a multiple of the quantum {quantum:#x}"
            ),
            Self::UnalignedPart {
                base,
                size,
                quantum,
            } => write!(
                f,
                "a part at {base:#x} of size {size:#x} is not in multiples of the quantum \
                 {quantum:#x}"
            ),
            Self::NoSuchPart { base, size } => write!(
                f,
                "no allocation contains all of the part at {base:#x} of size {size:#x}"
            ),
            Self::NotImported { base } => {
                write!(f, "the span with {base:#x} was not imported")
            }
            Self::AllocZeroSize => f.write_str("a size of zero"),
            Self::SizeOverflow { size } => {
                write!(f, "the size {size:#x} is more than the address space")
            }
            Self::Unsatisfiable { size } => {
                write!(f, "no address satisfies the constraints on size {size:#x}")
            }
            Self::Occupied { base, size } => {
                write!(f, "the range at {base:#x} of size {size:#x} is not free")
            }
            Self::LimitReached { limit, total } => {
                write!(f, "a total of {total:#x} is above the limit {limit:#x}")
            }
            Self::Busy { base } => {
                write!(f, "another operation on {base:#x} is in progress")
            }
            Self::NotSupported => f.write_str("not supported by the source"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl core::error::Error for Error {}
