//! The timer that each CPU has for itself, in its local interrupt controller.
//!
//! A machine with one CPU has the [`timer`] alone.
//!
//! [`timer`]: super::timer

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::apic;
use crate::cpus::MAX_CPUS;
use crate::sync::InterruptMutex;

/// How far a timer counts in a millisecond. 0 if that was not measured.
static COUNTS_PER_MS: AtomicU32 = AtomicU32::new(0);

static TICKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static HOOK: InterruptMutex<Option<fn()>> = InterruptMutex::new(None);

/// Measures the clock of the timers: `wait` returns after how many milliseconds it does.
pub(crate) fn calibrate(wait: impl FnOnce() -> u32) {
    // The highest count does not end within a second.
    if apic::start_timer(u32::MAX) {
        let ms = wait();
        let counted = u32::MAX - apic::timer_count();
        apic::stop_timer();
        COUNTS_PER_MS.store(counted / ms, Relaxed);
    }
}

/// Starts the timer of the CPU that runs this code, or changes its rate, to `hertz`, from 1 to
/// 1,000,000. Returns whether the machine has such timers: not if it has one CPU only.
pub fn start(hertz: u32) -> bool {
    let per_second = u64::from(COUNTS_PER_MS.load(Relaxed)) * 1000;
    if per_second == 0 {
        return false;
    }
    let count = per_second / u64::from(hertz.clamp(1, 1_000_000));
    apic::start_timer(count.clamp(1, u32::MAX.into()) as u32)
}

/// Stops the timer of the CPU that runs this code.
pub fn stop() {
    apic::stop_timer();
}

/// Returns the number of ticks of the CPU `number` so far.
///
/// # Panics
/// Panics if there can be no such CPU.
pub fn ticks(number: usize) -> u64 {
    TICKS[number].load(Relaxed)
}

/// Sets the function that is called at each tick of each CPU, on that CPU, with interrupts masked.
/// Returns the previous function, which other CPUs may still be running.
pub fn set_hook(hook: Option<fn()>) -> Option<fn()> {
    core::mem::replace(&mut *HOOK.lock(), hook)
}

/// Handles a tick.
#[cfg(target_os = "none")]
pub(super) fn tick() {
    TICKS[crate::cpus::this()].fetch_add(1, Relaxed);
    // Copied out of the lock: the hook may set another hook.
    let hook = *HOOK.lock();
    if let Some(hook) = hook {
        hook();
    }
}
