//! The timer interrupt: the programmable interval timer, through the 8259 interrupt controllers.

use core::sync::atomic::{AtomicU64, Ordering};

use pic8259::ChainedPics;
use x86_64::instructions::port::Port;

use crate::sync::InterruptMutex;

/// The first vector after those of the CPU's exceptions.
const FIRST_VECTOR: u8 = 32;
/// The vector of the timer.
pub const VECTOR: u8 = FIRST_VECTOR;
/// What the controllers send when a line falls silent before it was answered. Only unmasked lines
/// are answered, so there is nothing to do for these.
pub const SPURIOUS_VECTORS: [u8; 2] = [FIRST_VECTOR + 7, FIRST_VECTOR + 15];

/// The timer line of the first controller is let through, all others are masked.
const TIMER_ONLY: [u8; 2] = [!1, !0];

/// How fast the timer counts down, in hertz.
const CLOCK: u32 = 1_193_182;

/// "Channel 0, low byte then high byte, rate generator."
const RATE_GENERATOR: u8 = 0b0011_0100;

static CONTROLLERS: InterruptMutex<ChainedPics> = {
    // SAFETY: the vectors from 32 on are not used by exceptions.
    InterruptMutex::new(unsafe { ChainedPics::new_contiguous(FIRST_VECTOR) })
};

static TICKS: AtomicU64 = AtomicU64::new(0);
static HOOK: InterruptMutex<Option<fn()>> = InterruptMutex::new(None);

/// Moves the interrupts of the controllers to vectors that are not exceptions, where the firmware
/// may have left them, and masks them all.
pub(super) fn init() {
    let mut controllers = CONTROLLERS.lock();
    // SAFETY: this module is the only one that uses the controllers, and interrupts are masked.
    unsafe {
        controllers.initialize();
        controllers.disable();
    }
}

/// Starts the timer, or changes its rate, and returns the rate in hertz that it has now: the
/// nearest one at or above `hertz` that the hardware can do, from 19 up.
///
/// Ticks come once interrupts are [enabled](super::enable).
pub fn start(hertz: u32) -> u32 {
    let divisor = (CLOCK / hertz.max(1)).clamp(1, u32::from(u16::MAX));
    let mut controllers = CONTROLLERS.lock();
    let [low, high, ..] = divisor.to_le_bytes();
    // SAFETY: these are the ports of the timer, and this module is the only one that uses them and
    // the controllers. The vectors that can come have a handler.
    unsafe {
        Port::new(0x43).write(RATE_GENERATOR);
        Port::new(0x40).write(low);
        Port::new(0x40).write(high);
        controllers.write_masks(TIMER_ONLY[0], TIMER_ONLY[1]);
    }
    CLOCK / divisor
}

/// Stops the ticks.
pub fn stop() {
    // SAFETY: this module is the only one that uses the controllers.
    unsafe { CONTROLLERS.lock().disable() };
}

/// How many times the timer has ticked.
pub fn ticks() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Sets what is called at each tick, in the interrupt handler with interrupts masked; returns what
/// was called before.
pub fn set_hook(hook: Option<fn()>) -> Option<fn()> {
    core::mem::replace(&mut *HOOK.lock(), hook)
}

/// What the handler of [`VECTOR`] does.
#[cfg(target_os = "none")]
pub(super) fn tick() {
    TICKS.fetch_add(1, Ordering::Relaxed);
    // Copied out: the hook runs without the lock, and may set another.
    let hook = *HOOK.lock();
    if let Some(hook) = hook {
        hook();
    }
    // SAFETY: this is called by the handler of that vector.
    unsafe { CONTROLLERS.lock().notify_end_of_interrupt(VECTOR) };
}
