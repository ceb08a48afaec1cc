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
//! Reading allocates no memory, and each kind of damage has its own [error](TraceError).

use core::alloc::Layout;

pub use error::TraceError;

mod error;

/// The first bytes of a trace.
const MAGIC: [u8; 8] = *b"HEAPTRC1";

const ALLOCATE: u64 = 1;
const FREE: u64 = 2;
const REALLOCATE: u64 = 3;

/// The binary logarithm of the largest alignment in a trace: 2 MiB.
pub const MAX_ALIGN_LOG2: u64 = 21;

/// One heap call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Allocates a block, and stores its address in an empty slot.
    Allocate {
        /// The slot.
        slot: usize,
        /// Size and alignment; the size is not zero.
        layout: Layout,
    },
    /// Frees the block in a slot, and empties the slot.
    Free {
        /// The slot.
        slot: usize,
    },
    /// Changes the size of the block in a slot.
    Reallocate {
        /// The slot.
        slot: usize,
        /// The new size in bytes, not zero.
        size: usize,
    },
}

impl Operation {
    /// Passes the bytes of the operation to `put`, one at a time.
    pub fn encode(&self, mut put: impl FnMut(u8)) {
        match *self {
            Self::Allocate { slot, layout } => {
                let align_log2 = layout.align().trailing_zeros();
                put_number(ALLOCATE, &mut put);
                put_number(slot as u64, &mut put);
                put_number(layout.size() as u64, &mut put);
                put_number(align_log2.into(), &mut put);
            }
            Self::Free { slot } => {
                put_number(FREE, &mut put);
                put_number(slot as u64, &mut put);
            }
            Self::Reallocate { slot, size } => {
                put_number(REALLOCATE, &mut put);
                put_number(slot as u64, &mut put);
                put_number(size as u64, &mut put);
            }
        }
    }
}

/// Passes the bytes of an unsigned LEB128 number to `put`.
fn put_number(mut number: u64, put: &mut impl FnMut(u8)) {
    while number > 0x7f {
        put(number as u8 | 0x80);
        number >>= 7;
    }
    put(number as u8);
}

/// The header of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of operations.
    pub operations: u32,
    /// The number of slots.
    pub slots: u32,
    /// The largest number of bytes that are live at the same time.
    pub peak: u64,
}

impl Header {
    /// The size of a header in bytes.
    pub const SIZE: usize = 24;

    /// Returns the bytes of the header.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.operations.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.slots.to_le_bytes());
        bytes[16..].copy_from_slice(&self.peak.to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of `bytes`, and returns it and the rest.
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (operations, rest) = rest.split_first_chunk()?;
        let (slots, rest) = rest.split_first_chunk()?;
        let (peak, rest) = rest.split_first_chunk()?;
        let header = Self {
            operations: u32::from_le_bytes(*operations),
            slots: u32::from_le_bytes(*slots),
            peak: u64::from_le_bytes(*peak),
        };
        (*magic == MAGIC).then_some((header, rest))
    }
}

/// A trace in which everything is checked that can be checked without memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace<'a> {
    header: Header,
    body: &'a [u8],
}

impl<'a> Trace<'a> {
    /// Reads a trace. Checks that slots are no more than operations, that each slot is in range,
    /// that sizes are not zero and that alignments are bounded. [`check`](Self::check) does the
    /// rest.
    ///
    /// Costs one pass over the operations.
    ///
    /// # Errors
    /// The first damage that it finds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TraceError> {
        let (header, body) = Header::decode(bytes).ok_or(TraceError::NotATrace)?;
        let Header {
            operations, slots, ..
        } = header;
        if slots > operations {
            return Err(TraceError::TooManySlots { slots, operations });
        }
        if operations == 0 {
            return Err(TraceError::Empty);
        }
        let trace = Self { header, body };
        let mut reader = trace.reader();
        while reader.operation < operations {
            reader.read()?;
        }
        match reader.rest.len() {
            0 => Ok(trace),
            bytes => Err(TraceError::TooLong { bytes }),
        }
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.header.operations as usize
    }

    /// Returns whether the trace has no operations.
    pub fn is_empty(&self) -> bool {
        self.header.operations == 0
    }

    /// Returns the number of slots.
    pub fn slots(&self) -> usize {
        self.header.slots as usize
    }

    /// Returns the peak of live bytes in the header.
    pub fn peak(&self) -> usize {
        usize::try_from(self.header.peak).unwrap_or(usize::MAX)
    }

    /// Returns the operations in order.
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

    /// Checks that only an empty slot is allocated to, that only a full one is freed or
    /// reallocated, and that the header has the right peak. Overwrites `sizes`, which has one
    /// number for each slot.
    ///
    /// # Errors
    /// The first damage that it finds.
    ///
    /// # Panics
    /// If `sizes` is shorter than the number of slots.
    pub fn check(&self, sizes: &mut [usize]) -> Result<(), TraceError> {
        let sizes = &mut sizes[..self.slots()];
        sizes.fill(0);
        // The sum of 2^32 sizes of 64 bits fits into 128 bits.
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
        if peak != u128::from(self.header.peak) {
            return Err(TraceError::WrongPeak {
                header: self.header.peak,
                found: peak,
            });
        }
        Ok(())
    }
}

/// An iterator over the operations of a trace.
#[derive(Debug, Clone)]
pub struct Operations<'a>(Reader<'a>);

impl Iterator for Operations<'_> {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        if self.0.operation == self.0.trace.header.operations {
            return None;
        }
        // `Trace::parse` has read all operations without an error.
        self.0.read().ok()
    }
}

/// A position in the operations of a trace.
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
            ALLOCATE => {
                let (slot, size) = (self.slot()?, self.size()?);
                let layout = self.layout(size)?;
                Operation::Allocate { slot, layout }
            }
            FREE => Operation::Free { slot: self.slot()? },
            REALLOCATE => {
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
        if slot >= u64::from(self.trace.header.slots) {
            return Err(TraceError::SlotOutOfRange {
                operation: self.operation,
                slot,
            });
        }
        Ok(slot as usize)
    }

    /// Reads a size. It is not zero, and a layout of this size exists with each alignment.
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

    /// Reads an unsigned LEB128 number.
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
