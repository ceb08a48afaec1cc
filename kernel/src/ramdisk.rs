//! The RAM disk: a tar archive of files from the host, which the bootloader has loaded.

use core::fmt;

pub use kernel_protocol::ramdisk::trace_name;
use tar_no_std::{ArchiveEntry, CorruptDataError, TarArchiveRef};

/// A RAM disk with a valid structure.
#[derive(Debug, Clone)]
pub struct Ramdisk<'a> {
    archive: TarArchiveRef<'a>,
}

/// A defect of a RAM disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamdiskError {
    /// The bytes are not an archive, or the archive is damaged.
    Damaged(CorruptDataError),
    /// A file is missing.
    Missing {
        /// The name of the file.
        name: &'static str,
    },
    /// A file is not UTF-8.
    NotText {
        /// The name of the file.
        name: &'static str,
    },
}

impl fmt::Display for RamdiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(error) => write!(f, "damaged: {error}"),
            Self::Missing { name } => write!(f, "there is no file `{name}`"),
            Self::NotText { name } => write!(f, "the file `{name}` is not text"),
        }
    }
}

impl core::error::Error for RamdiskError {}

impl<'a> Ramdisk<'a> {
    /// Checks the structure of an archive: the sizes, the checksums of the headers, and the end.
    ///
    /// # Errors
    /// Returns an error if the archive is damaged.
    pub fn new(bytes: &'a [u8]) -> Result<Self, RamdiskError> {
        let archive = TarArchiveRef::new(bytes).map_err(RamdiskError::Damaged)?;
        Ok(Self { archive })
    }

    /// Returns all files.
    pub fn files(&self) -> impl Iterator<Item = ArchiveEntry<'a>> {
        self.archive.entries()
    }

    /// Returns the contents of the file `name`.
    pub fn file(&self, name: &str) -> Option<&'a [u8]> {
        self.files()
            .find(|file| file.filename().as_str() == Ok(name))
            .map(|file| file.data())
    }

    /// Returns the contents of the text file `name`.
    ///
    /// # Errors
    /// Returns an error if the file is missing or is not UTF-8.
    pub fn text(&self, name: &'static str) -> Result<&'a str, RamdiskError> {
        let bytes = self.file(name).ok_or(RamdiskError::Missing { name })?;
        core::str::from_utf8(bytes).map_err(|_| RamdiskError::NotText { name })
    }

    /// Returns the contents of the file `traces/NAME.trace`.
    pub fn trace(&self, name: &str) -> Option<&'a [u8]> {
        self.files()
            .find(|file| file.filename().as_str().ok().and_then(trace_name) == Some(name))
            .map(|file| file.data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    /// Makes an archive as `tar --format=ustar` does.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, data) in files {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..107].copy_from_slice(b"0000644");
            header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
            header[148..156].fill(b' ');
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            bytes.extend(header);
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    #[test]
    fn files_are_found_by_name() {
        let long = [7; 1000];
        let bytes = archive(&[("config", b"mode=test\n"), ("traces/git.trace", &long)]);
        let ramdisk = Ramdisk::new(&bytes).unwrap();
        assert_eq!(ramdisk.text("config"), Ok("mode=test\n"));
        assert_eq!(ramdisk.trace("git"), Some(&long[..]));
        assert_eq!(ramdisk.trace("cc"), None);
        assert_eq!(
            ramdisk.text("missing"),
            Err(RamdiskError::Missing { name: "missing" })
        );
    }

    #[test]
    fn a_file_that_is_not_utf8_is_refused() {
        let bytes = archive(&[("config", b"\xff")]);
        let ramdisk = Ramdisk::new(&bytes).unwrap();
        assert_eq!(
            ramdisk.text("config"),
            Err(RamdiskError::NotText { name: "config" })
        );
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let whole = archive(&[("config", b"mode=test\n"), ("other", b"x")]);
        // Every byte of both headers, in turn.
        for index in (0..BLOCK).chain(2 * BLOCK..3 * BLOCK) {
            let mut bytes = whole.clone();
            bytes[index] ^= 0x41;
            if let Ok(ramdisk) = Ramdisk::new(&bytes) {
                // The checksum does not cover the last byte of its own field.
                assert_eq!(index % BLOCK, 155, "byte {index}");
                assert_eq!(ramdisk.files().count(), 2);
            }
        }
    }

    #[test]
    fn an_archive_truncated_anywhere_is_refused() {
        let whole = archive(&[("config", b"mode=test\n"), ("other", &[1; 600])]);
        for length in 0..whole.len() {
            assert!(Ramdisk::new(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
