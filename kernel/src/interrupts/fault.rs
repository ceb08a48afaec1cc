//! What is said about an exception that ends the kernel.

use core::fmt;

use x86_64::VirtAddr;
use x86_64::structures::idt::{InterruptStackFrame, PageFaultErrorCode};

use crate::exit::{ExitCode, exit};
use crate::memory::place::{Place, place_of};
use crate::panic::begin_to_die;
use crate::serial::println_unlocked;
use crate::testing::{self, Death};

/// An exception that nothing repairs.
pub(super) struct Fault<'a> {
    pub cause: Cause,
    pub frame: &'a InterruptStackFrame,
}

/// Which exception it was.
pub(super) enum Cause {
    Page(PageFault),
    Exception {
        name: &'static str,
        code: Option<u64>,
    },
}

/// An access that the page tables do not allow.
pub(super) struct PageFault {
    address: VirtAddr,
    code: PageFaultErrorCode,
    place: Place,
}

impl Fault<'_> {
    /// Reports the fault and ends the kernel. Waits for no lock and allocates nothing.
    pub fn die(self) -> ! {
        begin_to_die(ExitCode::Faulted);
        println_unlocked!("{self}");
        println_unlocked!(
            "  instruction {:#x}, stack {:#x}, flags {:?}",
            self.frame.instruction_pointer,
            self.frame.stack_pointer,
            self.frame.cpu_flags
        );
        testing::died(Death::Fault, &self);
        exit(ExitCode::Faulted)
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Page(fault) => fault.fmt(f),
            Cause::Exception {
                name,
                code: Some(code),
            } => write!(f, "{name}, error code {code:#x}"),
            Cause::Exception { name, code: None } => f.write_str(name),
        }
    }
}

impl PageFault {
    pub fn new(address: VirtAddr, code: PageFaultErrorCode) -> Self {
        Self {
            address,
            code,
            place: place_of(address),
        }
    }
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.code.contains(PageFaultErrorCode::INSTRUCTION_FETCH) {
            "execute"
        } else if self.code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
            "write to"
        } else {
            "read from"
        };
        let reason = if self.code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
            "reserved bits are set in its page table entry"
        } else if self.code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) {
            "mapped, but not for that"
        } else {
            "not mapped"
        };
        write!(
            f,
            "page fault: cannot {access} {:#x}: {reason}; {}",
            self.address, self.place
        )
    }
}
