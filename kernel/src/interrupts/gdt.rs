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
    // SAFETY: each selector names an entry of the matching kind in the table that was just loaded.
    // The stacks in the task state segment are statics: they live for ever.
    unsafe {
        CS::set_reg(gdt.code);
        SS::set_reg(gdt.data);
        DS::set_reg(gdt.data);
        ES::set_reg(gdt.data);
        load_tss(gdt.task);
    }
}
