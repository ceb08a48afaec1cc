//! What happens when the kernel panics, or dies of a fault.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::exit::{ExitCode, exit};
use crate::serial::println_unlocked;
use crate::testing::{self, Death};

/// How often the kernel has begun to die.
static DEATHS: AtomicUsize = AtomicUsize::new(0);

/// Reports a panic and ends the kernel. Waits for no lock and allocates nothing.
pub fn panicked(info: &PanicInfo) -> ! {
    begin_to_die(Death::Panic, &Reason(info));
    println_unlocked!("{info}");
    testing::died(Death::Panic, &Reason(info));
    exit(ExitCode::Panicked)
}

/// Masks interrupts, and returns if this is the kernel's first death. To be called before anything is
/// looked up or printed for a report: that may fail again.
///
/// The second death ends the kernel here, with one line about `cause`. The third ends it without a
/// word: then it was printing `cause` that failed.
pub(crate) fn begin_to_die(death: Death, cause: &dyn fmt::Display) {
    x86_64::instructions::interrupts::disable();
    match DEATHS.fetch_add(1, Ordering::Relaxed) {
        0 => return,
        1 => {
            let again = DiedAgain(cause);
            // The report of the first death may have ended within a line.
            println_unlocked!("\n{again}");
            testing::died(death, &again);
        }
        _ => {}
    }
    exit(match death {
        Death::Panic => ExitCode::Panicked,
        Death::Fault => ExitCode::Faulted,
    })
}

/// What the second death is called.
struct DiedAgain<'a>(&'a dyn fmt::Display);

impl fmt::Display for DiedAgain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "died again while reporting why: {}", self.0)
    }
}

/// The message and where it comes from, in one line.
struct Reason<'a>(&'a PanicInfo<'a>);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.message().fmt(f)?;
        match self.0.location() {
            Some(location) => write!(f, ", at {location}"),
            None => Ok(()),
        }
    }
}
