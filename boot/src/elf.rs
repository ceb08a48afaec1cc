//! Checks that the bootloader can load a kernel's ELF file.
//!
//! ```text
//! file, and memory      page           page           page           page
//!                       ├── code ──────┼──── relro ───┼── data ──────┤     good
//!                       ├── code ──┬ relro ┬ data ────┤                    refused
//! ```
//!
//! The bootloader maps whole pages of the file, each with the permissions of its segment. The range
//! that is read-only after relocation (*relro*) becomes write-protected. A page that two segments
//! share would be mapped twice: writable at one address, and read-only at the other. The kernel
//! detects such a page at its start and refuses; this check finds it before an image is made.

use std::{fs, ops::Range, path::Path};

use object::{
    Endianness, Object, ObjectSection,
    elf::{FileHeader64, PT_GNU_RELRO, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader},
};

use crate::failure::Failure;

/// The size of a page in bytes.
const PAGE_SIZE: u64 = 4096;

/// A part of the file with permissions of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    /// The name for errors.
    name: String,
    /// The range of its bytes in the file.
    file: Range<u64>,
    /// The range of its addresses.
    memory: Range<u64>,
}

/// Checks the program headers of `kernel`.
///
/// # Errors
/// [`Failure::Unbootable`] if the file is no 64-bit ELF file, or if two parts with permissions of
/// their own share a page.
pub(crate) fn check(kernel: &Path) -> Result<(), Failure> {
    let bytes = fs::read(kernel).map_err(Failure::io("cannot read", kernel))?;
    check_bytes(&bytes).map_err(|why| Failure::Unbootable {
        kernel: kernel.to_owned(),
        why,
    })
}

/// Returns how many bytes of memory the bootloader adds to `kernel`: variables that begin as zero,
/// which the file does not contain.
///
/// # Errors
/// [`Failure::Unbootable`] if the file is no 64-bit ELF file.
pub(crate) fn zeroed(kernel: &Path) -> Result<u64, Failure> {
    let bytes = fs::read(kernel).map_err(Failure::io("cannot read", kernel))?;
    zeroed_bytes(&bytes).map_err(|why| Failure::Unbootable {
        kernel: kernel.to_owned(),
        why,
    })
}

/// Returns whether `kernel` contains in-kernel tests.
///
/// # Errors
/// [`Failure::Unbootable`] if the file is no ELF file.
pub(crate) fn has_tests(kernel: &Path) -> Result<bool, Failure> {
    /// The section of the list `kernel::testing::TESTS`.
    const TESTS: &str = "linkme_TESTS";

    let bytes = fs::read(kernel).map_err(Failure::io("cannot read", kernel))?;
    let file = object::File::parse(&*bytes).map_err(|why| Failure::Unbootable {
        kernel: kernel.to_owned(),
        why: why.to_string(),
    })?;
    let section = file.section_by_name(TESTS);
    Ok(section.is_some_and(|section| section.size() > 0))
}

/// Returns the sum, over all segments, of what memory has more than the file.
fn zeroed_bytes(bytes: &[u8]) -> Result<u64, String> {
    let (endian, headers) = program_headers(bytes)?;
    let more = headers
        .iter()
        .filter(|header| header.p_type(endian) == PT_LOAD)
        .map(|header| {
            let in_memory: u64 = header.p_memsz(endian);
            in_memory.saturating_sub(header.p_filesz(endian))
        });
    Ok(more.fold(0, u64::saturating_add))
}

/// A program header of a 64-bit ELF file.
type ProgramHeader64 = <FileHeader64<Endianness> as FileHeader>::ProgramHeader;

/// Returns the program headers of an ELF file. The error is the reason.
fn program_headers(bytes: &[u8]) -> Result<(Endianness, &[ProgramHeader64]), String> {
    let unreadable = |error| format!("not an ELF file that can be read: {error}");
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(unreadable)?;
    let endian = header.endian().map_err(unreadable)?;
    let headers = header.program_headers(endian, bytes).map_err(unreadable)?;
    Ok((endian, headers))
}

/// Checks the bytes of an ELF file. The error is the reason.
fn check_bytes(bytes: &[u8]) -> Result<(), String> {
    let (endian, headers) = program_headers(bytes)?;
    let segment = |name: String, header: &ProgramHeader64| {
        let range = |start: u64, size: u64| Some(start..start.checked_add(size)?);
        let file = range(header.p_offset(endian), header.p_filesz(endian));
        let memory = range(header.p_vaddr(endian), header.p_memsz(endian));
        match (file, memory) {
            (Some(file), Some(memory)) => Ok(Segment { name, file, memory }),
            _ => Err(format!("{name} ends beyond the last address")),
        }
    };
    let mut loads = Vec::new();
    let mut relros = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        match header.p_type(endian) {
            PT_LOAD => loads.push(segment(format!("segment {index}"), header)?),
            PT_GNU_RELRO => relros.push(segment(format!("relro {index}"), header)?),
            _ => {}
        }
    }
    let mut parts: Vec<Segment> = Vec::new();
    for load in loads {
        let (mut within, outside) = relros
            .iter()
            .cloned()
            .partition::<Vec<_>, _>(|relro| contains(&load.memory, &relro.memory));
        relros = outside;
        match within.pop() {
            None => parts.push(load),
            Some(relro) => parts.extend(split(load, relro)),
        }
    }
    for (index, first) in parts.iter().enumerate() {
        for second in &parts[index + 1..] {
            let shared = shared_page(&first.memory, &second.memory)
                .map(|page| format!("the page at address {page:#x}"))
                .or_else(|| {
                    shared_page(&first.file, &second.file)
                        .map(|page| format!("the page at {page:#x} of the file"))
                });
            if let Some(page) = shared {
                return Err(format!(
                    "{} and {} share {page}; link it with -zseparate-loadable-segments",
                    first.name, second.name
                ));
            }
        }
    }
    Ok(())
}

/// Splits a segment into relro, which is read-only after relocation, and the parts below and above
/// it.
fn split(load: Segment, relro: Segment) -> impl Iterator<Item = Segment> {
    let part = |name: String, from: u64, to: u64| {
        // Addresses without bytes in the file follow those with bytes.
        let in_file =
            |address: u64| (load.file.start + (address - load.memory.start)).min(load.file.end);
        Segment {
            name,
            file: in_file(from)..in_file(to),
            memory: from..to,
        }
    };
    let Range { start, end } = relro.memory;
    // The linker rounds relro up to a page, so it may end after the segment.
    let top = load.memory.end.max(start);
    let end = end.min(top);
    [
        part(load.name.clone(), load.memory.start, start),
        part(relro.name, start, end),
        part(load.name.clone(), end, top),
    ]
    .into_iter()
    .filter(|part| !part.memory.is_empty())
}

/// Returns whether the inner range is not empty and begins in the outer one.
fn contains(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.contains(&inner.start) && !inner.is_empty()
}

/// Returns the first page with bytes of both ranges.
fn shared_page(first: &Range<u64>, second: &Range<u64>) -> Option<u64> {
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let pages = |range: &Range<u64>| range.start / PAGE_SIZE..(range.end - 1) / PAGE_SIZE + 1;
    let (first, second) = (pages(first), pages(second));
    let start = first.start.max(second.start);
    (start < first.end.min(second.end)).then_some(start * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program header: type, offset, address, bytes in the file, bytes in memory.
    type Header = (u32, u64, u64, u64, u64);

    /// Returns an ELF file with these program headers.
    fn elf(headers: &[Header]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16..18].copy_from_slice(&3_u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
        bytes[20] = 1;
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[52..54].copy_from_slice(&64_u16.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        for &(kind, offset, address, in_file, in_memory) in headers {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            for word in [offset, address, address, in_file, in_memory, 0x1000] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes
    }

    const LOAD: u32 = PT_LOAD.0;
    const RELRO: u32 = PT_GNU_RELRO.0;

    fn refusal(headers: &[Header]) -> String {
        check_bytes(&elf(headers)).unwrap_err()
    }

    #[test]
    fn segments_on_pages_of_their_own_are_accepted() {
        let headers = [
            (6, 64, 64, 0x1c0, 0x1c0),
            (LOAD, 0, 0, 0xd52d, 0xd52d),
            (LOAD, 0xe000, 0xe000, 0x4d2e5, 0x4d2e5),
            (LOAD, 0x5c000, 0x5c000, 0x3820, 0x3820),
            (LOAD, 0x60000, 0x60000, 0x2818, 0x2c0f0),
            (RELRO, 0x5c000, 0x5c000, 0x3820, 0x4000),
            (0x6474_e551, 0, 0, 0, 0),
        ];
        assert_eq!(check_bytes(&elf(&headers)), Ok(()));
        // Relro has pages of its own within a segment, and a segment has no bytes in the file.
        let headers = [
            (LOAD, 0x1000, 0x1000, 0x2800, 0x9000),
            (RELRO, 0x1000, 0x1000, 0x1000, 0x1000),
            (LOAD, 0x4000, 0xa000, 0, 0x1000),
        ];
        assert_eq!(check_bytes(&elf(&headers)), Ok(()));
    }

    #[test]
    fn memory_that_the_file_does_not_contain_is_counted() {
        let headers = [
            (6, 64, 64, 0, 0x1c0),
            (LOAD, 0, 0, 0xd52d, 0xd52d),
            (LOAD, 0x60000, 0x60000, 0x2818, 0x2818 + 100),
            (RELRO, 0x5c000, 0x5c000, 0x3820, 0x4000),
            (LOAD, 0x70000, 0x90000, 0, 23),
        ];
        assert_eq!(zeroed_bytes(&elf(&headers)), Ok(123));
        assert!(zeroed_bytes(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn segments_that_share_a_page_are_refused() {
        // The addresses are on different pages, but the bytes of the file are on one page.
        let file = [
            (LOAD, 0, 0, 0x1234, 0x1234),
            (LOAD, 0x1234, 0x2234, 0x100, 0x100),
        ];
        assert_eq!(
            refusal(&file),
            "segment 0 and segment 1 share the page at 0x1000 of the file; link it with \
             -zseparate-loadable-segments"
        );
        let memory = [
            (LOAD, 0, 0, 0x1000, 0x1001),
            (LOAD, 0x1000, 0x1ff0, 0x10, 0x10),
        ];
        assert!(refusal(&memory).contains("share the page at address 0x1000"));
    }

    #[test]
    fn relro_that_shares_a_page_is_refused() {
        let load = (LOAD, 0x1000, 0x1000, 0x2000, 0x2000);
        let with = |relro| refusal(&[load, relro]);
        let end = with((RELRO, 0x1000, 0x1000, 0x800, 0x800));
        assert!(
            end.starts_with("relro 1 and segment 0 share the page at address 0x1000"),
            "{end}"
        );
        let start = with((RELRO, 0x1800, 0x1800, 0x1800, 0x1800));
        assert!(start.starts_with("segment 0 and relro 1 share"), "{start}");
        // Relro shares the page of another segment.
        let apart = [
            load,
            (LOAD, 0x3000, 0x3000, 0x10, 0x20),
            (RELRO, 0x3000, 0x3000, 0x8, 0x8),
        ];
        assert!(refusal(&apart).contains("relro 2"));
    }

    #[test]
    fn a_file_that_is_no_elf_file_is_refused() {
        for bytes in [&b""[..], b"#!/bin/sh\n", &elf(&[])[..40]] {
            assert!(check_bytes(bytes).unwrap_err().contains("not an ELF file"));
        }
        let endless = [(LOAD, u64::MAX, 0, 2, 2)];
        assert!(refusal(&endless).contains("beyond the last address"));
        let cut = &elf(&[(LOAD, 0, 0, 1, 1)])[..80];
        assert!(check_bytes(cut).is_err());
    }
}
