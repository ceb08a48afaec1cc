//! A source that knows which of its pages are memory, and what is in them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;
use std::thread;

use super::support::CheckedSource;
use heap::vmem::{Layout, Result, Source};

/// A [`CheckedSource`] of zeroed memory, parts of which can be discarded. Verifies that no two
/// calls about the same addresses are in progress at once.
pub(crate) struct PagedSource {
    /// Records what is lent. Its budget counts the calls that succeed.
    pub(crate) lender: CheckedSource,
    memory: Mutex<Memory>,
    /// The distance of the addresses whose contents are recorded.
    unit: usize,
}

#[derive(Default)]
struct Memory {
    /// The contents of each unit that is memory.
    units: BTreeMap<usize, u64>,
    /// The first and the last address of each call in progress.
    calls: Vec<(usize, usize)>,
    /// The number of units that were ever restored.
    restored: usize,
}

impl PagedSource {
    /// Creates a source with pages of size `quantum`, whose contents are recorded for each `unit`.
    pub(crate) fn new(base: usize, last: usize, quantum: usize, unit: usize) -> Self {
        let mut lender = CheckedSource::new(base, last);
        lender.quantum = quantum;
        Self {
            lender,
            memory: Mutex::default(),
            unit,
        }
    }

    /// Returns which units of a range are memory.
    pub(crate) fn is_memory(&self, base: usize, size: usize) -> Vec<bool> {
        let memory = self.memory.lock().unwrap();
        self.units(base, size)
            .map(|unit| memory.units.contains_key(&unit))
            .collect()
    }

    /// Returns the number of units that are memory.
    pub(crate) fn units_of_memory(&self) -> usize {
        self.memory.lock().unwrap().units.len()
    }

    /// Returns the number of units that were ever restored.
    pub(crate) fn ever_restored(&self) -> usize {
        self.memory.lock().unwrap().restored
    }

    /// Writes to each unit of a range, all of which must be memory.
    #[track_caller]
    pub(crate) fn write(&self, base: usize, size: usize, value: u64) {
        let mut memory = self.memory.lock().unwrap();
        for unit in self.units(base, size) {
            let contents = memory.units.get_mut(&unit);
            *contents.unwrap_or_else(|| panic!("{unit:#x} is no memory")) = value;
        }
    }

    /// Checks that each unit of a range is memory with this value.
    #[track_caller]
    pub(crate) fn verify(&self, base: usize, size: usize, value: u64) {
        let memory = self.memory.lock().unwrap();
        for unit in self.units(base, size) {
            assert_eq!(memory.units.get(&unit), Some(&value), "at {unit:#x}");
        }
    }

    fn units(&self, base: usize, size: usize) -> impl Iterator<Item = usize> + use<> {
        (base..base + size).step_by(self.unit)
    }

    /// Makes a call about a range, during which no other call may be about any of it.
    fn call(
        &self,
        base: usize,
        size: usize,
        work: impl FnOnce(&mut Memory) -> Result<()>,
    ) -> Result<()> {
        let call = (base, base + size - 1);
        {
            let mut memory = self.memory.lock().unwrap();
            for &(first, last) in &memory.calls {
                assert!(call.1 < first || last < call.0, "two calls at {base:#x}");
            }
            memory.calls.push(call);
        }
        thread::yield_now();
        let mut memory = self.memory.lock().unwrap();
        let result = work(&mut memory);
        memory.calls.retain(|&other| other != call);
        result
    }

    #[track_caller]
    fn assert_lent(&self, base: usize, size: usize) {
        assert!(size > 0 && (base | size) % self.lender.quantum == 0);
        let inside = |&(lent, len): &(usize, usize)| lent <= base && base + size <= lent + len;
        let lent = self.lender.lent();
        assert!(lent.iter().any(inside), "{base:#x} is not lent");
    }
}

impl Source for PagedSource {
    fn quantum(&self) -> usize {
        self.lender.quantum
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        let base = self.lender.import(layout)?;
        let mut memory = self.memory.lock().unwrap();
        let units = self.units(base, layout.size()).map(|unit| (unit, 0));
        memory.units.extend(units);
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        let units = self.units(base, size);
        self.call(base, size, |memory| {
            // Before another thread can import them.
            let kept = memory.units.clone();
            units.for_each(|unit| {
                memory.units.remove(&unit);
            });
            // SAFETY: the caller keeps the contract.
            let released = unsafe { self.lender.release(base, size) };
            if released.is_err() {
                memory.units = kept;
            }
            released
        })
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        // SAFETY: the caller keeps the contract.
        unsafe { self.lender.extend(base, size, new_size) }?;
        // Not before, since the addresses may belong to another lent range.
        let (tail, more) = (base + size, new_size - size);
        self.call(tail, more, |memory| {
            let units = self.units(tail, more).map(|unit| (unit, 0));
            memory.units.extend(units);
            Ok(())
        })
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        let (tail, less) = (base + new_size, size - new_size);
        self.call(tail, less, |memory| {
            let kept = memory.units.clone();
            let units = self.units(tail, less);
            units.for_each(|unit| {
                memory.units.remove(&unit);
            });
            // SAFETY: the caller keeps the contract.
            let shrunk = unsafe { self.lender.shrink(base, size, new_size) };
            if shrunk.is_err() {
                memory.units = kept;
            }
            shrunk
        })
    }

    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        self.assert_lent(base, size);
        self.call(base, size, |memory| {
            self.lender.spend()?;
            for unit in self.units(base, size) {
                memory.units.remove(&unit);
            }
            Ok(())
        })
    }

    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        self.assert_lent(base, size);
        self.call(base, size, |memory| {
            self.lender.spend()?;
            for unit in self.units(base, size) {
                if let Entry::Vacant(unit) = memory.units.entry(unit) {
                    unit.insert(0);
                    memory.restored += 1;
                }
            }
            Ok(())
        })
    }
}
