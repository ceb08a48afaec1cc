//! How the kernel crashes: by a panic, or by an exception that no handler repairs.
//!
//! A crash takes no lock and allocates nothing: the interrupted code may hold any lock.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Once;

use crate::backtrace::{self, Frames};
use crate::console;
use crate::cpus;
use crate::exit::{ExitCode, exit, halt};
use crate::interrupts::apic;
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

/// The number of the CPU that ends the kernel, plus 1; 0 before.
static STOPPER: AtomicUsize = AtomicUsize::new(0);

/// The number of CPUs that it has stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

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

/// Stops all other CPUs, and waits for a moment until they have. If another CPU does so already,
/// halts this CPU. Otherwise does nothing after the first call.
pub(crate) fn stop_others() {
    /// More turns than a CPU needs that runs at all.
    const MOST: usize = 1_000_000;

    let this = cpus::this();
    match STOPPER.compare_exchange(0, this + 1, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(stopper) if stopper == this + 1 => return,
        Err(_) => halt(),
    }
    let others = cpus::count() - 1;
    for number in (0..=others).filter(|&number| number != this) {
        apic::interrupt_non_maskable(number);
    }
    for _ in 0..MOST {
        if STOPPED.load(Ordering::Relaxed) >= others {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Stops this CPU, if another one [stops the others](stop_others): a non-maskable interrupt says
/// so.
#[cfg(target_os = "none")]
pub(crate) fn stop_if_told() {
    let stopper = STOPPER.load(Ordering::SeqCst);
    if stopper != 0 && stopper != cpus::this() + 1 {
        STOPPED.fetch_add(1, Ordering::Relaxed);
        halt();
    }
}

/// Masks interrupts, stops the other CPUs, and returns if this is the first crash. While another
/// CPU reports one, halts this CPU.
///
/// Code that reports a crash calls this function before it looks up or prints anything: either may
/// crash again. The second crash ends the kernel here, after one line about its `reason`. The third
/// crash comes from printing that line, and ends the kernel without a word.
pub(crate) fn begin_crash(crash: Crash, reason: &dyn fmt::Display) {
    x86_64::instructions::interrupts::disable();
    stop_others();
    match CRASHES.fetch_add(1, Ordering::Relaxed) {
        0 => {
            // The text before the crash. Locks that the interrupted code holds are not waited for.
            console::draw_all();
            serial::end_line_unlocked();
            if cpus::count() > 1 {
                println_unlocked!("On CPU {}:", cpus::this());
            }
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
