//! What an address belongs to, for reports of faults. Locks are only tried here.

use core::fmt;
use core::ops::Range;

use bootloader_api::BootInfo;
use spin::Once;
use x86_64::VirtAddr;

use super::frames::FRAME_SIZE;
use crate::interrupts::segments::InterruptStack;

/// Where the boot stack is.
static BOOT_STACK: Once<Range<u64>> = Once::new();

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first page, which is where null pointers with an offset lead.
    Null,
    /// The stack that the kernel runs on.
    BootStack,
    /// The guard page below the stack that the kernel runs on.
    BootStackGuard,
    /// The guard page below the stack for some exceptions.
    InterruptStackGuard(InterruptStack),
    /// None of these.
    Unknown,
}

pub(super) fn init(boot_info: &BootInfo) {
    BOOT_STACK.call_once(|| {
        let bottom = boot_info.kernel_stack_bottom;
        bottom..bottom + boot_info.kernel_stack_len
    });
}

/// What `address` belongs to.
pub fn place_of(address: VirtAddr) -> Place {
    if address.as_u64() < FRAME_SIZE {
        return Place::Null;
    }
    if let Some(stack) = BOOT_STACK.get() {
        if stack.contains(&address.as_u64()) {
            return Place::BootStack;
        }
        if (stack.start - FRAME_SIZE..stack.start).contains(&address.as_u64()) {
            return Place::BootStackGuard;
        }
    }
    for stack in InterruptStack::ALL {
        if stack.guard().start_address() == address.align_down(FRAME_SIZE) {
            return Place::InterruptStackGuard(stack);
        }
    }
    Place::Unknown
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("in the page at address 0"),
            Self::BootStack => f.write_str("in the kernel's stack"),
            Self::BootStackGuard => f.write_str("in the guard page below the kernel's stack"),
            Self::InterruptStackGuard(stack) => {
                write!(f, "in the guard page below the stack for {stack:?}")
            }
            Self::Unknown => f.write_str("nothing that the kernel knows of"),
        }
    }
}
