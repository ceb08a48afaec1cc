//! The timer interrupt: the programmable interval timer, through the 8259 interrupt controllers.

use core::sync::atomic::{AtomicU64, Ordering};

use pic8259::ChainedPics;
use x86_64::instructions::port::Port;

use crate::sync::InterruptMutex;

/// The first vector after those of the CPU's exceptions.
const FIRST_VECTOR: u8 = 32;
/// The vector of the timer.
pub const VECTOR: u8 = FIRST_VECTOR;
/// The vectors of spurious interrupts: a line became inactive before the controller answered it. A
/// spurious interrupt needs no end-of-interrupt command.
pub const SPURIOUS_VECTORS: [u8; 2] = [FIRST_VECTOR + 7, FIRST_VECTOR + 15];

/// The masks of the two controllers: the timer's line is enabled, all other lines are masked.
const TIMER_ONLY: [u8; 2] = [!1, !0];

/// The frequency at which the timer counts down, in hertz.
const CLOCK: u32 = 1_193_182;

/// The command for channel 0: low byte, then high byte, as a rate generator.
const RATE_GENERATOR: u8 = 0b0011_0100;

static CONTROLLERS: InterruptMutex<ChainedPics> = {
    // SAFETY: exceptions of the CPU use the vectors below 32 only.
    InterruptMutex::new(unsafe { ChainedPics::new_contiguous(FIRST_VECTOR) })
};

static TICKS: AtomicU64 = AtomicU64::new(0);
static HOOK: InterruptMutex<Option<fn()>> = InterruptMutex::new(None);

/// Moves the interrupts of the controllers away from the vectors of exceptions, where the firmware
/// may have left them, and masks all of them.
pub(super) fn init() {
    let mut controllers = CONTROLLERS.lock();
    // SAFETY: only this module uses the controllers, and interrupts are masked.
    unsafe { controllers.initialize() };
    // SAFETY: only this module uses the controllers, which were just initialised.
    unsafe { controllers.disable() };
}

/// Starts the timer, or changes its rate. Returns the new rate in hertz: the nearest rate at or
/// above `hertz` that the hardware supports, and at least 19.
///
/// The timer ticks while interrupts are [enabled](super::enable).
pub fn start(hertz: u32) -> u32 {
    let divisor = (CLOCK / hertz.max(1)).clamp(1, u32::from(u16::MAX));
    let mut controllers = CONTROLLERS.lock();
    let [low, high, ..] = divisor.to_le_bytes();
    for (port, value) in [(0x43, RATE_GENERATOR), (0x40, low), (0x40, high)] {
        // SAFETY: these are the ports of the timer, which only this module uses.
        unsafe { Port::new(port).write(value) };
    }
    // SAFETY: only this module uses the controllers. The timer's vector and the spurious vectors
    // have handlers.
    unsafe { controllers.write_masks(TIMER_ONLY[0], TIMER_ONLY[1]) };
    CLOCK / divisor
}

/// Stops the timer.
pub fn stop() {
    // SAFETY: only this module uses the controllers.
    unsafe { CONTROLLERS.lock().disable() };
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

/// Handles an interrupt with the vector [`VECTOR`].
#[cfg(target_os = "none")]
pub(super) fn tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
    crate::heap::decay::count_tick();
    // Copied out of the lock: the hook may set another hook.
    let hook = *HOOK.lock();
    if let Some(hook) = hook {
        hook();
    }
    // SAFETY: only the handler of this vector calls this function.
    unsafe { CONTROLLERS.lock().notify_end_of_interrupt(VECTOR) };
}
