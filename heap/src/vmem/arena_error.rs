//! What can go wrong in an arena, with the values a person needs to act on it.

use core::fmt;

/// [`core::result::Result`] with [`Error`] as the error type.
pub type Result<T> = core::result::Result<T, Error>;

/// An error returned by an arena or by a [`Source`](super::Source).
///
/// After an error the arena is as it was before the call. Sizes and addresses are in the unit of
/// the arena.
///
/// Spans that an arena of quantum 0x1000 refuses:
///
/// ```text
///                        0x1_0000                                0x1_5000
///  there is              │ a span                                │
///  OverlappingSpan                                       ├──────────────┤   (0x1_4000, 0x2000)
///  UnalignedSpan     ├──────┤                                    (0xf800, 0x1000)
///  WrappingSpan      the last page and one more, which would be page 0
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
    /// The tag supply had no boundary tag left for this operation.
    AllocatorError,
    /// Neither the arena nor its source has room for the request.
    Empty {
        /// The size asked for; of a segment that was to grow, how much was missing.
        size: usize,
    },
    /// No allocated segment starts here: it never did, or it was freed already.
    NoSuchAllocation {
        /// The base given.
        base: usize,
    },
    /// The segment has another size than the caller says.
    WrongSize {
        /// The base of the segment.
        base: usize,
        /// The size that the segment has, a multiple of the quantum.
        expected: usize,
        /// The size that the caller gave, before it is rounded up.
        found: usize,
    },
    /// The arena has no source to import from.
    NoSource,
    /// The span would reach past the last address.
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
    /// The span shares addresses with one that the arena already has.
    OverlappingSpan {
        /// The base of the span.
        base: usize,
        /// Its length.
        len: usize,
        /// The base of the span that was there first.
        other: usize,
    },
    /// The address asked for is not a multiple of the quantum.
    UnalignedBase {
        /// The address given.
        base: usize,
        /// The arena's quantum.
        quantum: usize,
    },
    /// A size of zero was asked for.
    AllocZeroSize,
    /// The size, rounded up to the quantum, is more than the address space, or from the base given
    /// reaches past its end, or makes more of all spans together than a number can say.
    SizeOverflow {
        /// The size given.
        size: usize,
    },
    /// No address at all satisfies the layout in an arena of this quantum: for example its phase
    /// is no multiple of the quantum, or its bounds are closer together than its size.
    Unsatisfiable {
        /// The size asked for.
        size: usize,
    },
    /// The range asked for is not entirely free.
    Occupied {
        /// The first address of the range; of a segment that was to grow, the range above it.
        base: usize,
        /// Its size, rounded up to the quantum.
        size: usize,
    },
    /// The arena would hold more than its limit.
    LimitReached {
        /// The limit.
        limit: usize,
        /// What the arena would have held, with what it is borrowing or giving back just now.
        total: usize,
    },
    /// Another operation on this segment, or at the end of its span, is under way.
    Busy {
        /// The base of the segment.
        base: usize,
    },
    /// The source cannot do this.
    NotSupported,
    /// An error of the source's own.
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
                write!(f, "another operation on {base:#x} is under way")
            }
            Self::NotSupported => f.write_str("not supported by the source"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl core::error::Error for Error {}
