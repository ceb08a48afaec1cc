//! What happens when the kernel panics.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::exit::{ExitCode, exit};
use crate::serial::println_unlocked;
use crate::testing::{self, Death};

/// Set when the kernel begins to die.
static DYING: AtomicBool = AtomicBool::new(false);

/// Reports a panic and ends the kernel. Waits for no lock and allocates nothing.
pub fn panicked(info: &PanicInfo) -> ! {
    begin_to_die(ExitCode::Panicked);
    println_unlocked!("{info}");
    testing::died(Death::Panic, &Reason(info));
    exit(ExitCode::Panicked)
}

/// To be called before anything is reported: masks interrupts, and if reporting has failed already,
/// ends the kernel without trying again.
pub(crate) fn begin_to_die(code: ExitCode) {
    x86_64::instructions::interrupts::disable();
    if DYING.swap(true, Ordering::Relaxed) {
        println_unlocked!("died again while reporting why");
        exit(code);
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
