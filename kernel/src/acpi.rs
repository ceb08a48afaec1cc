//! The tables of ACPI: how to find one, and the CPUs of the machine.
//!
//! ```text
//! RSDP ──> XSDT (or RSDT) ──> MADT, signature "APIC": the CPUs and their interrupt controllers
//!                        └──> other tables
//! ```
//!
//! The firmware may have written anything. So a table is used only if its checksum is right, and
//! no length or address in it is trusted. (The crate `acpi` trusts them: an entry of length 0 in
//! the MADT is an endless loop. It also needs an unstable feature of Rust.) Nothing here allocates.
//!
//! Source: ACPI specification 6.5, chapters 5.2.5 to 5.2.12.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::PhysAddr;

use crate::memory::physical;

/// The largest size of a table in bytes. Known tables are smaller, apart from those with code.
const MAX_TABLE: usize = 1 << 20;
/// The size of the header of a table.
const HEADER: usize = 36;
/// The signature of the table of interrupt controllers (MADT).
const MADT: [u8; 4] = *b"APIC";

/// Memory that tables lie in.
pub trait Memory {
    /// Reads bytes from a physical address. Returns `false` if not all of them are memory.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;
}

/// The machine's physical memory, for tables.
#[derive(Debug, Clone, Copy)]
pub struct PhysicalMemory(());

/// The address of the root pointer; 0 if there is none.
static ROOT_POINTER: AtomicU64 = AtomicU64::new(0);

/// Stores where the bootloader has found the root pointer.
pub(crate) fn init(rsdp: Option<PhysAddr>) {
    ROOT_POINTER.store(rsdp.map_or(0, PhysAddr::as_u64), Relaxed);
}

/// Returns the tables of this machine.
///
/// # Errors
/// Returns an error if there are none, or if the root table is damaged.
pub fn tables() -> Result<Tables<PhysicalMemory>, AcpiError> {
    match ROOT_POINTER.load(Relaxed) {
        0 => Err(AcpiError::NoRootPointer),
        rsdp => Tables::new(PhysicalMemory(()), rsdp),
    }
}

impl Memory for PhysicalMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let end = address.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > physical::end().as_u64()) {
            return false;
        }
        let source = physical::pointer::<u8>(PhysAddr::new(address));
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: all physical memory is mapped up to `physical::end`.
            let source = unsafe { source.add(index) };
            // SAFETY: the addresses are those of the firmware's tables, which the kernel does not
            // hand out, so no other code writes there.
            *byte = unsafe { source.read_volatile() };
        }
        true
    }
}

/// Why a table cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcpiError {
    /// The firmware has left no root pointer (RSDP), or none of memory.
    NoRootPointer,
    /// A table is missing.
    Missing(
        /// Its signature.
        [u8; 4],
    ),
    /// A table has a wrong checksum or length, or does not lie in memory.
    Damaged(
        /// Its signature.
        [u8; 4],
    ),
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => f.write_str("there is no root pointer of ACPI"),
            Self::Missing(signature) => {
                write!(f, "the ACPI table {} is missing", signature.escape_ascii())
            }
            Self::Damaged(signature) => {
                write!(f, "the ACPI table {} is damaged", signature.escape_ascii())
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// All tables of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Tables<M> {
    memory: M,
    root: Table,
    /// The size of an address in the root table: 4 or 8.
    address_size: usize,
}

/// A table whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The physical address.
    pub address: u64,
    /// The size in bytes, with the header of 36 bytes.
    pub size: usize,
}

impl<M: Memory> Tables<M> {
    /// Finds the root table by the address of the root pointer.
    ///
    /// # Errors
    /// Returns an error if the root pointer or the root table is damaged.
    pub fn new(memory: M, rsdp: u64) -> Result<Self, AcpiError> {
        const SIGNATURE: &[u8; 8] = b"RSD PTR ";
        let is_valid = |size| {
            let sum = checksum(&memory, rsdp, size);
            sum == Some(0)
        };
        let signature: [u8; 8] = read(&memory, rsdp, 0).ok_or(AcpiError::NoRootPointer)?;
        if signature != *SIGNATURE || !is_valid(20) {
            return Err(AcpiError::NoRootPointer);
        }
        let [revision] = read(&memory, rsdp, 15).ok_or(AcpiError::NoRootPointer)?;
        let (signature, address, address_size) = if revision >= 2 && is_valid(36) {
            let address: [u8; 8] = read(&memory, rsdp, 24).ok_or(AcpiError::NoRootPointer)?;
            (*b"XSDT", u64::from_le_bytes(address), 8)
        } else {
            let address: [u8; 4] = read(&memory, rsdp, 16).ok_or(AcpiError::NoRootPointer)?;
            (*b"RSDT", u32::from_le_bytes(address).into(), 4)
        };
        let root = table(&memory, address, signature)?;
        Ok(Self {
            memory,
            root,
            address_size,
        })
    }

    /// Returns the first table with this signature. O(tables).
    ///
    /// # Errors
    /// Returns an error if there is none, or if it is damaged.
    pub fn find(&self, signature: [u8; 4]) -> Result<Table, AcpiError> {
        for offset in (HEADER..self.root.size).step_by(self.address_size) {
            let mut address = [0; 8];
            let bytes = &mut address[..self.address_size];
            if offset + self.address_size > self.root.size
                || !self.memory.read(self.root.address + offset as u64, bytes)
            {
                break;
            }
            let address = u64::from_le_bytes(address);
            if read(&self.memory, address, 0) == Some(signature) {
                return table(&self.memory, address, signature);
            }
        }
        Err(AcpiError::Missing(signature))
    }

    /// Returns the CPUs of the machine, in the order of the table: the one that booted is the
    /// first.
    ///
    /// # Errors
    /// Returns an error if the table of interrupt controllers is missing or damaged.
    pub fn cpus(&self) -> Result<Cpus, AcpiError> {
        /// The flags of a CPU that can be used.
        const ENABLED: u32 = 1;

        let madt = self.find(MADT)?;
        let damaged = AcpiError::Damaged(MADT);
        let at = |offset: usize| (madt.address, offset as u64);
        let word = |(address, offset)| {
            let bytes: Option<[u8; 4]> = read(&self.memory, address, offset);
            bytes.map(u32::from_le_bytes).ok_or(damaged)
        };
        let mut cpus = Cpus {
            local_apic: word(at(HEADER))?.into(),
            ids: [0; Cpus::MAX],
            count: 0,
            left_out: 0,
        };
        let mut offset = HEADER + 8;
        while offset + 2 <= madt.size {
            let entry = read(&self.memory, madt.address, offset as u64);
            let [kind, size]: [u8; 2] = entry.ok_or(damaged)?;
            let size = usize::from(size);
            if size < 2 || offset + size > madt.size {
                return Err(damaged);
            }
            match (kind, size) {
                // A local APIC: its number has eight bits.
                (0, 8..) if word(at(offset + 4))? & ENABLED != 0 => {
                    let id = read(&self.memory, madt.address, offset as u64 + 3);
                    let [id]: [u8; 1] = id.ok_or(damaged)?;
                    cpus.push(id.into());
                }
                // A local x2APIC.
                (9, 16..) if word(at(offset + 8))? & ENABLED != 0 => {
                    cpus.push(word(at(offset + 4))?);
                }
                // An address of the local APICs above 4 GiB.
                (5, 12..) => {
                    let address = read(&self.memory, madt.address, offset as u64 + 4);
                    cpus.local_apic = u64::from_le_bytes(address.ok_or(damaged)?);
                }
                _ => {}
            }
            offset += size;
        }
        Ok(cpus)
    }
}

/// The CPUs of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    local_apic: u64,
    ids: [u32; Self::MAX],
    count: usize,
    left_out: usize,
}

impl Cpus {
    /// The largest number of CPUs that are listed.
    pub const MAX: usize = 256;

    /// Returns the physical address of the registers of each CPU's interrupt controller.
    pub fn local_apic(&self) -> u64 {
        self.local_apic
    }

    /// Returns the numbers of the CPUs' interrupt controllers.
    pub fn apic_ids(&self) -> &[u32] {
        &self.ids[..self.count]
    }

    /// Returns how many more CPUs the machine has.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Adds a CPU, unless it is in the list: some firmware lists CPUs by both kinds of entries.
    fn push(&mut self, id: u32) {
        if self.apic_ids().contains(&id) {
            return;
        }
        match self.ids.get_mut(self.count) {
            Some(slot) => {
                *slot = id;
                self.count += 1;
            }
            None => self.left_out += 1,
        }
    }
}

/// Checks the table at `address`.
fn table(memory: &impl Memory, address: u64, signature: [u8; 4]) -> Result<Table, AcpiError> {
    let damaged = AcpiError::Damaged(signature);
    if read(memory, address, 0) != Some(signature) {
        return Err(damaged);
    }
    let size: [u8; 4] = read(memory, address, 4).ok_or(damaged)?;
    let size = u32::from_le_bytes(size) as usize;
    if !(HEADER..=MAX_TABLE).contains(&size) || checksum(memory, address, size) != Some(0) {
        return Err(damaged);
    }
    Ok(Table { address, size })
}

/// Returns the bytes at `address + offset`. `None` if there is no memory.
fn read<const N: usize>(memory: &impl Memory, address: u64, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_read = memory.read(address.checked_add(offset)?, &mut bytes);
    is_read.then_some(bytes)
}

/// Returns the sum of `size` bytes. `None` if not all of them are memory.
fn checksum(memory: &impl Memory, address: u64, size: usize) -> Option<u8> {
    let mut sum = 0_u8;
    for offset in 0..size as u64 {
        let [byte] = read(memory, address, offset)?;
        sum = sum.wrapping_add(byte);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;

    /// Memory from address 0 on.
    impl Memory for &[u8] {
        fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
            let Ok(start) = usize::try_from(address) else {
                return false;
            };
            let end = start.saturating_add(bytes.len());
            let Some(source) = self.get(start..end) else {
                return false;
            };
            bytes.copy_from_slice(source);
            true
        }
    }

    /// Where the parts of [`machine`] lie.
    const RSDP: usize = 0x40;
    const ROOT: usize = 0x80;
    const OTHER: usize = 0x100;
    const MADT_AT: usize = 0x180;

    /// Sets the byte at `at` so that the sum of `size` bytes from `start` on is 0.
    fn correct(memory: &mut [u8], start: usize, size: usize, at: usize) {
        memory[at] = 0;
        let sum = memory[start..start + size]
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        memory[at] = 0_u8.wrapping_sub(sum);
    }

    /// Writes a table.
    fn put(memory: &mut Vec<u8>, address: usize, signature: &[u8; 4], content: &[u8]) {
        let size = HEADER + content.len();
        memory.resize(memory.len().max(address + size), 0);
        memory[address..address + 4].copy_from_slice(signature);
        memory[address + 4..address + 8].copy_from_slice(&(size as u32).to_le_bytes());
        memory[address + HEADER..address + size].copy_from_slice(content);
        correct(memory, address, size, address + 9);
    }

    /// Returns a machine with four CPUs, of which three can be used.
    fn machine(is_old: bool) -> Vec<u8> {
        let mut memory = std::vec![0; 0x80];
        memory[RSDP..RSDP + 8].copy_from_slice(b"RSD PTR ");
        let addresses = [OTHER, MADT_AT];
        if is_old {
            memory[RSDP + 16] = ROOT as u8;
            correct(&mut memory, RSDP, 20, RSDP + 8);
            let addresses = addresses.map(|address| (address as u32).to_le_bytes());
            put(&mut memory, ROOT, b"RSDT", addresses.as_flattened());
        } else {
            memory[RSDP + 15] = 2;
            memory[RSDP + 24] = ROOT as u8;
            correct(&mut memory, RSDP, 20, RSDP + 8);
            correct(&mut memory, RSDP, 36, RSDP + 32);
            let addresses = addresses.map(|address| (address as u64).to_le_bytes());
            put(&mut memory, ROOT, b"XSDT", addresses.as_flattened());
        }
        put(&mut memory, OTHER, b"HPET", &[1, 2, 3]);
        let mut madt = Vec::new();
        madt.extend(0xfee0_0000_u32.to_le_bytes());
        madt.extend([1, 0, 0, 0]);
        for (id, flags) in [(0, 1), (2, 1), (3, 0)] {
            madt.extend([0, 8, id, id, flags, 0, 0, 0]);
        }
        // An I/O APIC, which is no CPU.
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        put(&mut memory, MADT_AT, &MADT, &madt);
        memory
    }

    fn cpus(memory: &[u8]) -> Result<Cpus, AcpiError> {
        Tables::new(memory, RSDP as u64)?.cpus()
    }

    #[test]
    fn cpus_that_can_be_used_are_found() {
        for is_old in [false, true] {
            let memory = machine(is_old);
            let cpus = cpus(&memory).unwrap();
            assert_eq!(cpus.apic_ids(), [0, 2, 0x100]);
            assert_eq!((cpus.local_apic(), cpus.left_out()), (0xfee0_0000, 0));
        }
    }

    #[test]
    fn tables_are_found_by_their_signature() {
        let memory = machine(false);
        let tables = Tables::new(&memory[..], RSDP as u64).unwrap();
        let table = tables.find(*b"HPET").unwrap();
        assert_eq!((table.address, table.size), (OTHER as u64, HEADER + 3));
        let missing = tables.find(*b"MC\0G").unwrap_err();
        assert_eq!(missing.to_string(), "the ACPI table MC\\x00G is missing");
    }

    #[test]
    fn each_damaged_byte_is_noticed() {
        let whole = machine(false);
        let expected = cpus(&whole).unwrap();
        for index in RSDP..whole.len() {
            let mut memory = whole.clone();
            memory[index] ^= 0x20;
            // Bytes between tables, and in others, mean nothing.
            let in_table = [
                (RSDP, 36),
                (ROOT, HEADER + 16),
                (MADT_AT, whole.len() - MADT_AT),
            ]
            .iter()
            .any(|&(start, size)| (start..start + size).contains(&index));
            assert_eq!(cpus(&memory) == Ok(expected), !in_table, "{index:#x}");
        }
    }

    #[test]
    fn damage_behind_a_right_checksum_ends_too() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        let mut outcomes = [0; 2];
        for round in 0..20_000 {
            let mut memory = machine(round % 2 == 0);
            for _ in 0..1 + random() % 4 {
                let index = RSDP + random() % (memory.len() - RSDP);
                memory[index] = [0, 1, 0xff, random() as u8][random() % 4];
            }
            memory.truncate(RSDP + random() % (2 * memory.len()));
            for (start, size, at) in [(RSDP, 20, 8), (RSDP, 36, 32)] {
                if memory.len() >= start + size {
                    correct(&mut memory, start, size, start + at);
                }
            }
            for start in [ROOT, OTHER, MADT_AT] {
                let Some(size) = read::<4>(&&memory[..], start as u64, 4) else {
                    continue;
                };
                let size = u32::from_le_bytes(size) as usize;
                if size > 9 && memory.len() >= start.saturating_add(size) {
                    correct(&mut memory, start, size, start + 9);
                }
            }
            outcomes[usize::from(cpus(&memory).is_ok())] += 1;
        }
        assert!(outcomes.iter().all(|&count| count > 1000), "{outcomes:?}");
    }

    #[test]
    fn a_machine_without_tables_has_no_root_pointer() {
        for rsdp in [0, RSDP as u64 + 1, 1 << 40, u64::MAX] {
            let memory = machine(false);
            let refused = Tables::new(&memory[..], rsdp).unwrap_err();
            assert_eq!(refused, AcpiError::NoRootPointer);
        }
    }

    #[test]
    fn a_cpu_that_is_listed_twice_counts_once() {
        let mut memory = machine(false);
        let mut madt = std::vec![0; 8];
        for id in [0, 2, 0] {
            madt.extend([0, 8, id, id, 1, 0, 0, 0]);
            madt.extend([9, 16, 0, 0, id, 0, 0, 0, 1, 0, 0, 0, id, 0, 0, 0]);
        }
        put(&mut memory, MADT_AT, &MADT, &madt);
        assert_eq!(cpus(&memory).unwrap().apic_ids(), [0, 2]);
    }

    #[test]
    fn more_cpus_than_the_list_has_are_counted() {
        let mut memory = machine(false);
        let mut madt = std::vec![0; 8];
        for id in 0..Cpus::MAX as u32 + 3 {
            madt.extend([9, 16, 0, 0]);
            madt.extend(id.to_le_bytes());
            madt.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        }
        put(&mut memory, MADT_AT, &MADT, &madt);
        let cpus = cpus(&memory).unwrap();
        assert_eq!((cpus.apic_ids().len(), cpus.left_out()), (Cpus::MAX, 3));
        assert_eq!(cpus.apic_ids()[255], 255);
    }
}
