//! What is said about an exception that ends the kernel.

use core::fmt;

use x86_64::VirtAddr;
use x86_64::structures::idt::{InterruptStackFrame, PageFaultErrorCode};

use crate::exit::{ExitCode, exit};
use crate::memory::place::{Place, place_of};
use crate::panic::begin_to_die;
use crate::serial::{print_unlocked, println_unlocked};
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
    pub address: VirtAddr,
    pub code: PageFaultErrorCode,
}

impl Fault<'_> {
    /// Reports the fault and ends the kernel. Waits for no lock and allocates nothing.
    pub fn die(self) -> ! {
        begin_to_die(Death::Fault, &self.cause);
        // What the CPU says comes first. Looking up what the address belongs to reads the tables of the
        // kernel, and damage to them may be what it dies of.
        print_unlocked(format_args!("{}", self.cause));
        let place = self.cause.place();
        let report = Report {
            cause: &self.cause,
            place,
        };
        println_unlocked!("{}", AtPlace(place));
        println_unlocked!(
            "  instruction {:#x}, stack {:#x}, flags {:?}",
            self.frame.instruction_pointer,
            self.frame.stack_pointer,
            self.frame.cpu_flags
        );
        testing::died(Death::Fault, &report);
        exit(ExitCode::Faulted)
    }
}

impl Cause {
    /// What the address of a page fault belongs to.
    fn place(&self) -> Option<Place> {
        match self {
            Self::Page(fault) => Some(place_of(fault.address)),
            Self::Exception { .. } => None,
        }
    }
}

/// A cause, with what the address belongs to.
struct Report<'a> {
    cause: &'a Cause,
    place: Option<Place>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.cause, AtPlace(self.place))
    }
}

/// The end of a report: the place, if there is one.
struct AtPlace(Option<Place>);

impl fmt::Display for AtPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(place) => write!(f, "; {place}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(fault) => fault.fmt(f),
            Self::Exception {
                name,
                code: Some(code),
            } => write!(f, "{name}, error code {code:#x}"),
            Self::Exception { name, code: None } => f.write_str(name),
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
            "page fault: cannot {access} {:#x}: {reason}",
            self.address
        )
    }
}
