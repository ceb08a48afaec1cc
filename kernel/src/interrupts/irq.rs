//! Interrupts of devices: the sixteen lines of the two 8259 interrupt controllers.
//!
//! ```text
//! device ── line ──> controller ── vector 32 + line ──> dispatch ──> handler, end of interrupt
//! ```

use core::fmt;

use pic8259::ChainedPics;
use x86_64::instructions::port::Port;

#[cfg(target_os = "none")]
use crate::console;
use crate::sync::InterruptMutex;

/// The vector of line 0: the first after those of the CPU's exceptions.
pub(super) const FIRST_VECTOR: u8 = 32;

/// The number of lines.
const LINES: usize = 16;

/// A line of the interrupt controllers that a device can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Irq(u8);

impl Irq {
    /// The programmable interval timer, which belongs to [`timer`](super::timer).
    pub(super) const TIMER: Self = Self(0);
    /// The keyboard: its byte is at port 0x60.
    pub const KEYBOARD: Self = Self(1);
    /// The serial ports COM2 and COM4.
    pub const COM2: Self = Self(3);
    /// The serial ports COM1 and COM3. [`serial`](crate::serial) uses COM1 without interrupts.
    pub const COM1: Self = Self(4);
    /// The real-time clock.
    pub const CLOCK: Self = Self(8);
    /// The mouse: its byte is at port 0x60.
    pub const MOUSE: Self = Self(12);
    /// The first disk controller in its old mode.
    pub const DISK: Self = Self(14);

    /// The line that the second controller takes on the first one: no device has it.
    const CASCADE: u8 = 2;

    /// Returns the line with this number, as the configuration space of a PCI device gives it.
    /// `None` for line 0, which belongs to the [timer](super::timer), for line 2, which belongs to
    /// the second controller, and for numbers above 15.
    pub const fn new(line: u8) -> Option<Self> {
        match line {
            0 | Self::CASCADE | 16.. => None,
            _ => Some(Self(line)),
        }
    }

    /// Returns the line `LINE`, also if it belongs to this crate.
    #[cfg(target_os = "none")]
    pub(super) const fn of_line<const LINE: u8>() -> Self {
        const { assert!(LINE < LINES as u8) };
        Self(LINE)
    }

    /// Returns the number of the line.
    pub const fn line(self) -> u8 {
        self.0
    }

    /// Returns the vector of the CPU that the line leads to.
    pub const fn vector(self) -> u8 {
        FIRST_VECTOR + self.0
    }
}

/// The line has a handler already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IrqInUse(
    /// The line.
    pub Irq,
);

impl fmt::Display for IrqInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupt line {} has a handler already", self.0.line())
    }
}

impl core::error::Error for IrqInUse {}

/// The controllers, and the handlers of their lines.
struct Lines {
    controllers: ChainedPics,
    handlers: [Option<fn()>; LINES],
}

static ALL: InterruptMutex<Lines> = InterruptMutex::new(Lines {
    // SAFETY: exceptions of the CPU use the vectors below 32 only.
    controllers: unsafe { ChainedPics::new_contiguous(FIRST_VECTOR) },
    handlers: [None; LINES],
});

impl Lines {
    /// Masks the lines that have no handler.
    fn update_masks(&mut self) {
        let [first, second] = masks(&self.handlers);
        // SAFETY: only this module uses the controllers. Each vector has a handler.
        unsafe { self.controllers.write_masks(first, second) };
    }
}

/// Returns the masks of the first and the second controller. A bit is 0 if its line has a handler,
/// or if it is that of the second controller and one of the lines there has a handler.
fn masks(handlers: &[Option<fn()>; LINES]) -> [u8; 2] {
    let mut open: u16 = handlers
        .iter()
        .enumerate()
        .filter(|(_, handler)| handler.is_some())
        .fold(0, |open, (line, _)| open | 1 << line);
    if open > 0xff {
        open |= 1 << Irq::CASCADE;
    }
    (!open).to_le_bytes()
}

/// Moves the interrupts of the controllers away from the vectors of exceptions, where the firmware
/// may have left them, and masks all of them.
pub(super) fn init() {
    let mut lines = ALL.lock();
    // SAFETY: only this module uses the controllers, and interrupts are masked.
    unsafe { lines.controllers.initialize() };
    lines.update_masks();
}

/// Calls `handler` at each interrupt of `irq` from now on.
///
/// What was typed on the keyboard before it has a handler is dropped.
///
/// The handler runs with interrupts masked. It may allocate and free, print, and lock an
/// [`InterruptMutex`](crate::sync::InterruptMutex); it must not wait for other code. The end of the
/// interrupt is told to the controller after the handler returns.
///
/// # Errors
/// Returns an error if the line has a handler.
pub fn register(irq: Irq, handler: fn()) -> Result<(), IrqInUse> {
    let mut lines = ALL.lock();
    let slot = &mut lines.handlers[usize::from(irq.line())];
    if slot.is_some() {
        return Err(IrqInUse(irq));
    }
    *slot = Some(handler);
    if irq == Irq::KEYBOARD {
        drop_typed();
    }
    lines.update_masks();
    Ok(())
}

/// Drops what was typed before the keyboard had a handler. Until it is read, the keyboard raises no
/// interrupt.
fn drop_typed() {
    /// More bytes than a keyboard controller holds. Without a controller, all bits are 1.
    const MOST: usize = 32;
    /// Whether a byte waits, in the status.
    const WAITS: u8 = 1;

    let (mut status, mut data) = (Port::<u8>::new(0x64), Port::<u8>::new(0x60));
    for _ in 0..MOST {
        // SAFETY: this is the status port of the keyboard controller. Reading it changes nothing.
        if unsafe { status.read() } & WAITS == 0 {
            return;
        }
        // SAFETY: this is the data port of the keyboard controller. No code waits for it.
        unsafe { data.read() };
    }
}

/// Masks `irq`, and returns its handler. Interrupts of the line do not come any more.
pub fn unregister(irq: Irq) -> Option<fn()> {
    let mut lines = ALL.lock();
    let handler = lines.handlers[usize::from(irq.line())].take();
    lines.update_masks();
    handler
}

/// Handles an interrupt of a line.
#[cfg(target_os = "none")]
pub(super) fn dispatch(irq: Irq) {
    if is_spurious(irq) {
        return;
    }
    // Copied out of the lock: the handler may register others.
    let handler = ALL.lock().handlers[usize::from(irq.line())];
    if let Some(handler) = handler {
        handler();
    }
    // SAFETY: the interrupt is in service, and only its handler calls this function.
    unsafe { ALL.lock().controllers.notify_end_of_interrupt(irq.vector()) };
    console::draw_after_interrupt();
}

/// Returns whether a controller has raised the interrupt although its line became inactive before
/// the CPU answered. Only the last line of each controller is raised that way. Such an interrupt is
/// not in service, and ends without a command, apart from that of the line between the controllers.
#[cfg(target_os = "none")]
fn is_spurious(irq: Irq) -> bool {
    /// The command to read the interrupts in service.
    const READ_IN_SERVICE: u8 = 0x0b;

    let command = match irq.line() {
        7 => 0x20,
        15 => 0xa0,
        _ => return false,
    };
    let mut lines = ALL.lock();
    let mut port = Port::<u8>::new(command);
    // SAFETY: this is the command port of a controller, and the lock of both is held.
    unsafe { port.write(READ_IN_SERVICE) };
    // SAFETY: the command before makes the port return the interrupts in service.
    let in_service = unsafe { port.read() };
    let is_spurious = in_service & 0x80 == 0;
    if is_spurious && irq.line() == 15 {
        // SAFETY: the first controller has the line of the second one in service.
        unsafe {
            lines
                .controllers
                .notify_end_of_interrupt(FIRST_VECTOR + Irq::CASCADE);
        }
    }
    is_spurious
}

#[cfg(test)]
mod tests {
    use super::{Irq, LINES, masks};

    #[test]
    fn a_line_has_a_number_that_a_device_can_have() {
        assert_eq!(Irq::new(1), Some(Irq::KEYBOARD));
        assert_eq!(Irq::new(15).map(Irq::vector), Some(47));
        for line in [0, 2, 16, 255] {
            assert_eq!(Irq::new(line), None, "{line}");
        }
    }

    #[test]
    fn lines_with_a_handler_are_open_and_the_cascade_if_needed() {
        fn handler() {}

        let masks_with = |lines: &[usize]| {
            let mut handlers: [Option<fn()>; LINES] = [None; LINES];
            for &line in lines {
                handlers[line] = Some(handler);
            }
            masks(&handlers)
        };
        assert_eq!(masks_with(&[]), [0xff, 0xff]);
        assert_eq!(masks_with(&[0, 1, 7]), [!0b1000_0011, 0xff]);
        assert_eq!(masks_with(&[8]), [!0b100, !1]);
        assert_eq!(masks_with(&[4, 12, 15]), [!0b1_0100, !0b1001_0000]);
    }
}
