//! Reports of the exceptions that end the kernel.

use core::fmt;

use x86_64::VirtAddr;
use x86_64::structures::idt::{InterruptStackFrame, PageFaultErrorCode};

use crate::backtrace::{self, Frames};
use crate::exit::{ExitCode, exit};
use crate::memory::address_kind::{AddressKind, kind_of};
use crate::panic::{Crash, begin_crash, call_crash_hook};
use crate::serial::{print_unlocked, println_unlocked};

/// An exception that no handler repairs.
pub(super) struct Fault<'a> {
    pub cause: Cause,
    pub frame: &'a InterruptStackFrame,
}

/// The kind of exception.
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
    pub(crate) fn report_and_exit(self) -> ! {
        begin_crash(Crash::Fault, &self.cause);
        // The facts from the CPU come first. The kind of address is looked up in tables of the
        // kernel, and damaged tables may be the cause of the fault.
        print_unlocked(format_args!("{}", self.cause));
        let address_kind = self.cause.address_kind();
        let report = Report {
            cause: &self.cause,
            address_kind,
        };
        println_unlocked!("{}", Suffix(address_kind));
        println_unlocked!(
            "  instruction {:#x}, stack {:#x}, flags {:?}",
            self.frame.instruction_pointer,
            self.frame.stack_pointer,
            self.frame.cpu_flags
        );
        let [instruction, stack] = [self.frame.instruction_pointer, self.frame.stack_pointer]
            .map(|address| address.as_u64() as usize);
        backtrace::print(Some(instruction), Frames::of_interrupted(stack));
        call_crash_hook(Crash::Fault, &report);
        exit(ExitCode::Faulted)
    }
}

impl Cause {
    /// Looks up what the address of a page fault belongs to. Other exceptions have no address.
    fn address_kind(&self) -> Option<AddressKind> {
        match self {
            Self::Page(fault) => Some(kind_of(fault.address)),
            Self::Exception { .. } => None,
        }
    }
}

/// A cause together with the kind of its address.
struct Report<'a> {
    cause: &'a Cause,
    address_kind: Option<AddressKind>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.cause, Suffix(self.address_kind))
    }
}

/// The end of a report: the kind of the address, if the fault has an address.
struct Suffix(Option<AddressKind>);

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(kind) => write!(f, "; {kind}"),
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
            "mapped, but not for this access"
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
