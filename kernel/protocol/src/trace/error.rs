//! What is wrong with a trace.

use core::fmt;

#[cfg(doc)]
use super::MAX_ALIGN_LOG2;

/// Why a trace is refused. Operations are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceError {
    /// The header is cut off, or is not one of a trace.
    NotATrace,
    /// The trace has no operations.
    Empty,
    /// The header has more slots than operations. An operation fills at most one slot.
    TooManySlots {
        /// The number of slots.
        slots: u32,
        /// The number of operations.
        operations: u32,
    },
    /// The trace ends within an operation.
    Truncated {
        /// The operation that is cut off.
        operation: u32,
    },
    /// Bytes follow the last operation.
    TooLong {
        /// The number of those bytes.
        bytes: usize,
    },
    /// The code of an operation is unknown.
    UnknownOperation {
        /// The operation.
        operation: u32,
        /// Its code.
        code: u64,
    },
    /// A number has more than 64 bits.
    NumberTooLarge {
        /// The operation.
        operation: u32,
    },
    /// The slot is not below the number of slots in the header.
    SlotOutOfRange {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: u64,
    },
    /// The size is zero, or larger than any object.
    BadSize {
        /// The operation.
        operation: u32,
        /// The size.
        size: u64,
    },
    /// The alignment is larger than 2 to the power [`MAX_ALIGN_LOG2`].
    BadAlignment {
        /// The operation.
        operation: u32,
        /// The binary logarithm of the alignment.
        align_log2: u64,
    },
    /// An allocation goes to a slot that is not empty.
    SlotOccupied {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: usize,
    },
    /// A slot to free or to reallocate is empty.
    SlotEmpty {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: usize,
    },
    /// The peak of live bytes differs from the one in the header.
    WrongPeak {
        /// The peak in the header.
        header: u64,
        /// The peak of the operations.
        found: u128,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrace => f.write_str("it does not begin with HEAPTRC1 and a whole header"),
            Self::Empty => f.write_str("it has no operations"),
            Self::TooManySlots { slots, operations } => {
                write!(f, "{slots} slots are too many for {operations} operations")
            }
            Self::Truncated { operation } => write!(f, "it ends within operation {operation}"),
            Self::TooLong { bytes } => write!(f, "{bytes} bytes follow the last operation"),
            Self::UnknownOperation { operation, code } => {
                write!(f, "operation {operation} has the unknown code {code}")
            }
            Self::NumberTooLarge { operation } => {
                write!(f, "operation {operation} has a number of more than 64 bits")
            }
            Self::SlotOutOfRange { operation, slot } => {
                write!(f, "operation {operation}: slot {slot} is out of range")
            }
            Self::BadSize { operation, size } => {
                write!(f, "operation {operation}: a size of {size} bytes")
            }
            Self::BadAlignment {
                operation,
                align_log2,
            } => write!(f, "operation {operation}: an alignment of 2^{align_log2}"),
            Self::SlotOccupied { operation, slot } => {
                write!(f, "operation {operation}: slot {slot} is occupied")
            }
            Self::SlotEmpty { operation, slot } => {
                write!(f, "operation {operation}: slot {slot} is empty")
            }
            Self::WrongPeak { header, found } => write!(
                f,
                "the peak of live bytes is {found}, but the header says {header}"
            ),
        }
    }
}

impl core::error::Error for TraceError {}
