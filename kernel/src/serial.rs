//! The serial port COM1: what the kernel says, and what the host types.

use core::fmt::{self, Write};

use kernel_protocol::record::END_OF_INPUT;
use uart_16550::{Config, Uart16550, backend::PioBackend};

use crate::sync::InterruptMutex;

const COM1: u16 = 0x3f8;

static SERIAL: InterruptMutex<Option<Serial>> = InterruptMutex::new(None);

/// A writer to the port. Lines end with `\n` alone.
struct Serial {
    port: Uart16550<PioBackend>,
    /// Whether the last character was not the end of a line.
    within_line: bool,
}

impl Serial {
    /// The port as it was set up before.
    ///
    /// # Safety
    /// Between the bytes that are written may come what others write; nothing else goes wrong.
    /// But the settings of the port are not to be changed while others use it.
    unsafe fn attach() -> Self {
        // SAFETY: COM1 has all its registers at these ports on every PC.
        let port = unsafe { Uart16550::new_port(COM1) };
        Self {
            port: port.expect("COM1 is a valid port"),
            within_line: false,
        }
    }
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.port.send_bytes_exact(text.as_bytes());
        if let Some(&last) = text.as_bytes().last() {
            self.within_line = last != b'\n';
        }
        Ok(())
    }
}

/// Sets up the port. What is printed before is lost.
pub(crate) fn init() {
    let mut serial = SERIAL.lock();
    // SAFETY: the settings change under the lock, and nothing was printed yet.
    let mut com1 = unsafe { Serial::attach() };
    // A machine without a serial port has nobody to tell.
    if com1.port.init(Config::default()).is_ok() {
        *serial = Some(com1);
    }
}

/// Prints to the serial port, for [`print!`](crate::print).
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments) {
    if let Some(serial) = SERIAL.lock().as_mut() {
        // Sending cannot fail; a `Display` that says it failed has printed what it could.
        let _ = serial.write_fmt(arguments);
    }
}

/// Prints from the beginning of a line on.
pub(crate) fn print_on_fresh_line(arguments: fmt::Arguments) {
    if let Some(serial) = SERIAL.lock().as_mut() {
        if serial.within_line {
            let _ = serial.write_str("\n");
        }
        let _ = serial.write_fmt(arguments);
    }
}

/// Prints without taking the lock, for panics and faults: the code that is interrupted for good may
/// hold it. Text that another CPU prints meanwhile is mixed with this.
#[doc(hidden)]
pub fn print_unlocked(arguments: fmt::Arguments) {
    // SAFETY: only bytes are written.
    let mut serial = unsafe { Serial::attach() };
    let _ = serial.write_fmt(arguments);
}

/// Waits for a line from the host; `None` at the end of its input. What is not printable ASCII is
/// read as `?`, and what does not fit into the buffer is left out.
pub fn read_line(buffer: &mut [u8]) -> Option<&str> {
    let mut length = 0;
    loop {
        match read_byte() {
            END_OF_INPUT => return None,
            b'\r' => {}
            b'\n' => break,
            byte => {
                if let Some(place) = buffer.get_mut(length) {
                    let printable = byte == b' ' || byte.is_ascii_graphic();
                    *place = if printable { byte } else { b'?' };
                    length += 1;
                }
            }
        }
    }
    core::str::from_utf8(&buffer[..length]).ok()
}

fn read_byte() -> u8 {
    loop {
        match try_read_byte() {
            Some(byte) => return byte,
            None => core::hint::spin_loop(),
        }
    }
}

/// A byte that the host has sent, if there is one. Without a port, its input is at its end.
pub(crate) fn try_read_byte() -> Option<u8> {
    match SERIAL.lock().as_mut() {
        Some(serial) => serial.port.try_receive_byte().ok(),
        None => Some(END_OF_INPUT),
    }
}

/// Prints to the serial port, with interrupts masked.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::serial::print(::core::format_args!($($argument)*))
    };
}

/// Prints a line to the serial port, with interrupts masked.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        // The newline goes into the same call: nobody else's text comes between.
        $crate::serial::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}

/// Prints a line where a panic or a fault ends the kernel.
macro_rules! println_unlocked {
    ($($argument:tt)*) => {
        $crate::serial::print_unlocked(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
pub(crate) use println_unlocked;
