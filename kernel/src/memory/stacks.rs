//! The stacks: the one that the kernel boots on, those of the other CPUs, and each CPU's interrupt
//! stacks, for exceptions that must not run on the stack they interrupt.
//!
//! ```text
//! low addresses                                  high addresses
//! ├──── guard page ────┼──────────── memory, 8 pages ─────────┤
//!                      ◄──────────────────────── the stack grows down from `top`
//! ```
//!
//! The interrupt stacks of the CPU that boots are a part of the kernel's image. All stacks of
//! another CPU are ranges of pages of their own in the heap's window, each of which has a guard
//! page on either side.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Range;

use bootloader_api::BootInfo;
use heap::vmem::AllocPolicy;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, Size4KiB};

use super::{PAGE_SIZE, heap_pages_arena};
use crate::cpus::{BOOT_CPU, MAX_CPUS};

/// The size of one interrupt stack, without its guard page: several times what a formatted report
/// needs.
const STACK_PAGES: usize = 8;

/// The size of the stack of a CPU in bytes.
pub(crate) const CPU_STACK: usize = 256 * 1024;

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

    /// Returns the addresses of this stack of the CPU that boots.
    fn in_image(self) -> Range<usize> {
        let memory = &STACKS[self as usize].memory;
        let bottom = memory.get().addr();
        bottom..bottom + size_of_val(memory)
    }
}

/// The stacks of one of the other CPUs: the interrupt stacks, then the one that it runs on.
///
/// They are allocated in this order, before the heap has any pages. So nothing lies above the
/// heap's first pages, which can grow there, and the pages around main stacks are guard pages of
/// stacks alone.
#[derive(Debug)]
struct CpuStacks([Range<usize>; InterruptStack::ALL.len() + 1]);

/// What a stack is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackKind {
    /// The code that runs on a CPU.
    Cpu(
        /// The number of the CPU.
        usize,
    ),
    /// An exception.
    Interrupt(InterruptStack),
}

impl fmt::Display for StackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(BOOT_CPU) => f.write_str("kernel's stack"),
            Self::Cpu(number) => write!(f, "stack of CPU {number}"),
            Self::Interrupt(stack) => write!(f, "stack for {stack:?}"),
        }
    }
}

/// The stacks of the other CPUs.
static CPU_STACKS: [Once<CpuStacks>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Allocates the stacks of the CPU `number`, if it has none yet, and returns the address that the
/// main one grows down from.
///
/// # Errors
/// Returns an error if there is not enough memory. Nothing is allocated then.
pub(crate) fn allocate(number: usize) -> Result<VirtAddr, heap::vmem::Error> {
    let stacks = match CPU_STACKS[number].get() {
        Some(stacks) => stacks,
        None => {
            let stacks = CpuStacks::allocate()?;
            CPU_STACKS[number].call_once(|| stacks)
        }
    };
    let [.., main] = &stacks.0;
    Ok(VirtAddr::new(main.end as u64))
}

/// Returns the addresses that the interrupt stacks of the CPU `number` grow down from.
pub(crate) fn interrupt_stack_tops(number: usize) -> [VirtAddr; InterruptStack::ALL.len()] {
    let stacks = CPU_STACKS[number].get();
    InterruptStack::ALL.map(|stack| {
        let end = stacks.map_or(stack.in_image().end, |CpuStacks(stacks)| {
            stacks[stack as usize].end
        });
        VirtAddr::new(end as u64)
    })
}

/// Returns the bytes of "heap pages" that are stacks.
pub fn allocated() -> usize {
    let stacks = CPU_STACKS.iter().filter_map(Once::get);
    let stacks = stacks.flat_map(|CpuStacks(stacks)| stacks);
    stacks.map(|stack| stack.end - stack.start).sum()
}

impl CpuStacks {
    fn allocate() -> Result<Self, heap::vmem::Error> {
        // SAFETY: the segments that are freed here were allocated here, and nothing uses them yet.
        let pages = unsafe { heap_pages_arena() };
        let mut stacks = [const { 0..0 }; InterruptStack::ALL.len() + 1];
        for index in 0..stacks.len() {
            let is_main = index == InterruptStack::ALL.len();
            let size = if is_main {
                CPU_STACK
            } else {
                STACK_PAGES * PAGE_SIZE
            };
            match pages.alloc(size, AllocPolicy::InstantFit) {
                Ok(base) => stacks[index] = base..base + size,
                Err(error) => {
                    for stack in &stacks[..index] {
                        // An arena does not refuse to free what it has just allocated.
                        let _ = pages.free(stack.start);
                    }
                    return Err(error);
                }
            }
        }
        Ok(Self(stacks))
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

/// Returns all stacks, and what they are for.
fn stacks() -> impl Iterator<Item = (StackKind, Range<usize>)> {
    let boot = boot_stack().map(|stack| (StackKind::Cpu(BOOT_CPU), stack));
    let in_image = InterruptStack::ALL.map(|stack| (StackKind::Interrupt(stack), stack.in_image()));
    let others = (0..MAX_CPUS).filter_map(|number| Some((number, CPU_STACKS[number].get()?)));
    let others = others.flat_map(|(number, CpuStacks(stacks))| {
        let kinds = InterruptStack::ALL
            .map(StackKind::Interrupt)
            .into_iter()
            .chain([StackKind::Cpu(number)]);
        kinds.zip(stacks.iter().cloned())
    });
    boot.into_iter().chain(in_image).chain(others)
}

/// Returns what the stack with `address` is for.
pub fn kind_of_stack(address: usize) -> Option<StackKind> {
    let (kind, _) = stacks().find(|(_, stack)| stack.contains(&address))?;
    Some(kind)
}

/// Returns the addresses of the stack that contains `address`, or ends there: the stack pointer of
/// an empty stack.
pub(crate) fn stack_of(address: usize) -> Option<Range<usize>> {
    let (_, stack) = stacks().find(|(_, stack)| (stack.start..=stack.end).contains(&address))?;
    Some(stack)
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
