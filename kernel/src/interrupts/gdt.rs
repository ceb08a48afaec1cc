//! Each CPU's global descriptor table and task state segment, which names its interrupt stacks.

use spin::Once;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use crate::cpus::MAX_CPUS;
use crate::memory::stacks;

/// The global descriptor table and the selectors of its entries.
struct Gdt {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

/// The task state segment and the table of each CPU.
static TASK_STATES: [Once<TaskStateSegment>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
static TABLES: [Once<Gdt>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Loads the table of the CPU `number`, which runs this code, its segment registers and its task
/// register.
pub(super) fn init(number: usize) {
    let task_state = TASK_STATES[number].call_once(|| {
        let mut task_state = TaskStateSegment::new();
        for (index, top) in stacks::interrupt_stack_tops(number).into_iter().enumerate() {
            task_state.interrupt_stack_table[index] = top;
        }
        task_state
    });
    let gdt = TABLES[number].call_once(|| {
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
    // stacks in the segment are never freed, and only this CPU has them.
    unsafe { load_tss(gdt.task) };
}
