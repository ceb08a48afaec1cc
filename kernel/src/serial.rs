//! The serial port COM1: output to the host, and its input. The [`console`] shows the same text.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use heap_x86_64::smp;
use kernel_protocol::record::{END_OF_INPUT, Record};
use uart_16550::{Config, Uart16550, backend::PioBackend};

use crate::console;
use crate::sync::{InterruptMutex, InterruptMutexGuard};

const COM1: u16 = 0x3f8;

static SERIAL: InterruptMutex<Option<Serial>> = InterruptMutex::new(None);
/// Whether the last character that was sent was no line break.
static WITHIN_LINE: AtomicBool = AtomicBool::new(false);
/// See [`set_host`].
static HAS_HOST: AtomicBool = AtomicBool::new(false);

/// A writer to the port. Lines end with `\n`, without `\r`.
struct Serial {
    port: Uart16550<PioBackend>,
}

impl Serial {
    /// Returns a writer to the port, without changing the settings of the port.
    ///
    /// # Safety
    /// The caller may change the settings of the port only while no other writer exists. Without
    /// the lock, the output of other writers may come between the bytes of this one.
    unsafe fn attach() -> Self {
        // SAFETY: on every PC these ports are the registers of COM1, or belong to no device.
        let port = unsafe { Uart16550::new_port(COM1) };
        Self {
            port: port.expect("COM1 is a valid port"),
        }
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.is_empty() {
            // A crash of another CPU may end this one before all is sent.
            WITHIN_LINE.store(true, Ordering::Relaxed);
        }
        self.port.send_bytes_exact(text.as_bytes());
        if let Some(&last) = text.as_bytes().last() {
            WITHIN_LINE.store(last != b'\n', Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Initialises the port. Earlier output is lost.
pub(crate) fn init() {
    let mut serial = SERIAL.lock();
    // SAFETY: the lock is held, so that no other writer exists while the settings change.
    let mut com1 = unsafe { Serial::attach() };
    // Without a serial port the kernel runs without output.
    if com1.port.init(Config::default()).is_ok() {
        *serial = Some(com1);
    }
}

/// Prints to the serial port and the screen, for [`print!`](crate::print).
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments) {
    // Sending cannot fail. If a `Display` fails, its output so far is printed.
    let _ = Both(SERIAL.lock()).write_fmt(arguments);
    console::draw();
}

/// Writes to the serial port, and to the queue of the console.
struct Both<'a>(InterruptMutexGuard<'a, Option<Serial>>);

impl Write for Both<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(serial) = self.0.as_mut() {
            serial.write_str(text)?;
        }
        console::enqueue(text);
        Ok(())
    }
}

/// Notes whether the host program reads the output. Otherwise a person does, and no records are
/// sent.
pub(crate) fn set_host(has_host: bool) {
    HAS_HOST.store(has_host, Ordering::Relaxed);
}

/// Sends `record` to the host, on a line of its own. The screen does not show it.
pub(crate) fn print_record(record: Record<'_>) {
    if !HAS_HOST.load(Ordering::Relaxed) {
        return;
    }
    if let Some(serial) = SERIAL.lock().as_mut() {
        if WITHIN_LINE.load(Ordering::Relaxed) {
            let _ = serial.write_str("\n");
        }
        let _ = writeln!(serial, "{record}");
    }
}

/// Prints without taking the lock, for panics and faults: the interrupted code may hold the lock.
/// Output of other CPUs may come in between.
#[doc(hidden)]
pub fn print_unlocked(arguments: fmt::Arguments) {
    send_unlocked(arguments);
    console::print_unlocked(arguments);
}

/// Prints to the serial port alone, without taking the lock.
pub(crate) fn send_unlocked(arguments: fmt::Arguments) {
    // SAFETY: this function writes bytes, and changes no settings.
    let mut serial = unsafe { Serial::attach() };
    let _ = serial.write_fmt(arguments);
}

/// Ends a line on the serial port that has begun, without taking the lock: a crash begins a new
/// one.
pub(crate) fn end_line_unlocked() {
    if WITHIN_LINE.load(Ordering::Relaxed) {
        send_unlocked(format_args!("\n"));
    }
}

/// Prints the address of `times` frames of a backtrace, without taking the lock.
pub(crate) fn print_frame_unlocked(address: u64, times: usize) {
    let has_host = HAS_HOST.load(Ordering::Relaxed);
    if has_host {
        send_unlocked(format_args!("{}\n", Record::Frame { address, times }));
    }
    let print = if has_host {
        console::print_unlocked
    } else {
        print_unlocked
    };
    print(format_args!("  at {address:#x}"));
    if times > 1 {
        print(format_args!(", {times} times"));
    }
    print(format_args!("\n"));
}

/// Tells the host that the kernel is about to end, and waits for a byte from it. Takes no lock, for
/// panics and faults.
pub(crate) fn hold_unlocked() {
    // The output so far may have ended within a line.
    send_unlocked(format_args!("\n{}\n", Record::Hold));
    // SAFETY: this function reads a byte, and changes no settings.
    let mut serial = unsafe { Serial::attach() };
    while serial.port.try_receive_byte().is_err() {
        core::hint::spin_loop();
    }
}

/// Waits for a byte from the host, with interrupts as they are.
///
/// Without a port, the input is at its end: [`END_OF_INPUT`].
pub fn read_byte() -> u8 {
    loop {
        match try_read_byte() {
            Some(byte) => return byte,
            None => smp::serve_while_waiting(),
        }
        core::hint::spin_loop();
    }
}

/// Returns a byte if the host has sent one. Without a port, the input is at its end.
pub fn try_read_byte() -> Option<u8> {
    match SERIAL.lock().as_mut() {
        Some(serial) => serial.port.try_receive_byte().ok(),
        None => Some(END_OF_INPUT),
    }
}

/// Prints to the serial port, with interrupts masked, and to the screen.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::serial::print(::core::format_args!($($argument)*))
    };
}

/// Prints a line to the serial port, with interrupts masked, and to the screen.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        // The line break goes into the same call, so that no other output comes in between.
        $crate::serial::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}

/// Prints a line without taking the lock, for panics and faults.
macro_rules! println_unlocked {
    ($($argument:tt)*) => {
        $crate::serial::print_unlocked(
            ::core::format_args!("{}\n", ::core::format_args!($($argument)*))
        )
    };
}
pub(crate) use println_unlocked;
