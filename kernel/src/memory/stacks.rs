//! The stacks: the one that the kernel boots on, and the interrupt stacks, for exceptions that must
//! not run on the stack they interrupt.
//!
//! ```text
//! low addresses                                  high addresses
//! ├──── guard page ────┼──────────── memory, 8 pages ─────────┤
//!                      ◄──────────────────────── the stack grows down from `top`
//! ```

use core::cell::UnsafeCell;
use core::ops::Range;

use bootloader_api::BootInfo;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, Size4KiB};

use super::PAGE_SIZE;

/// The size of one stack, without its guard page: several times what a formatted report needs.
const STACK_PAGES: usize = 8;

/// An exception with a stack of its own, because the stack that it interrupts may be broken.
/// The discriminant is the index in the interrupt stack table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptStack {
    /// For double faults.
    DoubleFault,
    /// For page faults.
    PageFault,
    /// For non-maskable interrupts.
    NonMaskable,
    /// For machine checks.
    MachineCheck,
}

impl InterruptStack {
    /// All interrupt stacks, in the order of their indices.
    pub const ALL: [Self; 4] = [
        Self::DoubleFault,
        Self::PageFault,
        Self::NonMaskable,
        Self::MachineCheck,
    ];

    /// Returns the index in the interrupt stack table.
    pub const fn index(self) -> u16 {
        self as u16
    }

    /// Returns the guard page below the stack: a stack overflow faults there.
    ///
    /// The page is mapped until `memory::init` takes over the page tables.
    pub fn guard(self) -> Page<Size4KiB> {
        let address = VirtAddr::from_ptr(&raw const STACKS[self as usize].guard);
        Page::containing_address(address)
    }

    /// Returns the address that the stack grows down from.
    pub(crate) fn top(self) -> VirtAddr {
        let stack = &STACKS[self as usize];
        VirtAddr::from_ptr(stack.memory.get()) + size_of_val(&stack.memory) as u64
    }
}

/// The addresses of the stack that the kernel boots on.
static BOOT_STACK: Once<Range<usize>> = Once::new();

/// Stores where the boot stack is.
pub(crate) fn init(boot_info: &BootInfo) {
    BOOT_STACK.call_once(|| {
        let bottom = boot_info.kernel_stack_bottom as usize;
        bottom..bottom + boot_info.kernel_stack_len as usize
    });
}

/// Returns the addresses of the boot stack. `None` before [`init`].
pub(crate) fn boot_stack() -> Option<Range<usize>> {
    BOOT_STACK.get().cloned()
}

/// Returns the addresses of the stack that contains `address`, or ends there: the stack pointer of
/// an empty stack.
pub(crate) fn stack_of(address: usize) -> Option<Range<usize>> {
    let interrupt_stacks = InterruptStack::ALL.into_iter().map(|stack| {
        let top = stack.top().as_u64() as usize;
        top - STACK_PAGES * PAGE_SIZE..top
    });
    boot_stack()
        .into_iter()
        .chain(interrupt_stacks)
        .find(|stack| (stack.start..=stack.end).contains(&address))
}

/// A stack and the guard page below it.
#[repr(C, align(4096))]
struct Stack {
    guard: UnsafeCell<[u8; PAGE_SIZE]>,
    memory: UnsafeCell<[u8; STACK_PAGES * PAGE_SIZE]>,
}

// SAFETY: no Rust code reads or writes the cells. Only the CPU does, while it handles the one
// exception that uses this stack.
unsafe impl Sync for Stack {}

static STACKS: [Stack; InterruptStack::ALL.len()] = [const {
    Stack {
        guard: UnsafeCell::new([0; PAGE_SIZE]),
        memory: UnsafeCell::new([0; STACK_PAGES * PAGE_SIZE]),
    }
}; InterruptStack::ALL.len()];
