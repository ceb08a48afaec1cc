//! The timer interrupt: the programmable interval timer.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use super::irq::{self, Irq};
use crate::sync::InterruptMutex;

/// The vector of the timer.
pub const VECTOR: u8 = Irq::TIMER.vector();

/// The frequency at which the timer counts down, in hertz.
const CLOCK: u32 = 1_193_182;

/// The command for channel 0: low byte, then high byte, as a rate generator.
const RATE_GENERATOR: u8 = 0b0011_0100;

static TICKS: AtomicU64 = AtomicU64::new(0);
static HOOK: InterruptMutex<Option<fn()>> = InterruptMutex::new(None);

/// The smallest divisor of the clock. With 1, the rate generator stands still.
const LEAST_DIVISOR: u32 = 2;

/// Starts the timer, or changes its rate. Returns the new rate in hertz: the nearest rate at or
/// above `hertz` that the hardware supports, from 19 to 596,591.
///
/// The timer ticks while interrupts are [enabled](super::enable).
pub fn start(hertz: u32) -> u32 {
    let divisor = (CLOCK / hertz.max(1)).clamp(LEAST_DIVISOR, u32::from(u16::MAX));
    let [low, high, ..] = divisor.to_le_bytes();
    // The lock keeps the three bytes together.
    let hook = HOOK.lock();
    for (port, value) in [(0x43, RATE_GENERATOR), (0x40, low), (0x40, high)] {
        // SAFETY: these are the ports of the timer, which only this module uses.
        unsafe { Port::new(port).write(value) };
    }
    drop(hook);
    // Only this module has the timer's line. An error means that the timer runs already.
    let _ = irq::register(Irq::TIMER, tick);
    CLOCK / divisor
}

/// Stops the timer.
pub fn stop() {
    irq::unregister(Irq::TIMER);
}

/// Returns the number of ticks so far.
pub fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Sets the function that the handler calls at each tick, with interrupts masked. Returns the
/// previous function.
pub fn set_hook(hook: Option<fn()>) -> Option<fn()> {
    core::mem::replace(&mut *HOOK.lock(), hook)
}

/// Handles an interrupt of the timer.
fn tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
    #[cfg(target_os = "none")]
    crate::heap::decay::count_tick();
    // Copied out of the lock: the hook may set another hook.
    let hook = *HOOK.lock();
    if let Some(hook) = hook {
        hook();
    }
}
