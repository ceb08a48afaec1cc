//! The recorded allocation traces; their format is in `tests/traces/README.md`.

use std::alloc::Layout;
use std::path::Path;

/// One call of the recorded program. Slots number its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Allocate { slot: usize, layout: Layout },
    Free { slot: usize },
    Reallocate { slot: usize, new_size: usize },
}

/// A recording.
pub struct Trace {
    pub slots: usize,
    pub peak_live_bytes: u64,
    pub operations: Vec<Operation>,
}

impl Trace {
    /// Reads `tests/traces/NAME.trace` of the repository. `None` in a copy of this crate elsewhere,
    /// which has no such folder.
    pub fn load(name: &str) -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
        if !folder.is_dir() {
            return None;
        }
        let path = folder.join(name).with_extension("trace");
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        Some(Self::parse(&bytes).unwrap_or_else(|| panic!("{path:?} is damaged")))
    }

    /// Parses a trace in memory, or returns `None` if it is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(b"HEAPTRC1")?;
        let count = u32::from_le_bytes(take(&mut rest)?);
        let slots = u32::from_le_bytes(take(&mut rest)?) as usize;
        let peak_live_bytes = u64::from_le_bytes(take(&mut rest)?);
        let operations = (0..count)
            .map(|_| operation(&mut rest))
            .collect::<Option<Vec<Operation>>>()?;
        rest.is_empty().then_some(Self {
            slots,
            peak_live_bytes,
            operations,
        })
    }
}

fn operation(rest: &mut &[u8]) -> Option<Operation> {
    let kind = leb128(rest)?;
    let slot = leb128(rest)? as usize;
    Some(match kind {
        1 => {
            let size = leb128(rest)? as usize;
            let align = 1_usize.checked_shl(leb128(rest)? as u32)?;
            Operation::Allocate {
                slot,
                layout: Layout::from_size_align(size, align).ok()?,
            }
        }
        2 => Operation::Free { slot },
        3 => Operation::Reallocate {
            slot,
            new_size: leb128(rest)? as usize,
        },
        _ => return None,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, remainder) = rest.split_first_chunk()?;
    *rest = remainder;
    Some(*taken)
}

fn leb128(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
