//! How long the heap and the layers below it mask interrupts: a histogram.
//!
//! The tests measure it; other programs are built without the feature `masked-time`. Counted is the
//! time from masking interrupts that were enabled, for a lock or for the slabs of this CPU, until
//! they are enabled again. Handlers run with interrupts masked anyway, and are not counted.
//!
//! The unit is that of the time-stamp counter: an instruction, under QEMU's `-icount shift=0`.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu_local::CpuLocal;
use crate::time_stamp;

/// The number of rows of the histogram.
const ROWS: usize = 32;

static LONGEST: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; ROWS] = [const { AtomicU64::new(0) }; ROWS];

/// Notes that interrupts of this CPU, which were enabled, are masked now.
#[inline]
pub(crate) fn begin(cpu: &CpuLocal) {
    cpu.masked_since.store(time_stamp(), Relaxed);
}

/// Notes that interrupts are about to be enabled again.
#[inline]
pub(crate) fn end(cpu: &CpuLocal) {
    let taken = time_stamp() - cpu.masked_since.load(Relaxed);
    let row = (taken.max(1).ilog2() as usize).min(ROWS - 1);
    COUNTS[row].fetch_add(1, Relaxed);
    LONGEST.fetch_max(taken, Relaxed);
}

/// How often interrupts were masked, by how long.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// Row n counts how often they were for at least `1 << n` units, and less than twice as long.
    /// (The lowest row counts those below 1, too, and the highest all that are longer.)
    pub counts: [u64; ROWS],
    /// The longest time, in units of the time-stamp counter.
    pub longest: u64,
}

/// Returns the histogram since the last call, and begins another.
pub fn take() -> Histogram {
    Histogram {
        longest: LONGEST.swap(0, Relaxed),
        counts: core::array::from_fn(|row| COUNTS[row].swap(0, Relaxed)),
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.counts.iter().enumerate();
        for (row, &count) in rows.filter(|&(_, &count)| count > 0) {
            let (from, below) = (1_u64 << row, 1_u64 << (row + 1));
            writeln!(f, "    {from:>9} to {:>9}  {count:>9} times", below - 1)?;
        }
        write!(f, "    longest: {}", self.longest)
    }
}
