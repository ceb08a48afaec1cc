//! Recorded traces of allocations, checked before a kernel sees them.
//!
//! ```text
//! byte 0   8            12           16                  24
//!      +---+------------+------------+-------------------+----------------------------
//!      | HEAPTRC1       | operations | slots             | peak live bytes | operations …
//!      +----------------+------------+-------------------+----------------------------
//!        8 bytes          u32          u32                 u64, all little-endian
//!
//! operation: LEB128 numbers   1 slot size align_log2    allocate; the slot is empty
//!                             2 slot                    free
//!                             3 slot new_size           reallocate
//! ```

use std::{fs, path::Path};

use crate::{failure::Failure, project::Project};

const MAGIC: &[u8] = b"HEAPTRC1";
const HEADER: usize = 24;

/// The largest alignment that a trace may ask for: 2 MiB, the largest that the kernel promises.
const LARGEST_ALIGN_LOG2: u64 = 21;

/// A trace that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its name: of its file, without `.trace`.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

/// What is wrong with a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It does not begin with `HEAPTRC1`.
    Magic,
    /// It ends in its header, or in this operation.
    Truncated {
        /// Which; `None` is the header.
        operation: Option<u32>,
    },
    /// Something follows the last operation.
    TooLong {
        /// So many bytes.
        extra: usize,
    },
    /// An operation cannot be carried out.
    Operation {
        /// Which, counted from 0.
        index: u32,
        /// Why.
        what: String,
    },
    /// The peak in the header is not the one of the operations.
    Peak {
        /// The header's.
        stated: u64,
        /// The operations'.
        actual: u64,
    },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin with HEAPTRC1"),
            Self::Truncated { operation: None } => f.write_str("it ends within its header"),
            Self::Truncated {
                operation: Some(index),
            } => write!(f, "it ends within operation {index}"),
            Self::TooLong { extra } => write!(f, "{extra} bytes follow its last operation"),
            Self::Operation { index, what } => write!(f, "operation {index}: {what}"),
            Self::Peak { stated, actual } => {
                write!(
                    f,
                    "its header says {stated} live bytes at the peak, its operations {actual}"
                )
            }
        }
    }
}

/// The names of the traces in the repository.
pub fn names(project: &Project) -> Result<Vec<String>, Failure> {
    let folder = project.traces();
    let entries = fs::read_dir(&folder).map_err(Failure::io("cannot read", &folder))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".trace")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Reads and checks the trace `chosen`: the name of one in the repository, or a file.
pub fn load(project: &Project, chosen: &str) -> Result<Trace, Failure> {
    let ours = project.traces().join(format!("{chosen}.trace"));
    let is_name = !chosen.contains('/') && ours.is_file();
    let file = if is_name { &ours } else { Path::new(chosen) };
    let bytes = fs::read(file).map_err(|error| {
        let known = names(project).unwrap_or_default().join(", ");
        Failure::Input(format!(
            "cannot read the trace {}: {error} (the repository has {known})",
            file.display()
        ))
    })?;
    check(&bytes).map_err(|damage| {
        Failure::Input(format!("the trace {} is damaged: {damage}", file.display()))
    })?;
    let name = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    // It becomes a value in the kernel's configuration, and a name in a ustar archive.
    if name.is_empty()
        || name.len() > 64
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(Failure::Input(format!(
            "the trace {} needs a name of letters, digits, - and _",
            file.display()
        )));
    }
    Ok(Trace { name, bytes })
}

/// Carries out the operations in `bytes` on sizes alone.
pub fn check(bytes: &[u8]) -> Result<(), Damage> {
    if !bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) {
        return Err(Damage::Magic);
    }
    let (header, mut rest) = bytes
        .split_at_checked(HEADER)
        .ok_or(Damage::Truncated { operation: None })?;
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (operations, slots) = (u32_at(8), u32_at(12));
    let stated = u64::from_le_bytes(header[16..].try_into().expect("eight bytes"));

    // A slot is not worth keeping before it is used: a header may claim four billion of them.
    let mut live = std::collections::HashMap::new();
    let (mut total, mut actual) = (0_u64, 0_u64);
    for index in 0..operations {
        let wrong = |what: String| Damage::Operation { index, what };
        let mut next = || {
            number(&mut rest).map_err(|damage| match damage {
                NumberDamage::Truncated => Damage::Truncated {
                    operation: Some(index),
                },
                NumberDamage::TooLarge => wrong("a number of more than 64 bits".into()),
            })
        };
        let kind = next()?;
        let slot = next()?;
        if !(1..=3).contains(&kind) {
            return Err(wrong(format!("there is no operation of kind {kind}")));
        }
        if slot >= u64::from(slots) {
            return Err(wrong(format!("slot {slot} of {slots}")));
        }
        let size_before = match (kind, live.remove(&slot)) {
            (1, Some(_)) => return Err(wrong(format!("slot {slot} is not empty"))),
            (2 | 3, None) => return Err(wrong(format!("slot {slot} is empty"))),
            (_, before) => before.unwrap_or(0),
        };
        total -= size_before;
        if kind != 2 {
            let size = next()?;
            if size == 0 {
                return Err(wrong("a block of no bytes".into()));
            }
            if kind == 1 {
                let align_log2 = next()?;
                if align_log2 > LARGEST_ALIGN_LOG2 {
                    return Err(wrong(format!(
                        "an alignment of 2^{align_log2}; the largest is 2^{LARGEST_ALIGN_LOG2}"
                    )));
                }
            }
            total = total
                .checked_add(size)
                .ok_or_else(|| wrong("more live bytes than 64 bits can count".into()))?;
            actual = actual.max(total);
            live.insert(slot, size);
        }
    }
    if !rest.is_empty() {
        return Err(Damage::TooLong { extra: rest.len() });
    }
    if stated != actual {
        return Err(Damage::Peak { stated, actual });
    }
    Ok(())
}

/// What is wrong with a number.
enum NumberDamage {
    Truncated,
    TooLarge,
}

/// Takes a LEB128 number from the front of `bytes`.
fn number(bytes: &mut &[u8]) -> Result<u64, NumberDamage> {
    let mut value = 0_u64;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(NumberDamage::Truncated)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift >= u64::BITS || bits << shift >> shift != bits {
            return Err(NumberDamage::TooLarge);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
