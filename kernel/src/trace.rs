//! Recorded allocation traces: every heap call of a real program.
//!
//! ```text
//! 8 bytes   "HEAPTRC1"
//! u32       number of operations        (little-endian)
//! u32       number of slots
//! u64       peak of live bytes
//! …         operations, each a few LEB128 numbers:
//!           1 slot size align_log2      allocate
//!           2 slot                      free
//!           3 slot new_size             reallocate, alignment unchanged
//! ```
//!
//! Reading allocates nothing and believes nothing: every error is a value.

use core::alloc::Layout;
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
        /// Size and alignment; the size is not zero.
        layout: Layout,
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
    /// The header has more slots than operations, of which each can fill only one.
    TooManySlots {
        /// How many slots.
        slots: u32,
        /// How many operations.
        operations: u32,
    },
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
        found: u128,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrace => f.write_str("it does not begin with HEAPTRC1 and a whole header"),
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

/// A trace of which everything was checked that can be without memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace<'a> {
    operations: u32,
    slots: u32,
    peak: u64,
    body: &'a [u8],
}

impl<'a> Trace<'a> {
    /// Reads a trace. There are no more slots than operations, slots are in range, sizes are not zero and alignments are bounded; whether
    /// slots are used in turn is for [`check`](Self::check) to say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TraceError> {
        let header = || {
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
        let trace = header().ok_or(TraceError::NotATrace)?;
        if trace.slots > trace.operations {
            return Err(TraceError::TooManySlots {
                slots: trace.slots,
                operations: trace.operations,
            });
        }
        let mut reader = trace.reader();
        while reader.operation < trace.operations {
            reader.read()?;
        }
        match reader.rest.len() {
            0 => Ok(trace),
            bytes => Err(TraceError::TooLong { bytes }),
        }
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.operations as usize
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// The peak of live bytes, as the header says.
    pub fn peak(&self) -> usize {
        usize::try_from(self.peak).unwrap_or(usize::MAX)
    }

    /// The operations in order.
    pub fn operations(&self) -> Operations<'a> {
        Operations(self.reader())
    }

    fn reader(&self) -> Reader<'a> {
        Reader {
            operation: 0,
            trace: *self,
            rest: self.body,
        }
    }

    /// Checks that slots are used in turn and that the peak is the one in the header. `sizes` has
    /// room for one number for each slot, and is overwritten.
    ///
    /// # Errors
    /// The first thing that is wrong.
    ///
    /// # Panics
    /// If `sizes` is shorter than the number of slots.
    pub fn check(&self, sizes: &mut [usize]) -> Result<(), TraceError> {
        let sizes = &mut sizes[..self.slots()];
        sizes.fill(0);
        // A sum of so many sizes has room in 128 bits.
        let (mut live, mut peak) = (0u128, 0u128);
        for (operation, found) in (0..).zip(self.operations()) {
            let (slot, size, was_occupied) = match found {
                Operation::Allocate { slot, layout } => (slot, layout.size(), false),
                Operation::Reallocate { slot, size } => (slot, size, true),
                Operation::Free { slot } => (slot, 0, true),
            };
            match (sizes[slot] != 0, was_occupied) {
                (true, false) => return Err(TraceError::SlotOccupied { operation, slot }),
                (false, true) => return Err(TraceError::SlotEmpty { operation, slot }),
                _ => {}
            }
            live = live - sizes[slot] as u128 + size as u128;
            peak = peak.max(live);
            sizes[slot] = size;
        }
        if peak != u128::from(self.peak) {
            return Err(TraceError::WrongPeak {
                header: self.peak,
                found: peak,
            });
        }
        Ok(())
    }
}

/// The operations of a trace.
#[derive(Debug, Clone)]
pub struct Operations<'a>(Reader<'a>);

impl Iterator for Operations<'_> {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        if self.0.operation == self.0.trace.operations {
            return None;
        }
        // `Trace::parse` has read them all.
        self.0.read().ok()
    }
}

/// Reads operations.
#[derive(Debug, Clone)]
struct Reader<'a> {
    /// The number of the next operation.
    operation: u32,
    trace: Trace<'a>,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn read(&mut self) -> Result<Operation, TraceError> {
        let operation = match self.number()? {
            1 => {
                let (slot, size) = (self.slot()?, self.size()?);
                let layout = self.layout(size)?;
                Operation::Allocate { slot, layout }
            }
            2 => Operation::Free { slot: self.slot()? },
            3 => {
                let (slot, size) = (self.slot()?, self.size()?);
                Operation::Reallocate { slot, size }
            }
            code => {
                return Err(TraceError::UnknownOperation {
                    operation: self.operation,
                    code,
                });
            }
        };
        self.operation += 1;
        Ok(operation)
    }

    fn slot(&mut self) -> Result<usize, TraceError> {
        let slot = self.number()?;
        if slot >= u64::from(self.trace.slots) {
            return Err(TraceError::SlotOutOfRange {
                operation: self.operation,
                slot,
            });
        }
        Ok(slot as usize)
    }

    /// A size that is not zero and that fits any alignment.
    fn size(&mut self) -> Result<usize, TraceError> {
        let size = self.number()?;
        let bad = TraceError::BadSize {
            operation: self.operation,
            size,
        };
        let size = usize::try_from(size).map_err(|_| bad)?;
        match Layout::from_size_align(size, 1 << MAX_ALIGN_LOG2) {
            Ok(_) if size > 0 => Ok(size),
            _ => Err(bad),
        }
    }

    fn layout(&mut self, size: usize) -> Result<Layout, TraceError> {
        let align_log2 = self.number()?;
        let bad = TraceError::BadAlignment {
            operation: self.operation,
            align_log2,
        };
        if align_log2 > MAX_ALIGN_LOG2 {
            return Err(bad);
        }
        Layout::from_size_align(size, 1 << align_log2).map_err(|_| bad)
    }

    /// An unsigned LEB128 number.
    fn number(&mut self) -> Result<u64, TraceError> {
        let operation = self.operation;
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
