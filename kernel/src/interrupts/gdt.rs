//! The global descriptor table and the task state segment, which names the interrupt stacks.

use spin::Once;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use crate::memory::stacks::InterruptStack;

/// The global descriptor table and the selectors of its entries.
struct Gdt {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

static TASK_STATE: Once<TaskStateSegment> = Once::new();
static GDT: Once<Gdt> = Once::new();

/// Loads the table, the segment registers and the task register.
pub(super) fn init() {
    let task_state = TASK_STATE.call_once(|| {
        let mut task_state = TaskStateSegment::new();
        for stack in InterruptStack::ALL {
            task_state.interrupt_stack_table[stack as usize] = stack.top();
        }
        task_state
    });
    let gdt = GDT.call_once(|| {
        let mut table = GlobalDescriptorTable::new();
        Gdt {
            code: table.append(Descriptor::kernel_code_segment()),
            data: table.append(Descriptor::kernel_data_segment()),
            task: table.append(Descriptor::tss_segment(task_state)),
            table,
        }
    });
    gdt.table.load();
    // SAFETY: the selector names the code segment of 64-bit mode in the table that was just loaded.
    unsafe { CS::set_reg(gdt.code) };
    let set_data_registers: [unsafe fn(SegmentSelector); 3] =
        [SS::set_reg, DS::set_reg, ES::set_reg];
    for set in set_data_registers {
        // SAFETY: the selector names a writable data segment in the table that was just loaded.
        unsafe { set(gdt.data) };
    }
    // SAFETY: the selector names the task state segment in the table that was just loaded. The
    // stacks in the segment are statics: they live for ever.
    unsafe { load_tss(gdt.task) };
}
