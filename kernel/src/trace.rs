//! Recorded allocation traces: every heap call of a real program.
//!
//!     8 bytes   "HEAPTRC1"
//!     u32       number of operations        (little-endian)
//!     u32       number of slots
//!     u64       peak of live bytes
//!     …         operations, each a few LEB128 numbers:
//!               1 slot size align_log2      allocate
//!               2 slot                      free
//!               3 slot new_size             reallocate, alignment unchanged
//!
//! Reading allocates nothing and believes nothing: every error is a value.

use core::fmt;

const MAGIC: [u8; 8] = *b"HEAPTRC1";

/// The largest alignment in a trace is 2 to this power: 2 MiB.
pub const MAX_ALIGN_LOG2: u64 = 21;

/// One heap call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Allocate a block, and remember it in an empty slot.
    Allocate {
        /// The slot.
        slot: usize,
        /// The size in bytes, not zero.
        size: usize,
        /// The alignment, a power of two.
        align: usize,
    },
    /// Free the block in a slot.
    Free {
        /// The slot.
        slot: usize,
    },
    /// Change the size of the block in a slot.
    Reallocate {
        /// The slot.
        slot: usize,
        /// The new size in bytes, not zero.
        size: usize,
    },
}

/// What is wrong with a trace, and at which operation, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceError {
    /// It does not begin like a trace.
    NotATrace,
    /// It ends before its last operation does.
    Truncated {
        /// The operation that is cut off.
        operation: u32,
    },
    /// Bytes follow the last operation.
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// There is no such operation.
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
    /// The header has fewer slots.
    SlotOutOfRange {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: u64,
    },
    /// The size is zero or more than any object can have.
    BadSize {
        /// The operation.
        operation: u32,
        /// The size.
        size: u64,
    },
    /// The alignment is above 2 to the power [`MAX_ALIGN_LOG2`].
    BadAlignment {
        /// The operation.
        operation: u32,
        /// The logarithm of the alignment.
        align_log2: u64,
    },
    /// The slot to allocate into is occupied.
    SlotOccupied {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: usize,
    },
    /// The slot to free or reallocate is empty.
    SlotEmpty {
        /// The operation.
        operation: u32,
        /// The slot.
        slot: usize,
    },
    /// The peak of live bytes is not what the header says.
    WrongPeak {
        /// What the header says.
        header: u64,
        /// What the operations amount to.
        found: u64,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrace => f.write_str("not a trace"),
            Self::Truncated { operation } => write!(f, "cut off in operation {operation}"),
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

/// A trace whose header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace<'a> {
    /// The number of operations.
    pub operations: u32,
    /// The number of slots.
    pub slots: u32,
    /// The peak of live bytes, as the header says.
    pub peak: u64,
    body: &'a [u8],
}

impl<'a> Trace<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When this is no trace.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TraceError> {
        let fields = || {
            let (magic, rest) = bytes.split_first_chunk()?;
            let (operations, rest) = rest.split_first_chunk()?;
            let (slots, rest) = rest.split_first_chunk()?;
            let (peak, body) = rest.split_first_chunk()?;
            (*magic == MAGIC).then_some(Self {
                operations: u32::from_le_bytes(*operations),
                slots: u32::from_le_bytes(*slots),
                peak: u64::from_le_bytes(*peak),
                body,
            })
        };
        fields().ok_or(TraceError::NotATrace)
    }

    /// The operations in order; the last item is the error, if there is one.
    ///
    /// Slots are in range, sizes are not zero, and alignments are bounded. Whether slots are used in
    /// turn is for [`check`](Self::check) to say.
    pub fn iter(&self) -> Operations<'a> {
        Operations {
            next: 0,
            count: self.operations,
            slots: self.slots,
            rest: self.body,
        }
    }

    /// Checks everything that can be wrong. `sizes` has room for one number for each slot, and is
    /// overwritten.
    ///
    /// # Errors
    /// The first thing that is wrong.
    ///
    /// # Panics
    /// If `sizes` is shorter than the number of slots.
    pub fn check(&self, sizes: &mut [usize]) -> Result<(), TraceError> {
        let sizes = &mut sizes[..self.slots as usize];
        sizes.fill(0);
        let (mut live, mut peak) = (0u64, 0);
        for (operation, found) in (0..).zip(self.iter()) {
            let (slot, size) = match found? {
                Operation::Allocate { slot, size, .. } => {
                    if sizes[slot] != 0 {
                        return Err(TraceError::SlotOccupied { operation, slot });
                    }
                    (slot, size)
                }
                Operation::Reallocate { slot, size } => {
                    if sizes[slot] == 0 {
                        return Err(TraceError::SlotEmpty { operation, slot });
                    }
                    (slot, size)
                }
                Operation::Free { slot } => {
                    if sizes[slot] == 0 {
                        return Err(TraceError::SlotEmpty { operation, slot });
                    }
                    (slot, 0)
                }
            };
            let size_u64 = size as u64;
            live =
                (live - sizes[slot] as u64)
                    .checked_add(size_u64)
                    .ok_or(TraceError::BadSize {
                        operation,
                        size: size_u64,
                    })?;
            sizes[slot] = size;
            peak = peak.max(live);
        }
        if peak != self.peak {
            return Err(TraceError::WrongPeak {
                header: self.peak,
                found: peak,
            });
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &Trace<'a> {
    type Item = Result<Operation, TraceError>;
    type IntoIter = Operations<'a>;

    fn into_iter(self) -> Operations<'a> {
        self.iter()
    }
}

/// The operations of a trace.
#[derive(Debug, Clone)]
pub struct Operations<'a> {
    /// The number of the next operation; above `count` when there was an error.
    next: u32,
    count: u32,
    slots: u32,
    rest: &'a [u8],
}

impl Iterator for Operations<'_> {
    type Item = Result<Operation, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            // What follows the last operation is reported once.
            let bytes = core::mem::take(&mut self.rest).len();
            return (bytes > 0).then_some(Err(TraceError::TooLong { bytes }));
        }
        let operation = self.operation();
        if operation.is_ok() {
            self.next += 1;
        } else {
            self.next = self.count;
            self.rest = &[];
        }
        Some(operation)
    }
}

impl Operations<'_> {
    fn operation(&mut self) -> Result<Operation, TraceError> {
        match self.number()? {
            1 => {
                let (slot, size) = (self.slot()?, self.size()?);
                let align = self.align()?;
                Ok(Operation::Allocate { slot, size, align })
            }
            2 => Ok(Operation::Free { slot: self.slot()? }),
            3 => {
                let (slot, size) = (self.slot()?, self.size()?);
                Ok(Operation::Reallocate { slot, size })
            }
            code => Err(TraceError::UnknownOperation {
                operation: self.next,
                code,
            }),
        }
    }

    fn slot(&mut self) -> Result<usize, TraceError> {
        let slot = self.number()?;
        if slot >= u64::from(self.slots) {
            return Err(TraceError::SlotOutOfRange {
                operation: self.next,
                slot,
            });
        }
        Ok(slot as usize)
    }

    fn size(&mut self) -> Result<usize, TraceError> {
        let size = self.number()?;
        match isize::try_from(size) {
            Ok(size) if size > 0 => Ok(size as usize),
            _ => Err(TraceError::BadSize {
                operation: self.next,
                size,
            }),
        }
    }

    fn align(&mut self) -> Result<usize, TraceError> {
        let align_log2 = self.number()?;
        if align_log2 > MAX_ALIGN_LOG2 {
            return Err(TraceError::BadAlignment {
                operation: self.next,
                align_log2,
            });
        }
        Ok(1 << align_log2)
    }

    /// An unsigned LEB128 number.
    fn number(&mut self) -> Result<u64, TraceError> {
        let operation = self.next;
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = self
                .rest
                .split_first()
                .ok_or(TraceError::Truncated { operation })?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift >= u64::BITS || bits << shift >> shift != bits {
                return Err(TraceError::NumberTooLarge { operation });
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests;
