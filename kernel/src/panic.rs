//! What happens when the kernel panics.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::exit::{ExitCode, exit};
use crate::serial::println_unlocked;
use crate::testing::{self, Death};

/// Set by the first panic.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Reports a panic and ends the kernel. Waits for no lock and allocates nothing.
pub fn panicked(info: &PanicInfo) -> ! {
    x86_64::instructions::interrupts::disable();
    if PANICKED.swap(true, Ordering::Relaxed) {
        // Something that was to be printed has panicked itself: do not format anything again.
        println_unlocked!("panicked while reporting a panic");
        exit(ExitCode::Panicked);
    }
    println_unlocked!("{info}");
    testing::died(Death::Panic, &info.message());
    exit(ExitCode::Panicked)
}
