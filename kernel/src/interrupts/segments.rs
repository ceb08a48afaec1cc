//! The global descriptor table, the task state segment, and the stacks that it names.

use core::cell::UnsafeCell;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::paging::{Page, Size4KiB};
use x86_64::structures::tss::TaskStateSegment;

const PAGE_SIZE: usize = 4096;

/// Enough for a report with all its formatting, several times over.
const STACK_PAGES: usize = 8;

/// The exceptions that must not use the stack they interrupt: it may be the stack that is broken.
/// The number is the place in the interrupt stack table.
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
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::DoubleFault,
        Self::PageFault,
        Self::NonMaskable,
        Self::MachineCheck,
    ];

    /// Its place in the interrupt stack table.
    pub const fn index(self) -> u16 {
        self as u16
    }

    /// The page below it, whose first touch shows that the stack is too small. It is mapped until
    /// the page tables are in the kernel's hands.
    pub fn guard(self) -> Page<Size4KiB> {
        let address = VirtAddr::from_ptr(&raw const STACKS[self as usize].guard);
        Page::containing_address(address)
    }

    fn top(self) -> VirtAddr {
        let stack = &STACKS[self as usize];
        VirtAddr::from_ptr(stack.memory.get()) + size_of_val(&stack.memory) as u64
    }
}

/// A stack that grows down towards its guard page.
#[repr(C, align(4096))]
struct Stack {
    guard: UnsafeCell<[u8; PAGE_SIZE]>,
    memory: UnsafeCell<[u8; STACK_PAGES * PAGE_SIZE]>,
}

// SAFETY: only the CPU writes to it, while it handles an exception on it.
unsafe impl Sync for Stack {}

static STACKS: [Stack; InterruptStack::ALL.len()] = [const {
    Stack {
        guard: UnsafeCell::new([0; PAGE_SIZE]),
        memory: UnsafeCell::new([0; STACK_PAGES * PAGE_SIZE]),
    }
}; InterruptStack::ALL.len()];

struct Segments {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

static TASK_STATE: Once<TaskStateSegment> = Once::new();
static SEGMENTS: Once<Segments> = Once::new();

pub(super) fn init() {
    let task_state = TASK_STATE.call_once(|| {
        let mut task_state = TaskStateSegment::new();
        for stack in InterruptStack::ALL {
            task_state.interrupt_stack_table[stack as usize] = stack.top();
        }
        task_state
    });
    let segments = SEGMENTS.call_once(|| {
        let mut table = GlobalDescriptorTable::new();
        Segments {
            code: table.append(Descriptor::kernel_code_segment()),
            data: table.append(Descriptor::kernel_data_segment()),
            task: table.append(Descriptor::tss_segment(task_state)),
            table,
        }
    });
    segments.table.load();
    // SAFETY: the selectors are of the table that was just loaded, each for its kind of segment,
    // and the task state segment names stacks that live forever.
    unsafe {
        CS::set_reg(segments.code);
        SS::set_reg(segments.data);
        DS::set_reg(segments.data);
        ES::set_reg(segments.data);
        load_tss(segments.task);
    }
}
