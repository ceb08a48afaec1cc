//! How the kernel crashes: by a panic, or by an exception that no handler repairs.
//!
//! A crash takes no lock and allocates nothing: the interrupted code may hold any lock.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Once;

use crate::backtrace::{self, Frames};
use crate::console;
use crate::exit::{ExitCode, exit};
use crate::serial::{self, println_unlocked};

/// What made the kernel crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// An exception of the CPU.
    Fault,
}

/// A function that learns of a crash and its reason.
///
/// It may neither wait for a lock nor allocate.
pub type CrashHook = fn(Crash, &dyn fmt::Display);

static HOOK: Once<CrashHook> = Once::new();

/// The number of crashes so far: a report of a crash may crash in turn.
static CRASHES: AtomicUsize = AtomicUsize::new(0);

/// Sets the function that is called after a crash was reported. Only the first call has an effect.
pub(crate) fn set_crash_hook(hook: CrashHook) {
    HOOK.call_once(|| hook);
}

/// Calls the crash hook, if one was set.
pub(crate) fn call_crash_hook(crash: Crash, reason: &dyn fmt::Display) {
    if let Some(hook) = HOOK.get() {
        hook(crash, reason);
    }
}

/// Reports a panic and ends the kernel. Waits for no lock and allocates nothing.
pub fn panicked(info: &PanicInfo) -> ! {
    begin_crash(Crash::Panic, &Reason(info));
    println_unlocked!("{info}");
    backtrace::print(None, Frames::of_caller());
    call_crash_hook(Crash::Panic, &Reason(info));
    exit(ExitCode::Panicked)
}

/// Masks interrupts, and returns if this is the first crash.
///
/// Code that reports a crash calls this function before it looks up or prints anything: either may
/// crash again. The second crash ends the kernel here, after one line about its `reason`. The third
/// crash comes from printing that line, and ends the kernel without a word.
pub(crate) fn begin_crash(crash: Crash, reason: &dyn fmt::Display) {
    x86_64::instructions::interrupts::disable();
    match CRASHES.fetch_add(1, Ordering::Relaxed) {
        0 => {
            // The text before the crash. Locks that the interrupted code holds are not waited for.
            console::draw_all();
            serial::end_line_unlocked();
            return;
        }
        1 => {
            let again = CrashedAgain(reason);
            // The report of the first crash may have ended within a line.
            println_unlocked!("\n{again}");
            call_crash_hook(crash, &again);
        }
        _ => {}
    }
    exit(match crash {
        Crash::Panic => ExitCode::Panicked,
        Crash::Fault => ExitCode::Faulted,
    })
}

/// The reason of the second crash.
struct CrashedAgain<'a>(&'a dyn fmt::Display);

impl fmt::Display for CrashedAgain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crashed again while reporting a crash: {}", self.0)
    }
}

/// The message of a panic and its location, in one line.
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
